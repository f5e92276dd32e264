"""`key list|create|rotate|revoke`: API keys."""

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import click

from services.accounts.roles import ROLES, SCOPES
from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from web.keys_schema import KeyView, NewKey

HEADS = ("KEY", "BEGINS", "NAME", "MAY", "SINCE", "ENDS")
UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "y": 365 * 86_400}
SCOPES_SHOWN = 3


class Span(click.ParamType[int]):
    """A span of time such as 30m, 12h, 90d or 1y; its value is in seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,6})([mhdy])", str(value))
        if found is None:
            self.fail(f"{value!r} is no span of time; write 30m, 12h, 90d or 1y", param, ctx)
        return int(found[1]) * UNITS_S[found[2]]


SPAN = Span()


@click.group("key")
def key() -> None:
    """API keys: make, list, replace and revoke them."""


@command("list")
@click.option("--user", default="", help="Of this user [yours].")
def list_(context: Context, user: str) -> None:
    """List keys that were not revoked."""
    asyncio.run(_list(context, user))


async def _list(context: Context, user: str) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.access.keys(user)
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            output.line(one.key)
    else:
        now = time.time()
        output.table(HEADS, [_row(one, now) for one in found])


def _row(one: "KeyView", now: float) -> tuple[str, ...]:
    more = f" +{len(one.scopes) - SCOPES_SHOWN}" if len(one.scopes) > SCOPES_SHOWN else ""
    ends = ends_text(one.state, one.expires_at)
    return (one.key, f"{one.prefix}...", one.name, " ".join(one.scopes[:SCOPES_SHOWN]) + more,
            format.ago(one.since, now), ends)  # fmt: skip


def ends_text(state: str, expires_at: int) -> str:
    """When something ends, for a table."""
    if state != "live":
        return state
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(expires_at / 1000)) if expires_at else "never"


@command("create")
@click.argument("name", default="")
@click.option("--role", type=click.Choice(ROLES), help="May do what this role may [all of yours].")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="May do this only; several are fine.")
@click.option("--expires-in", type=SPAN, help="Ends after this: 30m, 12h, 90d, 1y [never].")
@click.option("--user", default="", help="For this user [you].")
@click.option("--requests-per-min", "rate", type=click.IntRange(0), default=0, help="Asks so often [as its user may].")
def create(
    context: Context, name: str, role: str | None, scopes: tuple[str, ...], expires_in: int | None, user: str, rate: int
) -> None:
    """Make a key. Its text is printed this once: keep it where you keep passwords."""
    asyncio.run(_create(context, name, role, scopes, expires_in, user, rate))


async def _create(
    context: Context, name: str, role: Any, scopes: tuple[str, ...], expires_in: int | None, user: str, rate: int
) -> None:
    async with context.client() as hive:
        made = await hive.access.make_key(
            name, role=role, scopes=[*scopes], expires_in=expires_in, user=user, requests_per_min=rate
        )
    _show_new(context, made)


def _show_new(context: Context, made: "NewKey") -> None:
    if context.output.mode == "json":
        context.output.document(made)
        return
    context.output.line(made.text)
    context.output.note(f"key {made.key.key}: shown this once; use it as HIVE_KEY")


@command("rotate")
@click.argument("key")
@click.option("--grace", type=SPAN, default="1h", show_default=True, help="How long the old one stays good.")
def rotate(context: Context, key: str, grace: int) -> None:
    """Replace a key by a new one that may do the same."""
    asyncio.run(_rotate(context, key, grace))


async def _rotate(context: Context, key: str, grace: int) -> None:
    async with context.client() as hive:
        made = await hive.access.rotate_key(await _find(hive, key), grace)
    _show_new(context, made)


@command("revoke")
@click.argument("key")
def revoke(context: Context, key: str) -> None:
    """End a key, at once."""
    asyncio.run(_revoke(context, key))


async def _revoke(context: Context, key: str) -> None:
    async with context.client() as hive:
        found = await _find(hive, key)
        done = await hive.access.revoke_key(found)
    if context.output.mode == "json":
        context.output.document(done)
    else:
        context.output.note(f"{found} opens nothing any more")


async def _find(hive: Any, given: str) -> str:
    """The id of the key that begins so: its id, or its text. Raises Failure when several do."""
    if given.startswith("hive_"):
        from services.accounts.keys import digest_of, id_of

        return id_of("k", digest_of(given))
    found = [one.key for one in await hive.access.keys() if one.key.startswith(given)]
    if len(found) > 1:
        raise Failure(f"{len(found)} keys begin with {given!r}", "give more of its id", Exit.USAGE)
    return found[0] if found else given


for one in (list_, create, rotate, revoke):
    key.add_command(one)

COMMANDS = {"key": key}
