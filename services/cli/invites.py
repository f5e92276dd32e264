"""`invite create|list|revoke`: invitations to register."""

import asyncio
import time
from typing import cast

import click

from events.account import Role
from services.accounts.roles import ROLES
from services.cli import format
from services.cli.context import Context, command
from services.cli.keys import SPAN, ends_text

HEADS = ("INVITE", "ROLES", "USED", "SINCE", "ENDS", "BY")
DAY_S = 86_400


@click.group("invite")
def invite() -> None:
    """Invitations to register."""


@command("create")
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="What they will be [user]; repeatable.")
@click.option("--uses", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many may register.")
@click.option("--expires", type=SPAN, default=7 * DAY_S, help="For how long it is good, such as 12h [7d].")
def create_invite(context: Context, roles: tuple[str, ...], uses: int, expires: int) -> None:
    """Make an invitation; its text is shown this once."""

    async def made() -> None:
        async with context.client() as hive:
            new = await hive.people.invite(cast("list[Role]", [*roles]), uses, expires)
        if context.output.mode == "json":
            context.output.document(new)
            return
        context.output.line(new.text)
        context.output.note("whoever has it registers with `hivectl user register NAME --invite TEXT`")

    asyncio.run(made())


@command("list")
def list_invites(context: Context) -> None:
    """List invitations that were not revoked."""

    async def listed() -> None:
        output = context.output
        async with context.client() as hive:
            found = await hive.people.invites()
        if output.mode == "json":
            output.document(found)
        elif output.mode == "quiet":
            for one in found:
                output.line(one.invite)
        else:
            now = time.time()
            rows = [
                (one.invite, ",".join(one.roles), f"{one.used} of {one.uses}", format.ago(one.since, now),
                 ends_text(one.state, one.expires_at), one.by)
                for one in found
            ]  # fmt: skip
            output.table(HEADS, rows)

    asyncio.run(listed())


@command("revoke")
@click.argument("invite")
def revoke_invite(context: Context, invite: str) -> None:
    """End an invitation; who registered with it stays."""

    async def revoked() -> None:
        async with context.client() as hive:
            done = await hive.people.revoke_invite(invite)
        if context.output.mode == "json":
            context.output.document(done)
        context.output.note(f"nobody registers with {invite} any more")

    asyncio.run(revoked())


for _one in (create_invite, list_invites, revoke_invite):
    invite.add_command(_one)

COMMANDS = {"invite": invite}
