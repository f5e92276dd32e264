"""`session list|end`: where one is logged in."""

import asyncio
import time

import click

from services.cli import format
from services.cli.context import Context, command

HEADS = ("SESSION", "SINCE", "USED", "ENDS", "")


@click.group("session")
def session() -> None:
    """Your logins at a hive: list them, and end one that should not be."""


@command("list")
def list_(context: Context) -> None:
    """List your sessions, the one used last first. API keys are no sessions: `hivectl key list`."""
    asyncio.run(_list(context))


async def _list(context: Context) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.people.sessions()
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            output.line(one.session)
    elif not found:
        output.note("you are logged in nowhere: this hive knows you by an API key. `hivectl login` begins a session")
    else:
        now = time.time()
        output.table(HEADS, [
            (one.session, format.ago(one.since, now), format.ago(one.used_at, now), format.clock(one.expires_at),
             "this one" if one.this else "")
            for one in found
        ])  # fmt: skip


@command("end")
@click.argument("session")
def end(context: Context, session: str) -> None:
    """End a session; `hivectl user sign-out` ends all."""
    asyncio.run(_end(context, session))


async def _end(context: Context, given: str) -> None:
    async with context.client() as hive:
        await hive.people.end_session(given)
    context.output.note(f"{given} is over; what it was given last opens nothing any more within 15 minutes")


for one in (list_, end):
    session.add_command(one)

COMMANDS = {"session": session}
