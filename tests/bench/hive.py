"""A hive of its own for a benchmark: control plane and workers as processes, in a temporary folder."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from infra.folder import Folder
from tests.system import SystemFailed, system
from web.client import AsyncHive

SETTLE_S = 0.5


class BenchFailed(SystemFailed):
    """The benchmark measured something that must not be."""


@contextlib.asynccontextmanager
async def hive(workers: int = 2, cpus: int = 2, keep: Path | None = None) -> AsyncGenerator[tuple[AsyncHive, Folder]]:
    """A client of a fresh hive with `workers` agents of `cpus` CPUs each. The folder goes at the end unless `keep`."""
    data = keep or Path(tempfile.mkdtemp(prefix="hive-bench-"))
    async with system(data, remove=keep is None) as running:
        await running.plane()
        for number in range(workers):
            running.agent(f"bench-{number}", cpus)
        async with running.client() as client:
            await running.ready(client, workers)
            await asyncio.sleep(SETTLE_S)
            yield client, running.folder
