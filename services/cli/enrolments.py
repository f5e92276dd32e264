"""`worker token create|list|revoke` and `worker ban|rename`: who may bring machines in, and who they are."""

import asyncio
import time
from urllib.parse import urlsplit

import click

from infra.tls import is_loopback
from services.cli import format
from services.cli.context import Context, command
from services.cli.find import find_worker
from services.cli.keys import SPAN, ends_text
from services.cli.options import PAIR

HEADS = ("TOKEN", "OWNER", "USED", "SINCE", "ENDS")


@click.group("token")
def token() -> None:
    """Enrolment tokens: whoever has one may bring machines in with `hivectl worker join`."""


@command("create")
@click.option("--uses", type=click.IntRange(0, 10_000), default=1, show_default=True, help="Machines; 0: any number.")
@click.option("--expires-in", type=SPAN, default="1d", show_default=True, help="Ends after this: 30m, 12h, 90d, 1y.")
@click.option("--owner", default="", help="Whose the machines are [yours].")
@click.option("--label", "labels", type=PAIR, multiple=True, metavar="K=V", help="Which the machines get; repeatable.")
def create(context: Context, uses: int, expires_in: int, owner: str, labels: tuple[tuple[str, str], ...]) -> None:
    """Make a token. Its text is printed this once."""
    asyncio.run(_create(context, uses, expires_in, owner, dict(labels)))


async def _create(context: Context, uses: int, expires_in: int, owner: str, labels: dict[str, str]) -> None:
    async with context.client() as hive:
        made = await hive.access.make_enrolment(uses, expires_in, owner, labels)
        url = made.url or hive.url
    if context.output.mode == "json":
        context.output.document(made)
        return
    context.output.line(made.text)
    context.output.note(f"shown this once; on the machine that is to join: hivectl worker join {url} TOKEN")
    if is_loopback(urlsplit(url).hostname or ""):
        context.output.note(
            "only this machine reaches that address: docs/deploy.md says how others do, or set `public_url`"
        )


@command("list")
def list_(context: Context) -> None:
    """List tokens that were not revoked."""
    asyncio.run(_list(context))


async def _list(context: Context) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.access.enrolments()
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            output.line(one.enrolment)
    else:
        now = time.time()
        rows = [
            (one.enrolment, one.owner, f"{one.used}/{one.uses or 'any'}", format.ago(one.since, now),
             ends_text(one.state, one.expires_at))
            for one in found
        ]  # fmt: skip
        output.table(HEADS, rows)


@command("revoke")
@click.argument("token")
def revoke(context: Context, token: str) -> None:
    """End a token; the machines that it brought in stay."""
    asyncio.run(_revoke(context, token))


async def _revoke(context: Context, given: str) -> None:
    async with context.client() as hive:
        await hive.access.revoke_enrolment(given)
    context.output.note(f"{given} brings no more machines in")


@command("ban")
@click.argument("worker")
def ban(context: Context, worker: str) -> None:
    """Shut a worker out for good: its key can never be enrolled again."""
    asyncio.run(_ban(context, worker))


async def _ban(context: Context, prefix: str) -> None:
    async with context.client() as hive:
        found = await find_worker(hive, prefix)
        await hive.access.ban_worker(found)
    context.output.note(f"{found} is disconnected and cannot come back; what it ran is given to others")


@command("rename")
@click.argument("worker")
@click.argument("name")
def rename(context: Context, worker: str, name: str) -> None:
    """Give a worker another name."""
    asyncio.run(_rename(context, worker, name))


async def _rename(context: Context, prefix: str, name: str) -> None:
    async with context.client() as hive:
        found = await find_worker(hive, prefix)
        await hive.access.rename_worker(found, name)
    context.output.note(f"{found} is called {name} now")


for one in (create, list_, revoke):
    token.add_command(one)
