"""`result`: the files that a job's tasks left."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from events.units import size_text
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_job

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.schema import Result

DOWNLOADS_MAX = 8
HEADS = ("TASK", "PATH", "SIZE", "DIGEST")


@command("result")
@click.argument("job")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Download into DIR.", metavar="DIR")
def result(context: Context, job: str, to: Path | None) -> None:
    """List or download the files that a job left.

    A job of one task is written to DIR/PATH, an array to DIR/TASK/PATH.
    """
    asyncio.run(_result(context, job, to))


async def _result(context: Context, prefix: str, to: Path | None) -> None:
    output = context.output
    async with context.client() as hive:
        job = await hive.job(await find_job(hive, prefix))
        results = [one async for one in hive.results(job.job)]
        if to is not None:
            await _download(context, hive, results, to, flat=job.count == 1)
    if output.mode == "json":
        output.document(results)
    elif output.mode == "quiet" or to is not None:
        for one in results:
            output.line(str(target(to, one, flat=job.count == 1)) if to else one.digest)
    else:
        empty = f"{job.job} left no files: name them with `submit --result PATH`; it is {job.state}"
        output.table(HEADS, [(str(r.index), r.path, size_text(r.size), r.digest) for r in results], empty=empty)


def target(to: Path, result: "Result", *, flat: bool) -> Path:
    """Where a result is written: always below `to`. Raises Failure for a path that would leave it."""
    path = (to if flat else to / str(result.index)) / result.path
    if not path.resolve().is_relative_to(to.resolve()):
        raise Failure(f"{result.path!r} of task {result.index} would be written outside {to}", code=Exit.REFUSED)
    return path


async def _download(context: Context, hive: "AsyncHive", results: list["Result"], to: Path, *, flat: bool) -> None:
    """Download everything, a few at a time."""
    turn = asyncio.Semaphore(DOWNLOADS_MAX)
    done = 0
    with context.output.progress("download", len(results)) as bar:

        async def one(result: "Result") -> None:
            nonlocal done
            path = target(to, result, flat=flat)
            async with turn:
                path.parent.mkdir(parents=True, exist_ok=True)
                await hive.download(result.digest, path)
            done += 1
            bar.update(done)

        async with asyncio.TaskGroup() as group:
            for result in results:
                group.create_task(one(result))


COMMANDS = {"result": result}
