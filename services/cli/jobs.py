"""`jobs`, and `job show|tasks|cancel|logs`."""

import asyncio
import shlex
import time
from typing import TYPE_CHECKING, Any, get_args

import click

from events.inputs import param_text
from events.units import cpt_text, size_text
from projections.rows import JobState, TaskState
from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit
from services.cli.find import find_job
from services.cli.options import PAIR
from services.cli.pipe import while_read

if TYPE_CHECKING:
    from web.schema import Job, Task

LIMIT = 50
LIMIT_MAX = 1000
RUNNING_SHOWN = 20
NAME_COLUMNS = 40
SUBMIT = "`hivectl submit --wait -- echo hello`"
JOB_HEADS = ("JOB", "STATE", "DONE", "FAILED", "PRIORITY", "AGE", "NAME")
TASK_HEADS = ("TASK", "STATE", "TRY", "WORKER", "END", "CODE", "DONE", "TIME", "CPU", "MEMORY", "REASON")


@command("jobs")
@click.option("--state", multiple=True, type=click.Choice(get_args(JobState)), help="Only jobs in this state.")
@click.option("--kind", type=click.Choice(("process", "container", "noop")), help="Only jobs of this kind.")
@click.option("--name", help="Only jobs with this name.")
@click.option("--label", type=PAIR, multiple=True, metavar="K=V", help="Only jobs with this label.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT, show_default=True)
@click.option("--cursor", default="", help="Go on where a page of --json said `next`.")
def jobs(context: Context, limit: int, cursor: str, **only: Any) -> None:
    """List jobs, newest first."""
    asyncio.run(_jobs(context, limit, cursor, only))


async def _jobs(context: Context, limit: int, cursor: str, only: dict[str, Any]) -> None:
    output = context.output
    async with context.client() as hive:
        page = await hive.jobs(
            state=list(only["state"]),
            kind=only["kind"] or "",
            name=only["name"] or "",
            labels=dict(only["label"]),
            cursor=cursor,
            limit=limit,
        )
    if output.mode == "json":
        output.document(page)
    elif output.mode == "quiet":
        for job in page.jobs:
            output.line(job.job)
    else:
        now = time.time()
        empty = "no job is like that" if any(only.values()) or cursor else f"no jobs yet; try {SUBMIT}"
        output.table(JOB_HEADS, [_job_row(job, now) for job in page.jobs], state=1, empty=empty)
        if page.next:
            output.note(f"there are more: --cursor {shlex.quote(page.next)}, or --limit up to {LIMIT_MAX}")


def _job_row(job: "Job", now: float) -> tuple[str, ...]:
    done = job.succeeded + job.failed + job.cancelled
    return (
        job.job,
        job.state,
        f"{done}/{job.count}",
        str(job.failed or ""),
        str(job.priority),
        format.ago(job.submitted_at, now),
        format.shorten(job.name or shlex.join(job.command), NAME_COLUMNS),
    )


@click.group("job")
def job() -> None:
    """Look at one job, follow it, cancel it."""


@command("show")
@click.argument("job")
def show(context: Context, job: str) -> None:
    """Everything about a job."""
    asyncio.run(_show(context, job))


async def _show(context: Context, prefix: str) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.job(await find_job(hive, prefix))
        running: list[Task] = []
        if output.mode == "text" and found.running:
            running = (await hive.tasks(found.job, state="running", limit=RUNNING_SHOWN)).tasks
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        output.line(found.state)
    else:
        output.facts(job_facts(found) + [fact for task in running if (fact := _progress_of(task))[1]])


def _progress_of(task: "Task") -> tuple[str, str]:
    """How far a running task says that it has come; "" when it does not say."""
    percent = f"{task.progress} %" if task.progress >= 0 else ""
    return f"task {task.index}", " ".join(filter(None, (percent, task.saying)))


def cost_text(job: "Job") -> str:
    """What the job costs by now; "" when nothing is known of that."""
    cost = job.cost
    if cost is None:
        return ""
    stops = f"; stopped at {format.clock(cost.stops_at)} for want of CPT" if cost.stops_at else ""
    return (
        f"{cpt_text(cost.charged + cost.accruing)} CPT by now, {cpt_text(cost.accruing)} of it for what runs; "
        f"{cpt_text(cost.held)} are set aside{stops}"
    )


def job_facts(job: "Job") -> list[tuple[str, str]]:
    """A job as names and values."""
    counts = {"queued": job.queued, "leased": job.leased, "running": job.running}
    counts |= {"succeeded": job.succeeded, "failed": job.failed, "cancelled": job.cancelled}
    tasks = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    needs = f"{job.cpus:g} CPU" + (f", {size_text(job.memory)}" if job.memory else "")
    needs += (f", {size_text(job.disk)} of disk" if job.disk else "") + (f", {job.pids} processes" if job.pids else "")
    if job.gpus:
        needs += f", {job.gpus:g} GPU" + (f" {job.gpu_model}" if job.gpu_model else "")
        needs += f" with {size_text(job.gpu_memory)}" if job.gpu_memory else ""
    return [
        ("job", job.job),
        ("name", job.name),
        ("state", job.state),
        ("reason", job.reason),
        ("tasks", f"{format.count(job.count, 'task')}: {tasks}"),
        ("command", shlex.join(job.command)),
        ("commands", "; ".join(job.commands)),
        ("entry", job.entry),
        ("image", job.image),
        ("kind", job.kind),
        ("needs", needs),
        ("priority", str(job.priority)),
        ("cost", cost_text(job)),
        ("labels", ", ".join(f"{name}={value}" for name, value in job.labels.items())),
        ("env", ", ".join(job.env)),
        ("cwd", job.cwd),
        ("after", ", ".join(job.after)),
        ("network", ", ".join(job.hosts) or job.network),
        ("inputs", ", ".join(file.path for file in job.inputs)),
        ("params", ", ".join(f"{name}={param_text(value)}" for name, value in job.params.items())),
        ("results", ", ".join(job.results)),
        ("submitted", format.clock(job.submitted_at)),
        ("finished", format.clock(job.finished_at) if job.finished_at else ""),
        ("position", job.position),
    ]


@command("tasks")
@click.argument("job")
@click.option("--state", type=click.Choice(get_args(TaskState)), help="Only tasks in this state.")
@click.option("--after", type=int, default=-1, help="Only tasks with a higher number.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT_MAX, show_default=True)
def tasks(context: Context, job: str, state: str | None, after: int, limit: int) -> None:
    """The tasks of a job: where each ran, how it ended, what it used."""
    asyncio.run(_tasks(context, job, state or "", after, limit))


async def _tasks(context: Context, prefix: str, state: str, after: int, limit: int) -> None:
    output = context.output
    async with context.client() as hive:
        page = await hive.tasks(await find_job(hive, prefix), state=state, after=after, limit=limit)
    if output.mode == "json":
        output.document(page)
    elif output.mode == "quiet":
        for task in page.tasks:
            output.line(str(task.index))
    else:
        output.table(
            TASK_HEADS, [_task_row(task) for task in page.tasks], state=1, empty="no task of this job is like that"
        )
        if page.next is not None:
            output.note(f"there are more: --after {page.next}")


def _task_row(task: "Task") -> tuple[str, ...]:
    detail = task.detail
    ended = bool(task.end)
    return (
        str(task.index),
        task.state,
        str(task.attempt or ""),
        task.worker,
        task.end,
        str(task.code) if ended else "",
        f"{task.progress}%" if task.progress >= 0 else "",
        format.span(detail.wall_ms / 1000) if detail else "",
        format.span(detail.cpu_ms / 1000) if detail else "",
        size_text(detail.memory_peak) if detail and detail.memory_peak else "",
        task.reason or format.plain(task.saying),
    )


@command("cancel")
@click.argument("job")
def cancel(context: Context, job: str) -> None:
    """Cancel a job: what waits is dropped, what runs is told to stop."""
    asyncio.run(_cancel(context, job))


async def _cancel(context: Context, prefix: str) -> None:
    output = context.output
    async with context.client() as hive:
        found = await find_job(hive, prefix)
        done = await hive.cancel(found)
    if output.mode == "json":
        output.document(done)
    elif done.existing:
        output.note(f"{found} had ended or was being cancelled already")
    else:
        output.note(f"{found} is being cancelled")


@command("logs", listing=False)
@click.argument("job")
@click.option(
    "--task", "index", type=click.IntRange(0), default=None, help="Only this task's [all, one after another]."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option(
    "--stream",
    type=click.Choice(("both", "stdout", "stderr", "emit", "all")),
    default="both",
    show_default=True,
    help="Which of them; emit: what tasks told of themselves, in lines of JSON.",
)
@click.option("-t", "--timestamps", "times", is_flag=True, help="When it was printed, before each line.")
def logs(context: Context, job: str, index: int | None, follow: bool, stream: str, times: bool) -> int:
    """What a job's tasks wrote, byte for byte: standard output and standard error each to its own."""
    return asyncio.run(_logs(context, job, index, follow, stream, times))


async def _logs(context: Context, prefix: str, index: int | None, follow: bool, stream: str, times: bool) -> int:
    from services.cli.logs import copy_output

    async with context.client() as hive:
        found = await hive.job(await find_job(hive, prefix))
        indexes = range(found.count) if index is None else [index]
        if follow and (database := (await hive.status()).database) != "ok":
            context.output.note(f"the database is {database}; following by what the log alone tells")
        async with while_read():
            for one in indexes:
                await copy_output(context.output, hive, found.job, one, follow=follow, stream=stream, times=times)
    return Exit.OK


@command("emitted")
@click.argument("job")
@click.option("--task", "index", type=click.IntRange(0), default=0, show_default=True, help="Of this task.")
def emitted(context: Context, job: str, index: int) -> None:
    """The structured results that a task told of (see `hivectl emit --help`), once it has ended."""
    asyncio.run(_emitted(context, job, index))


async def _emitted(context: Context, prefix: str, index: int) -> None:
    async with context.client() as hive:
        found = await find_job(hive, prefix)
        told = await hive.emitted(found, index)
    if context.output.mode == "json":
        context.output.document(told)
    else:
        for one in told:
            context.output.json_line(one)
        if not told:
            context.output.note(f"task {index} of {found} told of no structured results, or has not ended")


job.add_command(show)
job.add_command(emitted)
job.add_command(tasks)
job.add_command(cancel)
job.add_command(logs)

COMMANDS = {"jobs": jobs, "job": job}
