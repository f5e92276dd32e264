"""The machine's own limit for one job on an idle system: client -> platform, an fsynced append, -> worker -> platform,
another append, -> client; three processes over nats-server, and nothing else: no HTTP, no rules, no bookkeeping.
"""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nats
import uvloop

CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}/js", sync_interval: always }}
"""
STREAM = {"name": "EVENTS", "subjects": ["evt.>"], "storage": "file"}
FACT = b"x" * 500
"""About what the facts of one job take."""
WAIT_S = 10


async def connected(url):
    """A client, once the server is there."""
    return await nats.connect(url, max_reconnect_attempts=WAIT_S * 50, reconnect_time_wait=0.02)


async def answering(client, subject):
    """Wait until somebody answers there."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await client.request(subject, FACT)
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.02)


async def platform(url):
    """Takes a job, writes it down, has it done, writes that down, answers."""
    client = await connected(url)
    last = 0

    async def append():
        nonlocal last
        ack = await client.request("evt.pool", FACT, headers={"Nats-Expected-Last-Subject-Sequence": str(last)})
        last = json.loads(ack.data)["seq"]

    async def submitted(message):
        await append()
        await client.request("worker", FACT)
        await append()
        await message.respond(FACT)

    await answering(client, "worker")
    await client.subscribe("platform", cb=submitted)
    await asyncio.Event().wait()


async def worker(url):
    """Does nothing, at once."""
    client = await connected(url)

    async def run(message):
        await message.respond(FACT)

    await client.subscribe("worker", cb=run)
    await asyncio.Event().wait()


async def measure(url, count):
    """Seconds for each of `count` jobs, one after the other."""
    client = await connected(url)
    await client.request("$JS.API.STREAM.CREATE.EVENTS", json.dumps(STREAM).encode())
    await answering(client, "platform")
    waits = []
    for _ in range(count):
        start = time.perf_counter()
        await client.request("platform", FACT, timeout=WAIT_S)
        waits.append(time.perf_counter() - start)
    return waits


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="hive-limit-") as folder:
        port, config = free_port(), Path(folder, "nats.conf")
        config.write_text(CONFIG.format(folder=folder, port=port))
        url, server = f"nats://127.0.0.1:{port}", Path(sys.executable).parent / "nats-server"
        parts = [[server, "-c", config], *([sys.executable, __file__, part, url] for part in ("platform", "worker"))]
        running = [subprocess.Popen(part, stderr=subprocess.DEVNULL) for part in parts]
        try:
            waits = sorted(uvloop.run(measure(url, count)))
        finally:
            for process in running:
                process.kill()
                process.wait()
    p50, p99 = (round(waits[int(count * part)] * 1000, 3) for part in (0.5, 0.99))
    print(json.dumps({"limit": "two appends and three hops", "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    if sys.argv[1] in ("platform", "worker"):
        uvloop.run(globals()[sys.argv[1]](sys.argv[2]))
    else:
        main()
