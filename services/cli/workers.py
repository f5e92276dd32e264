"""`workers`, and `worker run|drain|undrain|remove`."""

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_worker
from services.cli.options import SIZE

if TYPE_CHECKING:
    from web.schema import WorkerView

HEADS = ("WORKER", "STATE", "CPUS", "MEMORY", "RUNS", "TASKS", "FAILED", "SINCE", "VERSION")


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
        output.table(HEADS, [_row(worker, now) for worker in found], state=1)


def _row(worker: "WorkerView", now: float) -> tuple[str, ...]:
    state = "drained" if worker.drained and worker.state == "ready" else worker.state
    memory = format.size(worker.memory)
    counts = (str(worker.leased), str(worker.finished), str(worker.failed))
    return (worker.worker, state, f"{worker.cpus:g}", memory, *counts, format.ago(worker.since, now), worker.version)


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


@command("run", listing=False)
@click.option("--name", default=socket.gethostname(), show_default="this machine's name", help="A name for people.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Folder for its key, cache and spool.")
@click.option("--cpus", type=click.FloatRange(0.1), help="CPUs to offer [all].")
@click.option("--memory", type=SIZE, help="Memory to offer, such as 8GiB [nearly all].")
def run(context: Context, name: str, state: Path | None, cpus: float | None, memory: int | None) -> int:
    """Run a worker here until Ctrl-C: once finishes what runs, twice stops now.

    It makes a key of its own in its state folder and enrols with it; the admin key is needed for that alone.
    """
    return asyncio.run(_run(context, name, state, cpus, memory))


async def _run(context: Context, name: str, state: Path | None, cpus: float | None, memory: int | None) -> int:
    from infra.logging import configure
    from worker.agent import AgentOptions, run
    from worker.identity import Identity

    configure(json=not sys.stderr.isatty(), level="debug" if context.debug else "warning")
    url, _ = context.address()
    folder = state or context.folder().path("workers", name)
    raise NotImplementedError


worker.add_command(run)
worker.add_command(drain)
worker.add_command(undrain)

COMMANDS = {"workers": workers, "worker": worker}
