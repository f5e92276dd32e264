"""The workers that `hivectl up` runs on its own machine: child processes, so that a control plane that dies or is
restarted takes no task with it.
"""

import asyncio
import contextlib
import os
import signal
import sys

import structlog

from infra.folder import Folder

RESTART_S_MIN, RESTART_S_MAX = 0.5, 30.0
IDENTITY_TAKEN = 3

_log = structlog.get_logger()


class LocalWorkers:
    """Keeps `count` agents running."""

    def __init__(self, folder: Folder, url: str, count: int) -> None:
        self._folder, self._url, self._count = folder, url, count
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Start them; each is started again when it ends by itself."""
        self._tasks = [asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)]

    def running(self) -> int:
        """How many run now."""
        return sum(process.returncode is None for process in self._processes.values())

    async def _keep(self, number: int) -> None:
        pause = RESTART_S_MIN
        while not self._stopping:
            state = self._folder.path("workers", f"local-{number}")
            # The key is not on the command line: the agent finds it in the data folder.
            process = self._processes[number] = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "services.cli.main", "worker", "run", "--name", f"local-{number}", "--state", str(state)),
                env={**os.environ, "HIVE_DATA": str(self._folder.root), "HIVE_URL": self._url},
                start_new_session=True,
            )
            began = asyncio.get_running_loop().time()
            code = await process.wait()
            if self._stopping:
                return
            _log.warning("local_worker.ended", number=number, code=code)
            if asyncio.get_running_loop().time() - began > RESTART_S_MAX:
                pause = RESTART_S_MIN
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART_S_MAX)

    async def stop(self, now: asyncio.Event) -> None:
        """Let them finish what runs, or end it as soon as `now` is set."""
        self._stopping = True
        self._signal()
        ended = asyncio.gather(*(process.wait() for process in self._processes.values()))
        hurry = asyncio.ensure_future(now.wait())
        await asyncio.wait((ended, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            self._signal()
        await ended
        hurry.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _signal(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
