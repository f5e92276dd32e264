"""How much memory a control plane has with much work queued, and how soon it leads again: a real one, without workers."""

import asyncio
import secrets
import tempfile
import time
from pathlib import Path

import psutil

from tests.system import System, system
from web.client import AsyncHive

MEMORY_JOBS = 100_000
ARRAY_TASKS = 1_000_000
IN_FLIGHT = 256


async def memory(jobs: int, array: int = ARRAY_TASKS) -> dict[str, dict[str, float]]:
    """MiB resident with nothing, with one array of a million queued tasks, and with so many queued jobs beside it; then
    the seconds that a killed one needs until its API answers and until it took a job.
    """
    with tempfile.TemporaryDirectory(prefix="hive-bench-", ignore_cleanup_errors=True) as folder:
        async with system(Path(folder)) as hive:
            await hive.plane()
            found = {"nothing queued": resident(hive)}
            async with hive.client() as client:
                await client.submit(["/bin/true"], count=array)
                found[f"one array of {array} tasks"] = resident(hive)
                await submit(client, jobs)
                found[f"and {jobs} jobs"] = resident(hive)
            hive.planes[-1].kill()
            hive.planes.pop().wait()
            start = time.perf_counter()
            await hive.plane()
            answers = time.perf_counter() - start
            async with hive.client() as client:
                await client.submit(kind="noop")
                leads = time.perf_counter() - start
            again = {"api_s": round(answers, 2), "leads_s": round(leads, 2)}
            found["killed and started again"] = resident(hive) | again
            return found


def resident(hive: System) -> dict[str, float]:
    """The control plane's resident memory now, in MiB."""
    return {"mib": psutil.Process(hive.planes[-1].pid).memory_info().rss // 2**20}


async def submit(client: AsyncHive, jobs: int) -> None:
    """Hand in jobs as people do: a command with arguments, variables, a name, labels; each its own."""
    turns = iter(range(jobs))

    async def one_after_another() -> None:
        for at in turns:
            await client.submit(
                ["python", "train.py", "--seed", str(at), "--data", f"/srv/data/set-{at % 7}"],
                env={"EPOCHS": "10", "MODEL": f"resnet{at % 5}", "RUN": secrets.token_hex(8)},
                name=f"train-{at}",
                labels={"team": "vision", "sweep": f"s{at % 40}"},
            )

    await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
