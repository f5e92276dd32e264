"""`worker show`: one machine with its hardware and what it uses; `worker gpus`: the GPUs of this very machine."""

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from events.hardware import UNKNOWN
from events.protocol import HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN
from events.units import size_text
from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_worker
from services.cli.options import DURATION

if TYPE_CHECKING:
    from infra.nvml import Card, Nvml
    from web.schema import WorkerView
    from web.usage_schema import GpuUseView, UsageView

SAMPLES_MAX = 1000
GPU_HEADS = ("GPU", "NAME", "MEMORY", "USED", "BY TASKS", "BUSY", "TEMP", "POWER", "OTHERS")
CARD_HEADS = ("GPU", "UUID", "NAME", "MEMORY", "USED", "BUSY", "TEMP", "POWER", "ECC", "PROCESSES")
BLOCKS = " ▁▂▃▄▅▆▇█"
CHART_COLUMNS = 60


@command("show")
@click.argument("worker")
def show(context: Context, worker: str) -> None:
    """Show a worker: its hardware, and what it uses now and used in the last ten minutes."""
    asyncio.run(_show(context, worker))


async def _show(context: Context, prefix: str) -> None:
    async with context.client() as hive:
        found = await hive.worker(await find_worker(hive, prefix))
        points = await hive.worker_usage(found.worker) if found.usage else []
    output = context.output
    if output.mode == "json":
        output.document(found)
        return
    for line in _lines(found, time.time()):
        output.line(line)
    if found.gpus:
        uses = {gpu.uuid: gpu for gpu in found.usage.gpus} if found.usage else {}
        rows = [
            gpu_row(at, gpu.name + (" (slice)" if gpu.part else ""), gpu.memory, uses.get(gpu.uuid))
            for at, gpu in enumerate(found.gpus)
        ]
        output.table(GPU_HEADS, rows, state=0, empty="")
    if len(points) > 1:
        span = format.span((points[-1].at - points[0].at) / 1000)
        output.line(f"CPU, last {span}:  {chart([point.cpu_percent for point in points])}")


def _lines(worker: "WorkerView", now: float) -> list[str]:
    """Everything but the tables."""
    state = "drained" if worker.drained and worker.state == "ready" else worker.state
    name = f" ({format.plain(worker.name)})" if worker.name else ""
    lines = [
        f"{worker.worker}{name}: {state} since {format.ago(worker.since, now)}",
        f"offers    {worker.cpus:g} CPUs, {size_text(worker.memory)}, {gpus_text(worker)}; runs {', '.join(worker.kinds)}",
        f"tasks     {worker.leased} now, {worker.finished} succeeded, {worker.failed} failed",
    ]
    if has := worker.inventory:
        lines.append(f"machine   {has.cpu or has.arch}, {has.cores} cores, {has.system}, Linux {has.kernel}")
        if has.driver:
            lines.append(f"NVIDIA    driver {has.driver}, CUDA {has.cuda}")
    if used := worker.usage:
        lines += _usage_lines(used)
    if worker.warning:
        lines.append(worker.warning)
    return lines


def _usage_lines(used: "UsageView") -> list[str]:
    disk = f"{size_text(used.disk_free)} free, {size_text(used.disk_read)}/s read, {size_text(used.disk_written)}/s written"
    return [
        f"CPU       {used.cpu_percent:.0f} %, load {used.load:g}",
        f"memory    {size_text(used.memory_used)} of {size_text(used.memory_total)}, {size_text(used.swap_used)} swapped",
        f"disk      {disk}",
        f"network   {size_text(used.net_received)}/s in, {size_text(used.net_sent)}/s out",
    ]


def gpus_text(worker: "WorkerView") -> str:
    """Its GPUs in a few words: `2 x NVIDIA A100-SXM4-80GB`."""
    counts: dict[str, int] = {}
    for gpu in worker.gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no GPU"


def gpu_row(at: int, name: str, memory: int, use: "GpuUseView | None") -> tuple[str, ...]:
    """A GPU as a row under GPU_HEADS."""
    head = (str(at), name, size_text(memory))
    if use is None:
        return (*head, "-", "-", "-", "-", "-", "-")
    if use.lost:
        return (*head, "does not answer", "-", "-", "-", "-", "-")
    power = "-" if use.power is None else f"{use.power} W" + (f" of {use.power_limit}" if use.power_limit else "")
    return (
        *head, size_text(use.memory_used), size_text(use.memory_own), _told(use.utilisation, " %"),
        _told(use.temperature, " °C"), power, format.count(use.foreign, "process", "processes") if use.foreign else "-",
    )  # fmt: skip


def _told(value: int | None, unit: str) -> str:
    return "-" if value is None or value == UNKNOWN else f"{value}{unit}"


def chart(percents: list[float]) -> str:
    """Percentages as blocks, averaged to at most CHART_COLUMNS."""
    width = min(CHART_COLUMNS, len(percents))
    cuts = [at * len(percents) // width for at in range(width + 1)]
    means = [sum(percents[a:b]) / (b - a) for a, b in pairwise(cuts)]
    return "".join(BLOCKS[min(8, max(0, round(mean / 12.5)))] for mean in means)


@command("configure")
@click.argument("worker")
@click.option("--heartbeat", type=DURATION, required=True, help="Measure so often: 500ms to 5s.")
def configure(context: Context, worker: str, heartbeat: float) -> None:
    """Have a worker measure its machine, and tell of it, more often or less."""
    asyncio.run(_configure(context, worker, heartbeat))


async def _configure(context: Context, prefix: str, heartbeat: float) -> None:
    least, most = HEARTBEAT_MS_MIN / 1000, HEARTBEAT_MS_MAX / 1000
    if not least <= heartbeat <= most:
        raise Failure(f"--heartbeat is {heartbeat:g} s; must be from {least:g} to {most:g} s", "try 1s", Exit.USAGE)
    async with context.client() as hive:
        found = await find_worker(hive, prefix)
        done = await hive.configure(found, heartbeat)
    if context.output.mode == "json":
        context.output.document(done)
    else:
        context.output.note(f"{found} measures its machine every {heartbeat:g} s")


@command("gpus", remote=False)
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Write what the driver answers to a file."
)
@click.option(
    "--samples", type=click.IntRange(1, SAMPLES_MAX), default=1, show_default=True, help="How often to ask it."
)
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds in between."
)
@click.option("--recording", type=click.Path(exists=True, path_type=Path), help="Ask a recording, not this machine.")
def gpus(context: Context, record: Path | None, samples: int, interval: float, recording: Path | None) -> int:
    """List the GPUs of this machine, and how many processes use each; no hive is needed.

    With --record everything that NVIDIA's driver answers is kept, for tests on machines without a GPU, and for showing a
    trouble to others: `worker run --nvml-recording FILE` plays it. It holds UUIDs and process ids, and no name of yours.
    """
    from infra.nvml import Nvml, NvmlAbsent, installed
    from infra.nvml_recording import Recorded, Recorder

    try:
        recorder = Recorder(Recorded.load(recording) if recording else installed())
        nvml = Nvml.over(recorder)
        cards = _ask(nvml, samples, interval)
    except NvmlAbsent as error:
        raise Failure(str(error), "without one, tasks that need a GPU go elsewhere", Exit.REFUSED) from error
    except ValueError as error:
        raise Failure(str(error), "record it again", Exit.USAGE) from error
    driver, cuda = nvml.versions()
    nvml.close()
    if record is not None:
        try:
            recorder.save(record)
        except OSError as error:
            raise Failure(f"{record} cannot be written: {error.strerror}", "name another file") from error
    output = context.output
    if output.mode == "json":
        output.document({"driver": driver, "cuda": cuda, "gpus": cards})
        return Exit.OK
    output.table(CARD_HEADS, [_card_row(at, card) for at, card in enumerate(cards)], state=0, empty="no GPU answers")
    output.note(
        f"driver {driver or 'unknown'}, CUDA {cuda or 'unknown'}" + (f"; recorded in {record}" if record else "")
    )
    return Exit.OK


def _ask(nvml: "Nvml", samples: int, interval: float) -> "list[Card]":
    for _ in range(samples - 1):
        nvml.cards()
        time.sleep(interval)
    return nvml.cards()


def _card_row(at: int, card: "Card") -> tuple[str, ...]:
    watts = f"{card.power_mw / 1000:.0f} W" if card.power_mw != UNKNOWN else "-"
    return (
        str(at), card.uuid, card.name, size_text(card.memory_total), size_text(card.memory_used),
        _told(card.utilisation, " %"), _told(card.temperature, " °C"), watts, _told(card.ecc_errors, ""),
        "does not answer" if card.lost else str(len(card.processes)),
    )  # fmt: skip
