"""Parts of a hive as child processes of hivectl: started, watched, and always stopped."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from services.cli.failure import Exit, Failure

STOP_S_MAX = 20.0
LOOK_S = 0.05
TAIL_LINES = 12
ROOT = str(Path(__file__).resolve().parents[2])


class Child:
    """`hivectl <words>` as a process, its messages in a file. Ctrl-C does not reach it: `stop` ends it."""

    def __init__(self, what: str, words: list[str], log: Path, environ: dict[str, str]) -> None:
        self.what, self._words, self._log = what, words, log
        self.environ = {**os.environ, **environ, "PYTHONPATH": _paths()}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        """Start it."""
        self._log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "services.cli.main", *self._words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                start_new_session=True,
            )
        return self

    def check(self) -> None:
        """Raise Failure when it has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise Failure(
                f"{self.what} ended with code {self._process.returncode}; it said:\n{self.said()}",
                f"mend what it says; all of it is in {self._log}",
                Exit.UNAVAILABLE,
            )

    def said(self) -> str:
        """The last lines of its messages."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ""

    async def stop(self) -> None:
        """Ask it to end, and make it end when it does not within 20 s."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _paths() -> str:
    before = os.environ.get("PYTHONPATH")
    return f"{ROOT}{os.pathsep}{before}" if before else ROOT


async def until(what: str, ready: Callable[[], Awaitable[bool]], children: list[Child], limit_s: float) -> None:
    """Wait until `ready`; raises Failure when a child has ended, or after `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            while not await ready():
                for child in children:
                    child.check()
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        said = "\n".join(f"{child.what}: {child.said()}" for child in children)
        raise Failure(
            f"{what}: not within {limit_s:g} s. What the parts said:\n{said}", code=Exit.UNAVAILABLE
        ) from None
