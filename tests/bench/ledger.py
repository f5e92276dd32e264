"""Transfers per second, acknowledged on disk, through the ledger's service from 64 clients; beside it, in turns, what
`pgbench` simple-update does on a Postgres on the same disk with as many clients. And the audit of a million entries.

The clients are processes of their own, each client with one transfer on its way at a time, or with `batch` of them in
one request: the way a program pays many.
"""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec

from infra.connect import open_platform
from infra.folder import Folder
from infra.postgres_system import binaries, run_as
from infra.settings import load
from services.asking import Accepted, AskClient
from services.ledger.audit import Audit
from services.ledger.service import LEDGER
from tests.bench.figures import quantile
from tests.bench.hive import BenchFailed, hive
from tests.ledger_support import transfer

CLIENTS, PROCESSES = 64, 2
RUN_S = 10.0
BATCH = 16
PURSE = 10**12
AUDITED = 1_000_000
PGBENCH_SCALE = 10
"""A million accounts; simple-update leaves the branches alone, so few of them do no harm."""


async def _client(asks: Any, name: str, batch: int, until: float, waits: list[float]) -> None:
    n = 0
    while (now := time.perf_counter()) < until:
        commands = [transfer(f"{name}-{n + k}", f"from-{name}", (f"to-{name}", 1)) for k in range(batch)]
        answer = await asks.ask(commands, "user:bench")
        if not all(isinstance(outcome, Accepted) and not outcome.existing for outcome in answer.outcomes):
            raise BenchFailed(f"refused: {answer.outcomes}")
        waits.append(time.perf_counter() - now)
        n += batch


async def clients(data: Path, names: list[str], batch: int, seconds: float) -> tuple[int, float, list[float]]:
    """So many clients of one process: transfers that were acknowledged, in how many seconds, and each request's wait."""
    folder = Folder(data)
    link = await open_platform(folder, load(folder.root, {}), "bench clients")
    try:
        asks: Any = AskClient(link, LEDGER)
        purses = [transfer(f"purse-{name}", "mint", (f"from-{name}", PURSE), kind="grant") for name in names]
        await asks.ask(purses, "bench")
        waits: list[float] = []
        start = time.perf_counter()
        until = start + seconds
        await asyncio.gather(*(_client(asks, name, batch, until, waits) for name in names))
        return len(waits) * batch, time.perf_counter() - start, waits
    finally:
        await link.close()


async def transfers(data: Path, batch: int, seconds: float) -> dict[str, float]:
    """What all clients together reach over the hive in `data`."""
    run = f"{time.time_ns():x}"
    spawned = [
        subprocess.Popen(  # noqa: ASYNC220 - it returns at once; what it says is waited for in a thread
            [sys.executable, "-m", "tests.bench.ledger", str(data), f"{run}-{n}", str(CLIENTS // PROCESSES), str(batch),
             str(seconds)],
            stdout=subprocess.PIPE,
        )
        for n in range(PROCESSES)
    ]  # fmt: skip
    rate, waits = 0.0, list[float]()
    for process in spawned:
        said, _ = await asyncio.to_thread(process.communicate)
        if process.returncode:
            raise BenchFailed(f"the clients ended with {process.returncode}")
        done, took, some = msgspec.json.decode(said, type=tuple[int, float, list[float]])
        rate += done / took
        waits += some
    ms = [wait * 1000 for wait in waits]
    return {"per_s": round(rate, 1), "p50_ms": quantile(ms, 0.5), "p99_ms": quantile(ms, 0.99)}


@contextlib.contextmanager
def _postgres() -> Generator[list[str]]:
    """A Postgres with its defaults (each commit fsynced) in a temporary folder; the words before a pgbench for it."""
    root = Path(tempfile.mkdtemp(prefix="hive-bench-pg-"))
    cluster, sockets = root / "data", root
    found, way = binaries(cluster), run_as(cluster)
    os.chown(root, way.uid, way.gid if way.uid else -1)
    own = [*way.prefix]
    server: subprocess.Popen[bytes] | None = None
    try:
        made = [str(found.folder / "initdb"), "-D", str(cluster), "-U", "hive", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*own, *made], check=True, capture_output=True)
        command = [
            str(found.folder / "postgres"),
            "-D",
            str(cluster),
            "-k",
            str(sockets),
            "-h",
            "",
            "-c",
            "max_connections=200",
        ]
        server = subprocess.Popen([*own, *command], stderr=subprocess.DEVNULL)
        bench = [str(found.folder / "pgbench"), "-h", str(sockets), "-U", "hive"]
        deadline = time.monotonic() + 60
        while subprocess.run(
            [*bench, "-i", "-q", "-s", str(PGBENCH_SCALE), "postgres"], capture_output=True
        ).returncode:
            if time.monotonic() > deadline:
                raise BenchFailed("Postgres does not start")
            time.sleep(0.2)
        yield bench
    finally:
        if server is not None:
            server.terminate()
            server.wait(60)
        shutil.rmtree(root, ignore_errors=True)


def pgbench(bench: list[str], seconds: float) -> dict[str, float]:
    """What simple-update reaches with as many clients."""
    with tempfile.TemporaryDirectory() as logs:
        words = ["-N", "-n", "-c", str(CLIENTS), "-j", str(PROCESSES), "-T", str(max(1, round(seconds))), "--log"]
        done = subprocess.run(
            [*bench, *words, f"--log-prefix={logs}/t", "postgres"], capture_output=True, text=True, check=True
        )
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        if found is None:
            raise BenchFailed(done.stdout + done.stderr)
        lines = [line.split() for file in Path(logs).iterdir() for line in file.read_text().splitlines()]
        waits = [int(line[2]) / 1000 for line in lines]
    return {"per_s": float(found[1]), "p50_ms": quantile(waits, 0.5), "p99_ms": quantile(waits, 0.99)}


def audit(entries: int) -> dict[str, float]:
    """How long the audit of so many entries takes, of a log as the ledger writes it under load."""
    line = (
        b'{"type":"transfer.posted","transfer":"t%d","kind":"transfer","postings":[{"debit":"user:uabcdefghij%d",'
        b'"credit":"user:uklmnopqrst%d","amount":1000}],"digest":"' + b"0" * 64 + b'"}'
    )
    purse = b'{"type":"transfer.posted","transfer":"g%d","kind":"grant","postings":[{"debit":"mint","credit":"user:uabcdefghij%d","amount":1000000000}]}'
    wrap = b'{"id":"m%d","at":1790000000000,"writer":"w","decisions":[{"events":[%b],"by":"user:bench"}]}'
    log = [wrap % (0, b",".join(purse % (n, n) for n in range(1000)))]
    for at in range(0, entries, 64):
        log.append(wrap % (at, b",".join(line % (n, n % 1000, n % 997) for n in range(at, at + 64))))
    audited, start = Audit(), time.perf_counter()
    for position, data in enumerate(log, 1):
        audited.add(position, data)
    audited.finish()
    return {"entries": audited.entries, "seconds": round(time.perf_counter() - start, 2)}


async def balance_reads(client: Any, count: int = 300) -> dict[str, float]:
    """Milliseconds that a balance takes over HTTP, one at a time."""
    waits: list[float] = []
    for _ in range(count):
        start = time.perf_counter()
        await client.ledger.balance()
        waits.append((time.perf_counter() - start) * 1000)
    return {"p50_ms": quantile(waits, 0.5), "p99_ms": quantile(waits, 0.99)}


async def measure(runs: int, seconds: float) -> list[dict[str, dict[str, float]]]:
    """Each run: alone in a request, many in a request, pgbench, reads, the audit; one after the other on one machine."""
    found: list[dict[str, dict[str, float]]] = []
    with _postgres() as bench:
        async with hive(0) as (client, folder):
            for _ in range(runs):
                found.append(
                    {
                        "one a request": await transfers(folder.root, 1, seconds),
                        "pgbench simple-update": await asyncio.to_thread(pgbench, bench, seconds),
                        f"{BATCH} a request": await transfers(folder.root, BATCH, seconds),
                        "balance over HTTP": await balance_reads(client),
                        "audit": await asyncio.to_thread(audit, AUDITED),
                    }
                )
    return found


if __name__ == "__main__":
    import structlog
    import uvloop

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    data, prefix, many, batch, seconds = sys.argv[1:]
    names = [f"{prefix}-{n}" for n in range(int(many))]
    said = uvloop.run(clients(Path(data), names, int(batch), float(seconds)))
    sys.stdout.write(msgspec.json.encode(said).decode())
