"""A hive of its own for a benchmark: control plane and workers as processes, in a temporary folder."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from infra.folder import Folder
from web.client import AsyncHive

START_S = 60.0
STOP_S = 20.0
LOOK_S = 0.02
SETTLE_S = 0.3


class BenchFailed(Exception):
    """The benchmark could not run; the text says why."""


def _spawn(data: Path, log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, "HIVE_DATA": str(data), "NO_COLOR": "1"}
    environ.pop("HIVE_URL", None)
    environ.pop("HIVE_KEY", None)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )


async def _url(folder: Folder, process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = asyncio.get_running_loop().time() + START_S
    while asyncio.get_running_loop().time() < deadline:
        running = folder.running()
        if running is not None and running.url:
            return running.url
        if process.poll() is not None:
            raise BenchFailed(f"the control plane ended with {process.returncode}: {log.read_text()[-2000:]}")
        await asyncio.sleep(LOOK_S)
    raise BenchFailed(f"the control plane did not start within {START_S:g} s: {log.read_text()[-2000:]}")


@contextlib.asynccontextmanager
async def hive(workers: int = 2, cpus: int = 2, keep: Path | None = None) -> AsyncIterator[tuple[AsyncHive, Folder]]:
    """A client of a fresh hive with `workers` agents of `cpus` CPUs each. The folder goes at the end unless `keep`."""
    data = keep or Path(tempfile.mkdtemp(prefix="hive-bench-"))
    folder, log = Folder(data), data / "bench.log"
    data.mkdir(exist_ok=True, mode=0o700)
    processes = [_spawn(data, log, "serve", "--port", "0")]
    try:
        url = await _url(folder, processes[0], log)
        for number in range(workers):
            state = str(data / "workers" / f"bench-{number}")
            processes.append(
                _spawn(data, log, "worker", "run", "--name", f"bench-{number}", "--state", state, "--cpus", str(cpus))
            )
        async with AsyncHive(url, folder.admin_key()) as client:
            await _workers(client, workers, log)
            await asyncio.sleep(SETTLE_S)
            yield client, folder
    finally:
        for process in reversed(processes):
            _stop(process)
        if keep is None:
            shutil.rmtree(data, ignore_errors=True)


async def _workers(client: AsyncHive, count: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_S
    while asyncio.get_running_loop().time() < deadline:
        if sum(worker.state == "ready" for worker in await client.workers()) >= count:
            return
        await asyncio.sleep(LOOK_S)
    raise BenchFailed(f"{count} workers did not join within {START_S:g} s: {log.read_text()[-2000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S / 2)
