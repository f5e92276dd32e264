"""The benchmarks themselves. Each measures once; `__main__` repeats them, in turns with the peer."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.bench.hive import BenchFailed, hive
from web.client import AsyncHive

IN_FLIGHT = 256
WARM_UP = 200


class Measured(NamedTuple):
    """One run: the figure, and latencies in ms where they are the point."""

    value: float
    latencies: list[float]


async def throughput(client: AsyncHive, count: int) -> Measured:
    """No-op tasks per second: one array, from the submission to the result in the client's hands."""
    start = time.perf_counter()
    job = await client.submit(kind="noop", count=count)
    result = await client.result(job)
    seconds = time.perf_counter() - start
    if result.succeeded != count:
        raise BenchFailed(f"{result.succeeded} of {count} tasks succeeded")
    return Measured(count / seconds, [])


async def single(client: AsyncHive, count: int) -> Measured:
    """No-op jobs per second, submitted and awaited one by one, 256 in flight, through the Python client."""
    turns = iter(range(count))

    async def one_after_another() -> None:
        for _ in turns:
            result = await client.result(await client.submit(kind="noop"))
            if result.state != "succeeded":
                raise BenchFailed(f"a no-op job ended as {result.state}")

    start = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
    return Measured(count / (time.perf_counter() - start), [])


async def latency(client: AsyncHive, count: int) -> Measured:
    """Milliseconds from submission to result on an idle system, one at a time."""
    waits: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        await client.result(await client.submit(kind="noop"))
        waits.append((time.perf_counter() - start) * 1000)
    return Measured(sorted(waits)[len(waits) // 2], waits)


async def processes(client: AsyncHive, count: int) -> Measured:
    """Real /bin/true processes per second: one array, output drained, exit codes recorded."""
    start = time.perf_counter()
    job = await client.submit(["/bin/true"], count=count)
    result = await client.result(job)
    seconds = time.perf_counter() - start
    if result.succeeded != count:
        raise BenchFailed(f"{result.succeeded} of {count} processes succeeded")
    return Measured(count / seconds, [])


async def replay(count: int, runs: int) -> list[dict[str, float]]:
    """Events per second folded into the board by a fresh process, from the first message, decoding included, and the
    most memory (MiB) it ever had. The log is one that a hive really wrote: arrays and single jobs.
    """
    data = Path(tempfile.mkdtemp(prefix="hive-bench-"))
    try:
        async with hive(keep=data) as (client, _):
            await single(client, count)
            await throughput(client, count * 10)
        found: list[dict[str, float]] = []
        for _ in range(runs):
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "tests.bench.refold", str(data)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BenchFailed(done.stderr[-2000:])
            found.append(msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, float]))
        return found
    finally:
        shutil.rmtree(data, ignore_errors=True)


class Bench(NamedTuple):
    """One benchmark: how to run it, how much, in what unit, and its peers as (script, the figure's name)."""

    run: Callable[[AsyncHive, int], Awaitable[Measured]]
    size: int
    unit: str
    peers: tuple[tuple[str, str], ...] = ()
    less_is_better: bool = False
    limit: str = ""
    workers: int = 2
    cpus: int = 2


BENCHES: dict[str, Bench] = {
    "throughput": Bench(throughput, 200_000, "tasks/s", (("ray_tasks.py", "tasks_per_s"),)),
    "single": Bench(single, 10_000, "jobs/s", (("ray_tasks.py", "tasks_per_s"),)),
    "latency": Bench(latency, 500, "ms", (("ray_tasks.py", "p50_ms"),), less_is_better=True, limit="path_limit.py"),
    "processes": Bench(
        processes, 5_000, "processes/s", (("hq_processes.py", "processes_per_s"),), workers=1, limit="spawn_limit.py"
    ),
}
REPLAY_JOBS = 20_000
Peer = dict[str, Any]
