"""`workers`, and `worker run|drain|undrain|remove`."""

import asyncio
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Failure
from services.cli.find import find_worker
from services.cli.options import SIZE
from web.schema import EnrolAnswer

if TYPE_CHECKING:
    from web.schema import WorkerView

HEADS = ("WORKER", "STATE", "CPUS", "MEMORY", "RUNNING", "DONE", "FAILED", "SINCE", "VERSION")


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
@click.option("--name", default=socket.gethostname, show_default="this machine's name", help="A name for people.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Folder for its key, cache and spool.")
@click.option("--cpus", type=click.FloatRange(0.001), help="CPUs to offer [all].")
@click.option("--memory", type=SIZE, help="Memory to offer, such as 8GiB [nearly all].")
def run(context: Context, name: str, state: Path | None, cpus: float | None, memory: int | None) -> int:
    """Run a worker here until Ctrl-C.

    Ctrl-C once finishes what runs, twice stops now. The worker makes a key of its own in its state folder, and enrols
    with it; the hive's admin key is needed for that alone.
    """
    context.serving = True
    from infra.logging import configure
    from services.version import VERSION
    from worker import agent, identity

    configure(json=not sys.stderr.isatty(), level="debug" if context.debug else "warning")
    folder = (state or context.folder().path("workers", _folder_name(name))).absolute()
    me = identity.load_or_create(folder)
    url, enrolled = asyncio.run(_enrol(context, folder, me.public_key, name))
    os.environ.pop("HIVE_KEY", None)  # no task may find it
    context.output.note(f"worker {enrolled.worker} ({name}) joins pool {enrolled.pool} at {url}")
    options = agent.AgentOptions(
        state=folder,
        worker=enrolled.worker,
        pool=enrolled.pool,
        nats_url=enrolled.nats_url,
        api_url=url,
        seed=me.seed_path,
        cpus=cpus or 0.0,
        memory_bytes=memory or 0,
        version=VERSION,
    )
    try:
        return agent.run(options)
    except identity.StateInUse as error:
        raise Failure(str(error)) from error


def _folder_name(name: str) -> str:
    """A name for people as that of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "worker"


class Enrolment(msgspec.Struct, frozen=True):
    """What enrolling told the worker, and where it enrolled."""

    url: str
    answer: EnrolAnswer


_enrolment_of = msgspec.json.Decoder(Enrolment).decode


async def _enrol(context: Context, folder: Path, public_key: str, name: str) -> tuple[str, EnrolAnswer]:
    """Have the hive take this worker in. While it is away, what it answered last time holds."""
    from infra.folder import write_atomic
    from web.client import Unavailable

    kept = folder / "enrolment.json"
    try:
        url, _ = context.address()
        async with context.client() as hive:
            answer = await hive.enrol(public_key, name)
    except (Failure, Unavailable) as error:
        # Also for want of a key: one that is enrolled needs none, and the hive may just be starting.
        try:
            known = _enrolment_of(kept.read_bytes())
        except (OSError, msgspec.DecodeError):
            raise error from None
        context.output.note(f"not enrolled again ({error}); going on as enrolled at {known.url} before")
        return known.url, known.answer
    write_atomic(kept, msgspec.json.encode(Enrolment(url, answer)))
    return url, answer


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
worker.add_command(drain)
worker.add_command(undrain)
worker.add_command(remove)

COMMANDS = {"workers": workers, "worker": worker}
