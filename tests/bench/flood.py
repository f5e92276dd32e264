"""What a worker that sends all it can costs another: the second one's reports, idle and meanwhile, through real processes.

A report is sent each EACH_S whether or not the one before was answered, and its wait counts from when it was due: a
platform that stands still is seen in full. The first worker sends reports, large and small, polls and output from a
process of its own as fast as its connection takes them, and comes back whenever it is let in.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import structlog
import uvloop

from events import protocol
from events.protocol import Ended, Hello, Output, Piece, Poll, Report
from events.worker import Capacity
from infra.credential import Credential
from infra.link import Link, LinkDown, LinkTimeout
from infra.nkey import Signer
from tests.bench.figures import quantile
from tests.bench.hive import BenchFailed
from tests.bench.identities import Machine, credential, enrol, new_machine
from tests.signing_support import opened, said
from tests.system import System, system

SAMPLES = 6000
"""A minute's: as long as who was noticed is kept out, so that each time it is let in counts with its share."""
EACH_S = 0.01
WARM_UP = 300
ASK_S = 30.0
AGAIN_S = 0.05
TURNS = 200
POOL = "default"
LARGE_BYTES = 700 * 1024


async def flood(count: int) -> dict[str, dict[str, float]]:
    """The second worker's report (ms), `count` times idle and `count` times while the first floods."""
    with tempfile.TemporaryDirectory(prefix="hive-bench-", ignore_cleanup_errors=True) as folder:
        async with system(Path(folder)) as hive, aiohttp.ClientSession() as http:
            await hive.plane()
            key = {"Authorization": f"Bearer {hive.folder.admin_key()}"}
            machine, hostile = new_machine(), new_machine()
            nats_url = await enrol(http, hive.url(), key, machine)
            await enrol(http, hive.url(), key, hostile)
            jwt = await credential(http, hive.url(), machine)
            link = await Link.open(nats_url, Credential(machine.seed, lambda: jwt), "bench", f"_INBOX_{machine.worker}")
            try:
                reports = _Reports(link, machine.worker, machine.seed)
                await reports.greet()
                await reports.send(WARM_UP)
                idle = await reports.send(count)
                busy, sent = await _meanwhile(hive, nats_url, hostile, reports, count)
            finally:
                await link.close()
            p99 = quantile(idle, 0.99)
            return {
                "idle": {"p50_ms": quantile(idle, 0.5), "p99_ms": p99, "max_ms": round(max(idle), 2)},
                "meanwhile": {
                    "p50_ms": quantile(busy, 0.5), "p99_ms": quantile(busy, 0.99), "max_ms": round(max(busy), 2),
                    "ratio": round(quantile(busy, 0.99) / p99, 2),
                },
                "flood": sent,
            }  # fmt: skip


class _Reports:
    """The second worker."""

    def __init__(self, link: Link, worker: str, seed: str) -> None:
        self._link, self._base, self._worker, self._signer = link, f"req.{POOL}.{worker}", worker, Signer(seed)
        self._sequence = 0

    def _said(self, asked: Poll | Report) -> bytes:
        return said(POOL, self._worker, asked, self._signer)

    async def greet(self) -> None:
        """Open its session; the poll is not waited for any longer."""
        poll = self._said(Poll("bench", 1, hello=Hello("boot", Capacity(1000, 2**30), "bench", "nonce")))
        await self._link.request(f"{self._base}.next", poll, ASK_S)

    async def send(self, count: int) -> list[float]:
        """The waits (ms) of so many reports. One that was dropped is sent again, as an agent does, and counts in full."""
        clock, waits = time.perf_counter, list[float]()
        begin = clock()
        ahead: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            for _ in range(count):
                due, data = await ahead.get()
                while True:
                    try:
                        told = (await self._link.request(f"{self._base}.report", data, 1.5)).data
                    except LinkTimeout:
                        continue
                    answer = protocol.report_answer_of(opened(told))
                    if isinstance(answer, protocol.Recorded):
                        break
                    if answer.code != "slow_down":
                        raise BenchFailed(f"a report was refused: {answer}")
                waits.append((clock() - due) * 1000)

        delivering = asyncio.create_task(deliver())
        for turn in range(count):
            due = begin + turn * EACH_S
            await asyncio.sleep(max(0.0, due - clock()))
            self._sequence += 1
            ahead.put_nowait((due, self._said(Report("bench", self._sequence, []))))
        await delivering
        return waits


async def _meanwhile(
    hive: System, nats_url: str, hostile: Machine, reports: _Reports, count: int
) -> tuple[list[float], dict[str, float]]:
    program = [sys.executable, "-m", "tests.bench.flood", hive.url(), nats_url, hostile.seed]
    process = await asyncio.create_subprocess_exec(*program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if (await process.stdout.readline()).strip() != b"ready":
            raise BenchFailed("the flood did not begin")
        busy = await reports.send(count)
    finally:
        said, _ = await process.communicate(b"enough\n")
    numbers = [float(word) for word in said.split()]
    return busy, dict(zip(("messages", "mib", "times_let_in", "seconds_in"), numbers, strict=True))


async def _hostile(url: str, nats_url: str, seed: str) -> None:
    """Flood until there is a line on stdin; then say how many messages and MiB, how often let in, and for how long."""
    machine = new_machine(seed)
    messages = _messages(machine.worker, Signer(machine.seed))
    count = size = let_in = 0
    inside_s = 0.0
    enough = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    told = False
    async with aiohttp.ClientSession() as http:
        while not enough.done():
            try:
                jwt = await credential(http, url, machine)
                who = Credential(machine.seed, lambda jwt=jwt: jwt)
                link = await Link.open(nats_url, who, "flood", f"_INBOX_{machine.worker}")
            except (BenchFailed, LinkDown, aiohttp.ClientError):
                await asyncio.sleep(AGAIN_S)
                continue
            let_in += 1
            if not told:
                told = True
                print("ready", flush=True)
            start = time.perf_counter()
            with contextlib.suppress(LinkDown):
                while not enough.done():
                    for subject, data in messages:
                        link.send(subject, data, f"_INBOX_{machine.worker}.x")
                        count, size = count + 1, size + len(data)
                    await link.publish(*messages[0])
            inside_s += time.perf_counter() - start
            await link.close()
    print(count, round(size / 2**20), let_in, round(inside_s, 2))


def _messages(worker: str, signer: Signer) -> list[tuple[str, bytes]]:
    """What it sends in turns: mostly small ones, which cost the platform most for each byte."""
    base = f"req.{POOL}.{worker}"
    small = said(POOL, worker, Report("flood", 1, [Ended(1, "jnothing", [0, 0])]), signer)
    large = said(POOL, worker, Report("flood", 2, [Ended(n, "jnothing", [0, 2000]) for n in range(10_000)]), signer)
    hello = Hello("boot", Capacity(1000, 2**30), "flood", "nonce")
    poll = said(POOL, worker, Poll("flood", 1, hello=hello), signer)
    output = protocol.pack(Output("flood", [Piece(1, "jnothing", 0, 0, b"x" * LARGE_BYTES)]))
    some = [(f"{base}.report", small), (f"{base}.next", poll)] * TURNS
    return [*some, (f"{base}.report", large), (f"{base}.output", output)]


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(_hostile(*sys.argv[1:4]))
