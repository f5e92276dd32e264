"""`workers`, and `worker ...`: running one, bringing one in, and taking one out of service."""

import asyncio
import time
from typing import TYPE_CHECKING

import click

from events.units import size_text
from services.cli import format
from services.cli.context import Context, command
from services.cli.enrolments import ban, rename, token
from services.cli.find import find_worker
from services.cli.worker_run import join, rekey, run
from services.cli.worker_show import configure, gpus, gpus_text, show

if TYPE_CHECKING:
    from web.schema import WorkerView

NAME_COLUMNS = 40
GPU_COLUMNS = 30
HEADS = ("WORKER", "STATE", "CPUS", "MEMORY", "GPUS", "RUNNING", "DONE", "FAILED", "LEVEL", "SINCE", "VERSION", "NAME")


@command("workers")
def workers(context: Context) -> None:
    """List the machines of the pool."""
    asyncio.run(_workers(context))


async def _workers(context: Context) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.workers()
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for worker in found:
            output.line(worker.worker)
    else:
        now = time.time()
        empty = "no workers yet; `hivectl worker run` starts one here"
        output.table(HEADS, [worker_row(worker, now) for worker in found], state=1, empty=empty)
        for worker in found:
            if worker.warning:
                output.note(f"{worker.worker}: {worker.warning}")


def worker_row(worker: "WorkerView", now: float) -> tuple[str, ...]:
    """A worker as a row under HEADS. Names are for people, and of any length: they are cut."""
    state = "drained" if worker.drained and worker.state == "ready" else worker.state
    name = format.shorten(worker.name, NAME_COLUMNS)
    memory = size_text(worker.memory)
    counts = (str(worker.leased), str(worker.finished), str(worker.failed))
    since = format.ago(worker.since, now)
    has = format.shorten(gpus_text(worker), GPU_COLUMNS) if worker.gpus else "-"
    return (
        worker.worker,
        state,
        f"{worker.cpus:g}",
        memory,
        has,
        *counts,
        worker.level or "-",
        since,
        worker.version,
        name,
    )


@click.group("worker")
def worker() -> None:
    """Run a worker here, or take one out of service."""


@command("drain")
@click.argument("worker")
def drain(context: Context, worker: str) -> None:
    """Give a worker nothing new; what it has, it finishes."""
    asyncio.run(_drain(context, worker, on=True))


@command("undrain")
@click.argument("worker")
def undrain(context: Context, worker: str) -> None:
    """Give a drained worker work again."""
    asyncio.run(_drain(context, worker, on=False))


async def _drain(context: Context, prefix: str, *, on: bool) -> None:
    async with context.client() as hive:
        found = await find_worker(hive, prefix)
        done = await hive.drain(found, on=on)
    if context.output.mode == "json":
        context.output.document(done)
    elif on:
        context.output.note(
            f"{found} gets nothing new and finishes what it has; `hivectl worker undrain` takes it back"
        )
    else:
        context.output.note(f"{found} gets work again")


@command("remove")
@click.argument("worker")
def remove(context: Context, worker: str) -> None:
    """Let a worker go: its key opens nothing any more."""
    asyncio.run(_remove(context, worker))


async def _remove(context: Context, prefix: str) -> None:
    async with context.client() as hive:
        found = await find_worker(hive, prefix)
        await hive.forget(found)
    context.output.note(f"{found} is disconnected and may not come back; what it ran is given to others")


worker.add_command(run)
worker.add_command(show)
worker.add_command(configure)
worker.add_command(gpus)
worker.add_command(join)
worker.add_command(rekey)
worker.add_command(token)
worker.add_command(ban)
worker.add_command(rename)
worker.add_command(drain)
worker.add_command(undrain)
worker.add_command(remove)

COMMANDS = {"workers": workers, "worker": worker}
