"""`submit`: hand in a job; with --wait, stay until it has ended."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from events.spec import STOP_SIGNALS, BadSpec, Input, JobSpec, SecretUse, check_spec
from services.cli import hints, inputs, options
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_job
from services.cli.inputs import upload
from services.cli.options import DURATION, FETCH, FROM, INPUT, PAIR, PARAM, RETRY, SECRET, SIZE, UNPACK
from services.cli.wait import wait

if TYPE_CHECKING:
    pass


@command("submit", context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--name", default="", help="A name for people.")
@click.option("--count", type=int, default=1, show_default=True, help="Tasks; each has HIVE_INDEX in its environment.")
@click.option("--cpus", type=float, default=1.0, show_default=True, help="CPUs a task needs; may be a fraction.")
@click.option("--memory", type=SIZE, default=0, help="Memory a task may use, such as 512MB or 2GiB [no limit].")
@click.option("--gpus", type=float, default=0.0, help="GPUs a task needs: whole ones, or a share of one such as 0.25.")
@click.option("--gpu-memory", type=SIZE, default=0, help="Memory it needs on each, such as 20GiB [not said].")
@click.option("--gpu-model", default="", metavar="NAME", help="Part of their name, such as A100 or rtx-4090 [any].")
@click.option("--time-limit", type=DURATION, default=0.0, help="A task ends after this: 90s, 5m, 2h [never].")
@click.option("--priority", type=int, default=5, show_default=True, help="1 to 10; higher goes first.")
@click.option("--env", type=PAIR, multiple=True, metavar="K=V", help="For the tasks' environment; repeatable.")
@click.option(
    "--secret",
    "secrets",
    type=SECRET,
    multiple=True,
    metavar="[VAR=]NAME",
    help="Your secret NAME in the variable VAR [NAME].",
)
@click.option("--label", type=PAIR, multiple=True, metavar="K=V", help="To find the job by; repeatable.")
@click.option("--cwd", default="", metavar="DIR", help="Folder to run in, below the task's own folder.")
@click.option("--after", multiple=True, metavar="JOB", help="Run only when this job has succeeded; repeatable.")
@click.option("--param", "params", type=PARAM, multiple=True, help="A parameter, such as lr=0.1 or tag:text=7.")
@click.option("--input", "inputs", type=INPUT, multiple=True, help="Upload a file or folder for the tasks.")
@click.option("--unpack", type=UNPACK, multiple=True, help="Upload an archive, which is unpacked for the tasks.")
@click.option("--fetch", type=FETCH, multiple=True, help="Workers fetch this; NAME/ unpacks it there.")
@click.option("--from", "from_", type=FROM, multiple=True, help="Wait for this job, and take its results.")
@click.option(
    "--result",
    "results",
    multiple=True,
    metavar="PATH",
    help="Keep this file, folder (out/; ./ is all but the inputs) or pattern (logs/**/*.txt); repeatable.",
)
@click.option("--image", default="", help="Run in a container of this image, where a worker has an engine.")
@click.option("--pull", type=click.Choice(["missing", "always", "never"]), help="When to fetch the image [missing].")
@click.option("--image-secret", default="", metavar="NAME", help="Your secret NAME:PASSWORD for the image's registry.")
@click.option(
    "--sh", "commands", multiple=True, metavar="LINE", help="A shell command; several run in turn. Repeatable."
)
@click.option(
    "--python", "entry", metavar="FILE", help="Run this file of the inputs, or, as '', main, app, run or start.py."
)
@click.option(
    "--network", type=click.Choice(["none", "full"]), help="Which network tasks have, where workers allow it."
)
@click.option("--host", "hosts", multiple=True, metavar="NAME[:PORT]", help="Reach these hosts alone; repeatable.")
@click.option("--disk", type=SIZE, default=0, help="How large the task's folder may get [as the worker gives].")
@click.option("--pids", type=int, default=0, help="How many processes a task may have [as the worker gives].")
@click.option(
    "--stop-signal", type=click.Choice(STOP_SIGNALS), default="TERM", help="What a task is asked to stop with [TERM]."
)
@click.option("--grace", type=DURATION, default=5.0, help="How long it then has before all of it is killed [5s].")
@click.option("--swap", type=SIZE, default=0, help="How much a container may swap beyond its memory [nothing].")
@click.option(
    "--retries", type=int, default=None, metavar="N", help="Tries after a task failed by itself: exit, oom or timeout."
)
@click.option(
    "--retry", type=RETRY, multiple=True, metavar="CAUSE=N", help=f"By cause: {', '.join(options.RETRY_CAUSES)}."
)
@click.option("--max-cpt", type=float, default=0.0, metavar="CPT", help="Refuse it when it may cost more [no limit].")
@click.option("--quote", "quotes", is_flag=True, help="Say what it would cost, and hand in nothing.")
@click.option("--idempotency-key", default="", metavar="KEY", help="The same key never makes two jobs.")
@click.option("--wait", "waits", is_flag=True, help="Stay until it has ended, and show its output.")
def submit(
    context: Context, words: tuple[str, ...], quotes: bool, waits: bool, idempotency_key: str, **asked: Any
) -> int:
    """Hand in a job that runs COMMAND; prints its id.

    With --wait the exit code is that of the task; of an array: 0 when every task succeeded, else 1.

    \b
    Examples:
      hivectl submit --wait -- echo hello
      hivectl submit --count 100 --cpus 0.5 -- python3 -c 'import os; print(os.environ["HIVE_INDEX"])'
      hivectl submit --sh 'mkdir out' --sh 'cd out' --sh 'date > when'
      hivectl submit --image python:3.12 --host pypi.org --host files.pythonhosted.org -- pip download numpy
      hivectl submit --input data.csv --result out.csv -- sh -c 'sort data.csv > out.csv'
      hivectl submit --input src --param lr=0.1 --result out/ -- python3 src/train.py
    """
    if quotes:
        from services.cli.costs import ask_quote

        return asyncio.run(ask_quote(context, words, asked))
    return asyncio.run(_submit(context, words, waits, idempotency_key, asked))


async def _submit(context: Context, words: tuple[str, ...], waits: bool, key: str, asked: dict[str, Any]) -> int:
    check(spec_of(words, asked, inputs.planned(asked)))
    async with context.client() as hive:
        files = await upload(context, hive, asked)
        after = [await find_job(hive, prefix) for prefix in asked["after"]]
        spec = spec_of(words, asked, files, after)
        check(spec)
        submitted = await hive.submit_spec(spec, idempotency_key=key)
        output = context.output
        if submitted.existing:
            output.note(f"{submitted.job} was handed in before with this idempotency key")
        if waits:
            return await wait(context, hive, submitted.job, spec.count)
    if output.mode == "json":
        output.document(submitted)
    else:
        output.line(submitted.job)
        output.note(f"follow it: {hints.invocation(context.folder())} job logs -f {submitted.job}")
    return Exit.OK


def spec_of(
    words: tuple[str, ...], asked: dict[str, Any], files: list[Input] | None = None, after: list[str] | None = None
) -> JobSpec:
    """The job asked for; inputs that are not uploaded yet have no digest."""
    return JobSpec(
        command=list(words),
        image=asked["image"],
        count=asked["count"],
        name=asked["name"],
        labels=dict(asked["label"]),
        env=dict(asked["env"]),
        cwd=asked["cwd"],
        priority=asked["priority"],
        cpus=asked["cpus"],
        memory=asked["memory"],
        gpus=asked["gpus"],
        gpu_memory=asked["gpu_memory"],
        gpu_model=asked["gpu_model"],
        time_limit=asked["time_limit"],
        retries=options.retries(asked["retries"], asked["retry"]),
        after=after or [],
        inputs=files or [],
        params=dict(asked["params"]),
        results=list(asked["results"]),
        kind="python" if asked["entry"] is not None else "",
        commands=list(asked["commands"]),
        entry=asked["entry"] or "",
        pull=asked["pull"] or "",
        image_secret=asked["image_secret"],
        network=asked["network"] or "",
        hosts=list(asked["hosts"]),
        disk=asked["disk"],
        pids=asked["pids"],
        swap=asked["swap"],
        stop_signal=asked["stop_signal"],
        grace=asked["grace"],
        secrets=[SecretUse(name, variable) for variable, name in asked["secrets"]],
        max_cpt=asked["max_cpt"],
    )


_OPTION_OF = {"command": "COMMAND", "env": "--env", "labels": "--label", "inputs": "--input", "results": "--result",
              "secrets": "--secret", "params": "--param", "commands": "--sh", "entry": "--python", "hosts": "--host"}  # fmt: skip


def check(spec: JobSpec) -> None:
    """What the hive would refuse is refused here, before anything is uploaded, in terms of the options."""
    try:
        check_spec(spec)
    except BadSpec as error:
        if error.field == "command" and not spec.command:
            raise Failure("COMMAND is missing", "hivectl submit --wait -- echo hello", Exit.USAGE) from error
        head = error.field.replace("[", ".").split(".")[0]
        option = _OPTION_OF.get(head, "--" + head.replace("_", "-"))
        joined = " " if error.detail.startswith(("is ", "has ", "must ", "needs ")) else ": "
        raise Failure(f"{option}{joined}{error.detail}", "hivectl submit --help", Exit.USAGE) from error


COMMANDS = {"submit": submit}
