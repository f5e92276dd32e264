"""`report show`: what a worker said of a task, as it signed it, checked here."""

import asyncio
import base64
import binascii
from typing import Any

import click
import msgspec

from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.find import find_job
from web.reports_schema import ReportView


@click.group("report")
def report() -> None:
    """Workers' reports: what they said, and that it was they who said it."""


@command("show")
@click.argument("digest", required=False, default="")
@click.option("--job", default="", help="The report that says how a task of this job ended.")
@click.option("--task", default=0, show_default=True, type=click.IntRange(0), help="Which task of the job.")
@click.option("--lease", default=0, type=click.IntRange(0), help="Under which attempt [the last one].")
def show(context: Context, digest: str, job: str, task: int, lease: int) -> int:
    """Show a report, and check its worker's signature on this machine.

    By its DIGEST, as in the event `worker.reported`; or with --job and --task the one that says how that task ended. For
    observers, operators and admins, and for the owner of the worker. Exit code 3 when the signature is not good.
    """
    if bool(digest) == bool(job):
        raise Failure("name one of DIGEST and --job", "hivectl report show --job JOB --task 0", Exit.USAGE)
    return asyncio.run(_show(context, digest, job, task, lease))


async def _show(context: Context, digest: str, job: str, task: int, lease: int) -> int:
    async with context.client() as hive:
        if job:
            found = await hive.access.reports_of(await find_job(hive, job), task)
            wanted = [one for one in found if one.digest and lease in (0, one.lease)]
            if not wanted:
                raise Failure(
                    "no worker signed how that attempt ended",
                    "the hive itself ended it, as when a worker is lost; leave out --lease for the last one", Exit.REFUSED,
                )  # fmt: skip
            digest = wanted[-1].digest
        view = await hive.access.report(digest)
    good, said = check(view)
    output = context.output
    if output.mode == "json":
        output.document({**msgspec.to_builtins(view), "good": good, "said": said})
    elif output.mode == "quiet":
        output.line("good" if good else "bad")
    else:
        whose = "the worker's key" if view.is_its_key else "a key that the worker had, or that of one that was let go"
        output.facts([
            ("Report", view.digest), ("Worker", f"{view.worker} in pool {view.pool}"), ("Recorded", f"at {view.position}"),
            ("Key", f"{view.key}, {whose}"), ("Signature", "good" if good else "NOT GOOD: nobody with this key said this"),
        ])  # fmt: skip
        output.line(msgspec.json.format(msgspec.json.encode(said), indent=2).decode())
    return Exit.OK if good else Exit.REFUSED


def check(view: ReportView) -> tuple[bool, Any]:
    """Whether the report is what the digest names and its key signed, and what it says."""
    from infra.nkey import BadKey, verify
    from infra.signing import digest_of, spoken_text

    try:
        body, signature = base64.b64decode(view.body), base64.b64decode(view.signature)
        text = spoken_text("report", view.pool, view.worker, view.digest)
        good = digest_of(body) == view.digest and verify(view.key, text, signature)
        return good, msgspec.msgpack.decode(body)
    except (BadKey, binascii.Error, ValueError, msgspec.DecodeError):
        return False, None


report.add_command(show)
COMMANDS = {"report": report}
