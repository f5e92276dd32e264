"""The workers that `hivectl up` runs on its own machine: child processes, so that a control plane that dies or is
restarted takes no task with it. The next `up` adopts those that a killed one left, with the tasks they run.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from signal import pidfd_send_signal
from typing import Protocol

import msgspec
import structlog

from events.base import JobId, WorkerId
from infra.folder import Folder
from services.pool.state import Pool

RESTART_S_MIN, RESTART_S_MAX = 0.5, 30.0
NAMED_MAX = 3
"""How many tasks are named when they are waited for."""

_log = structlog.get_logger()


class _Answer(msgspec.Struct, frozen=True, gc=False):
    worker: WorkerId = ""


class _Enrolment(msgspec.Struct, frozen=True, gc=False):
    """What a worker keeps of its enrolment: here, at which address it knows the API, and its id."""

    url: str = ""
    answer: _Answer = _Answer()


_enrolment_of = msgspec.json.Decoder(_Enrolment).decode


class _Worker(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int) -> None: ...


class _Adopted:
    """A worker that an `up` before this one started. Its exit code is not ours to know: 0 stands for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._handle, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        self.returncode = 0
        self._ended.set()

    async def wait(self) -> int:
        """Wait until it has ended."""
        await self._ended.wait()
        return 0

    def send_signal(self, signal: int) -> None:
        """Signal this very process, whatever has its number now."""
        pidfd_send_signal(self._handle, signal)


def running_on(pool: Pool, workers: Collection[WorkerId]) -> list[tuple[JobId, int]]:
    """The tasks that these workers run now, by job and number."""
    leases = {number for worker in workers if worker in pool.workers for number in pool.workers[worker].leases}
    jobs = [pool.jobs[job] for job in dict.fromkeys(pool.leases[number].job for number in sorted(leases))]
    return [(job.id, index) for job in jobs for index in sorted(job.running) if job.active.get(index) in leases]


class LocalWorkers:
    """Keeps `count` agents running."""

    def __init__(self, folder: Folder, url: str, count: int) -> None:
        self._folder, self._url, self._count = folder, url, count
        self._processes: dict[int, _Worker] = {}
        self._told = set[int]()
        """Those who know already that they are to end: told once more, they would drop what runs."""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start them; each is started again when it ends by itself. What is left beyond `count` finishes and goes."""
        works = [self._keep(number) for number in range(1, self._count + 1)]
        works += [self._end(number) for number in self._surplus()]
        self._tasks = [asyncio.create_task(work) for work in works]

    def waiting_for(self, pool: Pool | None) -> str:
        """What keeps those that run, for people; "" when none does. They say it themselves, too, but one that was
        adopted says it to a terminal that may be gone.
        """
        numbers = [number for number, process in self._processes.items() if process.returncode is None]
        if not numbers:
            return ""
        where = f"{len(numbers)} local worker{'s' if len(numbers) > 1 else ''}"
        tasks = running_on(pool, [self._enrolment(number).answer.worker for number in numbers]) if pool else []
        if not tasks:
            return f"{where} to end"
        named = ", ".join(f"{job} task {index}" for job, index in tasks[:NAMED_MAX])
        more = f" and {len(tasks) - NAMED_MAX} more" if len(tasks) > NAMED_MAX else ""
        return f"{where} to finish {len(tasks)} task{'s' if len(tasks) > 1 else ''}: {named}{more}"

    def _state(self, number: int) -> Path:
        return self._folder.path("workers", f"local-{number}")

    def _surplus(self) -> list[int]:
        names = (path.name.removeprefix("local-") for path in self._folder.path("workers").glob("local-*"))
        return [number for name in names if name.isdecimal() and (number := int(name)) > self._count]

    async def _keep(self, number: int) -> None:
        pause = RESTART_S_MIN
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            process = self._adopt(number)
            adopted = process is not None
            if process is None:
                process = await self._spawn(number)
            code = await self._watch(number, process, leave=adopted and not self._knows_us(number))
            if not adopted and not self._stopping.is_set() and self._found(number) is None:
                _log.warning("local_worker.ended", number=number, code=code)
            if asyncio.get_running_loop().time() - began > RESTART_S_MAX:
                pause = RESTART_S_MIN
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, RESTART_S_MAX)

    async def _end(self, number: int) -> None:
        if (process := self._adopt(number)) is not None:
            await self._watch(number, process, leave=True)

    async def _watch(self, number: int, process: _Worker, *, leave: bool) -> int:
        """Wait for its end. `leave`: it is to take nothing new: one too many, or it knows us at an old address only."""
        self._processes[number] = process
        self._told.discard(number)
        if leave:
            _log.warning("local_worker.leaves", number=number, pid=process.pid)
        if leave or self._stopping.is_set():
            self._tell(number)
        return await process.wait()

    def _found(self, number: int) -> int | None:
        running = Folder(self._state(number)).running()
        return running.pid if running else None

    def _adopt(self, number: int) -> _Worker | None:
        """The worker that runs with this identity already, if any: two must never share one."""
        with contextlib.suppress(ProcessLookupError):
            return _Adopted(pid) if (pid := self._found(number)) is not None else None
        return None

    def _knows_us(self, number: int) -> bool:
        return self._enrolment(number).url == self._url

    def _enrolment(self, number: int) -> _Enrolment:
        try:
            return _enrolment_of((self._state(number) / "enrolment.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            return _Enrolment()

    async def _spawn(self, number: int) -> _Worker:
        # The key is not on the command line: the agent finds it in the data folder. One in the environment may be that
        # of another hive.
        environ = {name: value for name, value in os.environ.items() if name != "HIVE_KEY"}
        words = ("worker", "run", "--name", f"local-{number}", "--state", str(self._state(number)))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.cli.main", *words),
            # This machine is the hive's own: what its tasks ask to reach, they may.
            env={"HIVE_NETWORK": "full", **environ, "HIVE_DATA": str(self._folder.root), "HIVE_URL": self._url},
            start_new_session=True,
        )

    async def stop(self, now: asyncio.Event) -> None:
        """Let them finish what runs, or end it as soon as `now` is set."""
        self._stopping.set()
        for number in self._processes.keys() - self._told:
            self._tell(number)
        ended = asyncio.gather(*self._tasks)
        hurry = asyncio.ensure_future(now.wait())
        await asyncio.wait((ended, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            for number in self._processes:
                self._tell(number)
        await ended
        hurry.cancel()

    def _tell(self, number: int) -> None:
        """End it: the first time it finishes what runs, the second it does not."""
        self._told.add(number)
        process = self._processes[number]
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
