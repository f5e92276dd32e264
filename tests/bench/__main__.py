"""Runs a benchmark: `python -m tests.bench NAME [--json] [--runs N] [--count N] [--peer PYTHON]`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

import msgspec
import structlog
import uvloop

from tests.bench import ledger
from tests.bench.benches import BENCHES, REPLAY_JOBS, WARM_UP, Measured, replay
from tests.bench.figures import Figure, commit, machine, median, peer, quantile
from tests.bench.flood import SAMPLES, flood
from tests.bench.hive import hive
from tests.bench.identities import CONNECTIONS, IDENTITIES, enrolment, refused
from tests.bench.memory import MEMORY_JOBS, memory
from tests.bench.plan import plan
from tests.bench.transfer import output, results
from tests.system import SystemFailed


async def measure(name: str, runs: int, count: int, python: str) -> Figure:
    """`runs` times the benchmark, in turns with its peer when an interpreter for that is given."""
    if name in ALONE:
        return await ALONE[name](runs, count)
    bench = BENCHES[name]
    measured: list[Measured] = []
    peers: list[float] = []
    limits: list[float] = []
    label = limit_label = ""
    figure = bench.peers[0][1]
    for _ in range(runs):
        async with hive(bench.workers, bench.cpus) as (client, _):
            await bench.run(client, min(WARM_UP, count or bench.size))
            measured.append(await bench.run(client, count or bench.size))
        if python:
            said = await asyncio.to_thread(peer, python, bench.peers[0][0], min(count or bench.size, 10_000))
            label = said["peer"]
            peers.append(float(said[figure]))
        if bench.limit:
            said = await asyncio.to_thread(peer, sys.executable, bench.limit, count or bench.size)
            limit_label = said["limit"]
            limits.append(float(said[figure]))
    value, waits = median([m.value for m in measured]), [wait for m in measured for wait in m.latencies]
    ratio = None
    if peers:
        ratio = round(median(peers) / value if bench.less_is_better else value / median(peers), 2)
    return Figure(
        name,
        value,
        bench.unit,
        [round(m.value, 2) for m in measured],
        quantile(waits, 0.5) if waits else None,
        quantile(waits, 0.99) if waits else None,
        {"name": label, "value": median(peers), "runs": peers} if peers else None,
        ratio,
        commit(),
        machine(),
        {"name": limit_label, "value": median(limits), "runs": limits} if limits else None,
    )


async def _replay(runs: int, count: int) -> Figure:
    found = await replay(count or REPLAY_JOBS, runs)
    rates = [one["events_per_s"] for one in found]
    parts = {"log": {name: found[0][name] for name in ("events", "messages", "before_mib", "peak_mib")}}
    return Figure("replay", median(rates), "events/s", rates, commit=commit(), machine=machine(), parts=parts)


async def _plan(runs: int, _count: int) -> Figure:
    """The slowest kind of pass, by its median. Always of full size: `count` is not looked at."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(runs):
        for name, waits in await plan():
            found.setdefault(name, []).append(waits)
    every = {name: [wait for run in waits for wait in run] for name, waits in found.items()}
    parts = {name: {"p50_ms": quantile(waits, 0.5), "p99_ms": quantile(waits, 0.99)} for name, waits in every.items()}
    worst = max(parts, key=lambda name: parts[name]["p50_ms"])
    p50, p99 = parts[worst]["p50_ms"], parts[worst]["p99_ms"]
    medians = [quantile(run, 0.5) for run in found[worst]]
    return Figure("plan", p50, "ms", medians, p50, p99, commit=commit(), machine=machine(), parts=parts)


async def _memory(runs: int, count: int) -> Figure:
    """The control plane with a million tasks in an array, then with 100,000 jobs (or `count`) of one task."""
    found = [await memory(count or MEMORY_JOBS) for _ in range(runs)]
    most = [max(part["mib"] for part in parts.values()) for parts in found]
    return Figure("memory", median(most), "MiB", most, commit=commit(), machine=machine(), parts=found[-1])


async def _enrolment(runs: int, count: int) -> Figure:
    """Machines taken in per second, of 5,000 (or `count`)."""
    found = [await enrolment(count or IDENTITIES) for _ in range(runs)]
    rates = [parts["taken in"]["per_s"] for parts in found]
    return Figure("enrolment", median(rates), "machines/s", rates, commit=commit(), machine=machine(), parts=found[-1])


async def _refused(runs: int, count: int) -> Figure:
    """The p99 of a worker's requests while 10,000 (or `count`) connections are refused."""
    found = [await refused(count or CONNECTIONS) for _ in range(runs)]
    waits = [parts["meanwhile"]["p99_ms"] for parts in found]
    return Figure("refused", median(waits), "ms", waits, commit=commit(), machine=machine(), parts=found[-1])


async def _flood(runs: int, count: int) -> Figure:
    """How many times longer, at the p99, a worker waits for its reports' answers while another sends all it can."""
    found = [await flood(count or SAMPLES) for _ in range(runs)]
    ratios = [parts["meanwhile"]["ratio"] for parts in found]
    return Figure("flood", median(ratios), "times", ratios, commit=commit(), machine=machine(), parts=found[-1])


async def _output(runs: int, count: int) -> Figure:
    """What one task prints, to a reader's hands: 500 MB, or `count` bytes."""
    found = [await output(count) for _ in range(runs)]
    rates = [parts["through"]["mb_per_s"] for parts in found]
    return Figure("output", median(rates), "MB/s", rates, commit=commit(), machine=machine(), parts=found[-1])


async def _results(runs: int, count: int) -> Figure:
    """One result of 1 GB, or `count` bytes, up and down: the lower of the two ratios to a plain HTTP copy."""
    found = [await results(count) for _ in range(runs)]
    ratios = [min(parts["up"]["ratio"], parts["down"]["ratio"]) for parts in found]
    return Figure("results", median(ratios), "of a copy", ratios, commit=commit(), machine=machine(), parts=found[-1])


async def _ledger(runs: int, count: int) -> Figure:
    """Transfers acknowledged on disk per second, from 64 clients, 1 in each request; `count`: seconds a turn."""
    found = await ledger.measure(runs, count or ledger.RUN_S)
    ours = [one["one a request"] for one in found]
    theirs = [one["pgbench simple-update"]["per_s"] for one in found]
    rates = [one["per_s"] for one in ours]
    return Figure(
        "ledger", median(rates), "transfers/s", rates, median([one["p50_ms"] for one in ours]),
        median([one["p99_ms"] for one in ours]), {"name": "pgbench simple-update", "value": median(theirs), "runs": theirs},
        round(median(rates) / median(theirs), 2), commit(), machine(), parts=found[-1],
    )  # fmt: skip


ALONE: dict[str, Callable[[int, int], Awaitable[Figure]]] = {
    "replay": _replay,
    "plan": _plan,
    "memory": _memory,
    "enrolment": _enrolment,
    "refused": _refused,
    "flood": _flood,
    "output": _output,
    "results": _results,
    "ledger": _ledger,
}
"""Those without a peer, and what makes their figure of (runs, count)."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="hivectl bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHES, *ALONE])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="how many times (default 3)")
    parser.add_argument("--count", type=int, default=0, help="how many tasks (default: the benchmark's own)")
    parser.add_argument("--peer", default="", metavar="PYTHON", help="interpreter of an environment with the peers")
    options = parser.parse_args()
    # What is printed is one JSON object: what the parts say goes elsewhere.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        figure = uvloop.run(measure(options.name, options.runs, options.count, options.peer))
    except (SystemFailed, RuntimeError) as error:
        print(f"hivectl bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(msgspec.json.encode(figure).decode())
        return 0
    print(f"{figure.bench}: {figure.value:g} {figure.unit} (runs: {', '.join(f'{run:g}' for run in figure.runs)})")
    if figure.p99_ms is not None:
        print(f"  p50 {figure.p50_ms:g} ms, p99 {figure.p99_ms:g} ms")
    if figure.peer is not None:
        print(f"  {figure.peer['name']}: {figure.peer['value']:g} {figure.unit}; ratio {figure.ratio:g}")
    if figure.limit is not None:
        print(f"  the machine's limit ({figure.limit['name']}): {figure.limit['value']:g} {figure.unit}")
    for name, values in (figure.parts or {}).items():
        print(f"  {name}: {', '.join(f'{key} {value:g}' for key, value in values.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
