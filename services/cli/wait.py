"""Stays with a job until it has ended: its output as it comes, or how far it is, then how it ended."""

import asyncio
from typing import TYPE_CHECKING

from services.cli import format, hints
from services.cli.context import Context
from services.cli.failure import Exit
from services.cli.logs import copy_output

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.schema import Job

SHELL_CODE_MAX = 255
SIGNAL_BASE = 128
LOOK_S = 0.3
FAILED_SHOWN_MAX = 5
OUTPUT_TASKS_MAX = 100
"""Up to so many tasks an array's output is shown; of more it would be noise."""


async def wait(context: Context, hive: "AsyncHive", job: str, count: int) -> int:
    """Show the job's output until it has ended; the exit code for it. Ctrl-C leaves the job alone and says so.

    An array of more than OUTPUT_TASKS_MAX tasks shows how far it is instead, and so does --json: its output is the job.
    """
    try:
        if context.output.mode == "json" or count > OUTPUT_TASKS_MAX:
            await _watch(context, hive, job, count)
        else:
            await _copy(context, hive, job, count)
        ended = await hive.wait(job)
    except asyncio.CancelledError:
        hivectl = hints.invocation(context.folder())
        context.output.note(f"\n{job} goes on without you")
        context.output.note(f"  follow it: {hivectl} job logs -f {job}")
        context.output.note(f"  cancel it: {hivectl} job cancel {job}")
        raise
    return await _conclude(context, hive, ended)


async def _copy(context: Context, hive: "AsyncHive", job: str, count: int) -> None:
    """The tasks' output, one after another, and meanwhile why the job is held."""
    explaining = asyncio.create_task(_explain(context, hive, job))
    try:
        for index in range(count):
            await copy_output(context.output, hive, job, index, follow=True)
    finally:
        explaining.cancel()
        await asyncio.gather(explaining, return_exceptions=True)


async def _explain(context: Context, hive: "AsyncHive", job: str) -> None:
    """Say why the job waits, and again when the reason changes, until it waits no more."""
    said = last = ""
    while (seen := await hive.job(job)).state == "held":
        if _is_news(seen.reason, said, last):
            said = seen.reason
            context.output.note(f"{job} is held: {said}")
        last = seen.reason
        await asyncio.sleep(LOOK_S)


def _is_news(reason: str, said: str, last: str) -> bool:
    """Whether to say this reason. The ledger mostly needs a moment: that is no news until it was seen twice."""
    return reason != said and (reason == last or not reason.startswith("funds"))


async def _watch(context: Context, hive: "AsyncHive", job: str, count: int) -> None:
    """How many tasks have ended."""
    said = last = ""
    with context.output.progress(job, count) as bar:
        while True:
            seen = await hive.job(job)
            done = seen.succeeded + seen.failed + seen.cancelled
            bar.update(done, f"{seen.running} running" + (f", {seen.failed} failed" if seen.failed else ""))
            if seen.finished_at:
                return
            if seen.state == "held" and _is_news(seen.reason, said, last):
                said = seen.reason
                bar.say(f"{job} is held: {said}")
            last = seen.reason
            await asyncio.sleep(LOOK_S)


async def _conclude(context: Context, hive: "AsyncHive", job: "Job") -> int:
    """Say how it ended, unless it is well and single; the exit code."""
    output = context.output
    if output.mode == "json":
        output.document(job)
    if job.state == "succeeded":
        if job.count > 1:
            output.note(f"{job.job} succeeded: {format.count(job.count, 'task')}")
        return Exit.OK
    output.note(f"{job.job} {job.state}" + (f": {job.reason}" if job.reason else ""))
    if job.count > 1 and job.failed:
        page = await hive.tasks(job.job, state="failed", limit=FAILED_SHOWN_MAX)
        shown = ", ".join(str(task.index) for task in page.tasks)
        output.note(
            f"  failed: {shown}{', ...' if job.failed > FAILED_SHOWN_MAX else ''}; see `hivectl job tasks {job.job}`"
        )
    return await _code(hive, job) if job.count == 1 else Exit.JOB_FAILED


async def _code(hive: "AsyncHive", job: "Job") -> int:
    """The one task's own code, as a shell would give it: 128 + n when signal n ended it."""
    page = await hive.tasks(job.job, limit=1)
    task = page.tasks[0] if page.tasks else None
    if task is None or task.end != "exit" or task.code == 0:
        return Exit.JOB_FAILED
    code = SIGNAL_BASE - task.code if task.code < 0 else task.code
    return code if code <= SHELL_CODE_MAX else Exit.JOB_FAILED
