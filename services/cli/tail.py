"""`tail`: what happens, one line an event."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from events import catalog, describe
from events.base import Sealed
from services.cli.context import Context, command
from services.cli.find import find_job
from services.cli.options import DURATION
from services.cli.pipe import while_read

if TYPE_CHECKING:
    from web.schema import Shown

ENTITIES: list[str] = sorted({getattr(kind, "entity") for kind in catalog.EVENTS})  # noqa: B009 declared by each base

SEALED_SHOWN = "<sealed>"
_SEALED = Sealed("", b"")


@command("tail")
@click.option("--from", "start", default="", metavar="POSITION", help="From this position on, such as 1.42.")
@click.option("--since", type=DURATION, metavar="TIME", help="From so long ago on, such as 10m.")
@click.option("--type", "types", multiple=True, help="Only events of this type, such as task.failed or job.*.")
@click.option("--job", default="", help="Only events of this job.")
@click.option("--entity", type=click.Choice(ENTITIES), help="Only events of this kind of thing.")
@click.option("--no-follow", is_flag=True, help="End when everything so far has been shown.")
def tail(context: Context, start: str, since: float | None, types: tuple[str, ...], **more: Any) -> None:
    """Show events as they happen, until Ctrl-C. With --from or --since: also those that happened since then.

    One line an event: time, type, what it is about, its fields, who asked, its position. --json: one JSON object a line.
    """
    if start and since is not None:
        raise click.UsageError("--from and --since exclude each other")
    asyncio.run(_tail(context, start, since, types, **more))


async def _tail(
    context: Context,
    start: str,
    since: float | None,
    types: tuple[str, ...],
    job: str,
    entity: str | None,
    no_follow: bool,
) -> None:
    async with context.client() as hive:
        feed = hive.events(
            start=start,
            since=int((time.time() - since) * 1000) if since is not None else 0,
            types=list(types),
            job=await find_job(hive, job) if job else "",
            entity=entity or "",
            follow=not no_follow,
        )
        async with while_read(), contextlib.aclosing(feed):
            async for shown in feed:
                _show(context, shown)


def _show(context: Context, shown: "Shown") -> None:
    if context.output.mode == "json":
        context.output.json_line(shown)
        return
    event = event_of(shown.event)
    offset = time.localtime(shown.at / 1000).tm_gmtoff
    context.output.line(describe.line(catalog.position_of(shown.position), shown.at, shown.by, event, offset))


def event_of(shown: msgspec.Raw) -> catalog.AnyEvent | catalog.Unknown:
    """The event that the API shows: it says `<sealed>` where the log has what a user typed."""
    body: dict[str, Any] = msgspec.json.decode(shown)
    try:
        opened = {name: _SEALED if value == SEALED_SHOWN else value for name, value in body.items()}
        return catalog.event_of(msgspec.json.encode(opened))
    except msgspec.ValidationError:
        return catalog.Unknown(body.pop("type"), body)


COMMANDS = {"tail": tail}
