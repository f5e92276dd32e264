"""`result`: the files that a job's tasks left."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from events.units import size_text
from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_job

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.schema import Result

HEADS = ("TASK", "PATH", "SIZE", "DIGEST")


@command("result")
@click.argument("job")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Download into DIR.", metavar="DIR")
@click.option("--task", type=click.IntRange(0), default=None, help="Only this task's.")
def result(context: Context, job: str, to: Path | None, task: int | None) -> int:
    """List or download the files that a job left; those of a stopped or failed task, too.

    A job of one task is written to DIR/PATH, an array to DIR/TASK/PATH. Started again, it goes on where it was: what is
    there and whole is not fetched again.
    """
    return asyncio.run(_result(context, job, to, task))


async def _result(context: Context, prefix: str, to: Path | None, task: int | None) -> int:
    output = context.output
    async with context.client() as hive:
        job = await hive.job(await find_job(hive, prefix))
        if task is not None and task >= job.count:
            raise Failure(
                f"--task: the job has {job.count} tasks, numbered from 0", "hivectl result --help", Exit.USAGE
            )
        results = [one async for one in hive.results(job.job) if task in (None, one.index)]
        if to is not None:
            return await _download(context, hive, results, to, flat=job.count == 1)
    if output.mode == "json":
        output.document(results)
    elif output.mode == "quiet":
        for one in results:
            output.line(one.digest)
    else:
        empty = f"{job.job} left no files: name them with `submit --result PATH`; it is {job.state}"
        rows = [(str(r.index), r.path, size_text(r.size), "expired" if r.expired else r.digest) for r in results]
        output.table(HEADS, rows, empty=empty)
    return Exit.OK


async def _download(context: Context, hive: "AsyncHive", results: list["Result"], to: Path, *, flat: bool) -> int:
    """Download everything, some at a time."""
    output = context.output
    total, done, files = sum(one.size for one in results), 0, 0
    with output.progress("download", total, amount=size_text) as bar:

        def came(count: int) -> None:
            nonlocal done
            done += count
            bar.update(done, f"{files}/{len(results)} files")

        def whole(path: Path) -> None:
            nonlocal files
            files += 1
            bar.update(done, f"{files}/{len(results)} files")
            if output.mode == "quiet":
                output.line(str(path))

        fetched = await hive.download_results(results, to, flat=flat, on_bytes=came, on_file=whole)
    if output.mode == "json":
        output.document({name: getattr(fetched, name) for name in ("written", "kept", "expired")})
    there = f", {len(fetched.kept)} were there" if fetched.kept else ""
    output.note(f"{format.count(len(fetched.written), 'file')} written to {to}{there}")
    if fetched.expired:
        first = fetched.expired[0].path
        raise Failure(
            f"{format.count(len(fetched.expired), 'file')} expired, the first is {first!r}",
            "ask an admin how long results are kept",
        )
    return Exit.OK


COMMANDS = {"result": result}
