"""How fast bytes get through: what a task prints to a reader's hands, and results up and down, beside a plain HTTP copy of
the same bytes on the same disk in the same run.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.hive import BenchFailed, hive
from web.client import AsyncHive

MB = 1_000_000
OUTPUT_BYTES = 500 * MB
RESULT_BYTES = 1000 * MB
CHUNK_BYTES = 1024 * 1024
PROBES = 20


async def output(count: int) -> dict[str, dict[str, float]]:
    """MB/s of what one task prints, from its pipe through the worker, to disk, and to a reader who follows it; and how
    long a single line takes, in ms.
    """
    size = count or OUTPUT_BYTES
    async with hive(workers=1) as (client, _):
        start = time.perf_counter()
        job = await client.submit(["head", "-c", str(size), "/dev/zero"])
        seen = 0
        async for piece in client.logs(job):
            seen += len(piece.data) if piece.stream == "stdout" else 0
        seconds = time.perf_counter() - start
        if seen != size:
            raise BenchFailed(f"{seen} of {size} bytes came through")
        waits = await _live(client)
    return {
        "through": {"mb_per_s": size / MB / seconds},
        "a line": {"p50_ms": waits[len(waits) // 2], "max_ms": waits[-1]},
    }


async def _live(client: AsyncHive) -> list[float]:
    """Milliseconds from the print of a line to a reader who follows, sorted."""
    script = f"import time\nfor _ in range({PROBES}): print(time.time_ns(), flush=True); time.sleep(0.3)"
    job = await client.submit([sys.executable, "-c", script])
    waits: list[float] = []
    async for piece in client.logs(job):
        if piece.stream == "stdout":
            waits += [(time.time_ns() - int(line)) / 1e6 for line in piece.data.split()]
    return sorted(waits)


async def results(count: int) -> dict[str, dict[str, float]]:
    """MB/s of one large result: from the end of its task until it is stored and recorded, then into a file of a client;
    beside the same bytes put and fetched by plain HTTP. `ratio`: of Hive's speed to that.
    """
    size = count or RESULT_BYTES
    async with hive(workers=1) as (client, folder):
        to = folder.directory("bench")
        # Made of random bytes, which nothing can compress.
        script = (
            f"import os\nwith open('big', 'wb') as f:\n  left = {size}\n"
            "  while left: f.write(os.urandom(min(left, 1 << 20))); left -= min(left, 1 << 20)\n"
            "import time; print(time.time())"
        )
        job = await client.submit([sys.executable, "-c", script], results=["big"])
        await client.result(job, check=True)
        ended = time.time()
        up_s = ended - float(await client.output(job))
        (result,) = [one async for one in client.results(job)]
        start = time.perf_counter()
        await client.download(result.digest, to / "big")
        down_s = time.perf_counter() - start
        plain_up_s, plain_down_s = await _plain(to / "big", to)
    return {
        "up": {"mb_per_s": size / MB / up_s, "plain_mb_per_s": size / MB / plain_up_s, "ratio": plain_up_s / up_s},
        "down": {
            "mb_per_s": size / MB / down_s, "plain_mb_per_s": size / MB / plain_down_s, "ratio": plain_down_s / down_s,
        },
    }  # fmt: skip


async def _plain(file: Path, folder: Path) -> tuple[float, float]:
    """Seconds to put the file, fsynced, and to fetch it into another, with aiohttp at both ends and nothing else."""
    async with _server(folder) as url, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
        start = time.perf_counter()
        with file.open("rb") as source:
            async with http.put(url, data=source) as answer:
                answer.raise_for_status()
        up_s = time.perf_counter() - start
        start = time.perf_counter()
        with (folder / "fetched").open("wb") as out:
            async with http.get(url) as answer:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    await asyncio.to_thread(out.write, chunk)
        return up_s, time.perf_counter() - start


@contextlib.asynccontextmanager
async def _server(folder: Path) -> AsyncGenerator[str]:
    """The plain server, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.transfer", str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}/file"
    finally:
        process.kill()
        await process.wait()


async def _serve(folder: Path) -> None:
    from aiohttp import web

    async def put(request: Any) -> Any:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        os.replace(file.name, folder / "served")
        return web.Response()

    async def get(request: Any) -> Any:
        return web.FileResponse(folder / "served")

    app = web.Application(client_max_size=2**40)
    app.router.add_put("/file", put)
    app.router.add_get("/file", get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
