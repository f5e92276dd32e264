"""Events as they happened, from any position on, then live: the log itself, filtered, as server-sent events.

Each message carries a list of events, as many as were decided at once; its id is the position to go on from.
"""

import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, cast, get_args

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter, SkipValidation
from litestar.types import ASGIApp

from events import catalog
from events.base import Sealed, tag_of
from events.catalog import BY_TAG, EVENTS, Decision, Record, Unknown, position_of, position_text
from events.log import Log
from services.feed import Follower
from web import schema
from web.caller import caller_of
from web.core import Core
from web.jobs import visible
from web.mine import Mine
from web.params import CoreArg, problems
from web.problems import AnyRequest, Failed, bad_field
from web.stream import PING, PING_S, EventStream, message

PIECE_BYTES_MAX = 256 * 1024
"""A message of many events is cut at this size."""
KEPT_RECORDS = 512
SEALED = "<sealed>"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SINCE = re.compile(r"(\d{1,9})([smhd])\Z")

_encode = msgspec.json.Encoder().encode
_SEALED_FIELDS: dict[type[Any], list[str]] = {
    kind: names
    for kind in EVENTS
    if (
        names := [field.name for field in msgspec.structs.fields(kind) if Sealed in (field.type, *get_args(field.type))]
    )
}


ENTITIES = frozenset(kind.entity for kind in cast(tuple[Any, ...], EVENTS))


class Wanted(msgspec.Struct, frozen=True):
    """Which events: of these types (none: all), of this job, and of this kind of thing, or of the one with this id; and
    of those what `mine` takes (None: all).
    """

    types: frozenset[type[Any]] = frozenset()
    job: str = ""
    entity: str = ""
    mine: Mine | None = None

    def takes(self, event: Any) -> bool:
        """Whether it takes this one."""
        if self.types and type(event) not in self.types:
            return False
        if self.job and getattr(event, "job", "") != self.job:
            return False
        if self.mine is not None and not self.mine.takes(event):
            return False
        if not self.entity:
            return True
        if self.entity in ENTITIES:
            return getattr(event, "entity", "") == self.entity
        return self.entity in _names(event)


def _names(event: Any) -> tuple[str, ...]:
    return tuple(getattr(event, name, "") for name in ("job", "worker", "pool"))


class Texts:
    """Events as they are shown, in JSON, made once for all who listen."""

    def __init__(self) -> None:
        self._kept: dict[int, list[bytes | None]] = {}

    def of(self, record: Record, n: int, decision: Decision, event: Any) -> bytes:
        """The `n`-th event of the record."""
        kept = self._kept.get(record.position)
        if kept is None:
            if len(self._kept) >= KEPT_RECORDS:
                del self._kept[next(iter(self._kept))]
            kept = self._kept[record.position] = []
        if n >= len(kept):
            kept.extend([None] * (n + 1 - len(kept)))
        text = kept[n]
        if text is None:
            text = kept[n] = _text(record, n, decision, event)
        return text


def _text(record: Record, n: int, decision: Decision, event: Any) -> bytes:
    if isinstance(event, Unknown):
        body = _encode(event.body)
    elif sealed := _SEALED_FIELDS.get(cast(Any, type(event))):
        plain = msgspec.to_builtins(event)
        body = _encode(plain | {name: SEALED for name in sealed if name in plain})
    else:
        body = _encode(event)
    return _encode(
        schema.Shown(
            position_text(record.position), n, record.message.at, decision.by, decision.cause, decision.trace,
            msgspec.Raw(body),
        )
    )  # fmt: skip


def pieces_of(records: list[Record], wanted: Wanted, texts: Texts) -> tuple[list[bytes], int]:
    """The messages for what is wanted of `records`, and the position after which nothing was said (0: none).

    Only the last message of a record has an id: who comes back goes on after a whole record.
    """
    messages: list[bytes] = []
    found: list[bytes] = []
    size, silent = 0, 0
    for record in records:
        n = 0
        for decision in record.message.decisions:
            for event in decision.events:
                if wanted.takes(event):
                    text = texts.of(record, n, decision, event)
                    found.append(text)
                    size += len(text)
                    if size > PIECE_BYTES_MAX:
                        messages.append(message(b"[%s]" % b",".join(found)))
                        found, size = [], 0
                n += 1
        silent = record.position
    if found:
        messages.append(message(b"[%s]" % b",".join(found), position_text(records[-1].position)))
        silent = 0
    return messages, silent


def moment_of(text: str, now_ms: int) -> int:
    """The moment that `since` names, in ms: itself, or so long ago. Raises Failed."""
    if text.isdecimal() and len(text) <= 15:
        return int(text)
    if found := _SINCE.match(text):
        return now_ms - int(found[1]) * UNITS_S[found[2]] * 1000
    raise bad_field("since", f"{text[:40]!r} is no moment", "use ms since 1970, or 30s, 15m, 2h, 1d", status=400)


async def position_at(log: Log, subject: str, moment_ms: int) -> int:
    """The position of the first message at or after a moment; one after the last when there is none."""
    low, high = 1, await log.last(subject) + 1
    while low < high:
        middle = (low + high) // 2
        entry = await log.get(subject, middle)
        if entry is None or entry.position >= high or catalog.decode(entry.data).at >= moment_ms:
            high = middle
        else:
            low = entry.position + 1
    return low


def wanted_of(types: list[str], job: str, entity: str, mine: Mine | None) -> Wanted:
    """The filter. Raises Failed for a type that is none."""
    kinds: set[type[Any]] = set()
    for name in (part for text in types for part in text.split(",") if part):
        found = [
            kind for tag, kind in BY_TAG.items() if tag == name or (name.endswith("*") and tag.startswith(name[:-1]))
        ]
        if not found:
            known = ", ".join(sorted(tag_of(kind) for kind in EVENTS))
            raise bad_field(
                "type", f"{name[:60]!r} is no type of event", f"one of {known}; or such as `job.*`", status=400
            )
        kinds.update(found)
    return Wanted(frozenset(kinds), job, entity, mine)


async def _start(core: Core, from_: str, since: str, last_id: str, follow: bool) -> int:
    subject = core.projector.subject
    for name, text, more in (("Last-Event-ID", last_id, 1), ("from", from_, 0)):
        if text:
            try:
                return position_of(text) + more
            except ValueError as error:
                raise Failed(400, "bad-position", str(error), field=name) from None
    if since:
        return await position_at(core.log, subject, moment_of(since, time.time_ns() // 1_000_000))
    return core.projector.position + 1 if follow else 1


async def _pieces(core: Core, start: int, end: int | None, wanted: Wanted, texts: Texts) -> AsyncGenerator[bytes]:
    """Messages from position `start` to `end`, or for ever."""
    follower: Follower = core.projector.follow(start)
    spoke = time.monotonic()
    # Said first, so that a client knows that the stream stands, and where to go on from when it breaks at once.
    yield _ping(start - 1)
    async with follower:
        while end is None or follower.start <= end:
            records = await follower.take(PING_S)
            if end is not None:
                records = [record for record in records if record.position <= end]
            messages, silent = pieces_of(records, wanted, texts)
            now = time.monotonic()
            if messages:
                spoke = now
                yield b"".join(messages)
            elif now - spoke >= PING_S:
                spoke = now
                yield _ping(silent) if silent else PING


def _ping(position: int) -> bytes:
    return b"id: %s\n%s" % (position_text(position).encode(), PING)


@get(
    "/v1/events",
    needs=("events:all", "jobs:own", "jobs:read", "workers:own"),
    summary="Events, live",
    description="Server-sent events; the data of each is a list of events decided together. Texts that users typed are"
    " shown as <sealed>, and fields that have their default are left out.",
    media_type="text/event-stream",
    responses={
        200: ResponseSpec(
            list[schema.Shown], generate_examples=False, description="Events", media_type="text/event-stream"
        ),
        **problems(404),
    },
)
async def follow_events(
    core: CoreArg,
    request: AnyRequest,
    texts: NamedDependency[SkipValidation[Texts]],
    from_: Annotated[str, QueryParameter(name="from", description="From this position on, itself included")] = "",
    since: Annotated[
        str, QueryParameter(description="From this moment on: ms since 1970, or such as 15m, 2h, 1d")
    ] = "",
    types: Annotated[
        list[str] | None, QueryParameter(name="type", description="Only these, such as job.finished or task.*")
    ] = None,
    job: Annotated[str, QueryParameter(description="Only facts about this job and its tasks")] = "",
    entity: Annotated[
        str,
        QueryParameter(
            description="Only facts about jobs (`job`), tasks, workers or pools, or that name the one with this id"
        ),
    ] = "",
    follow: Annotated[
        bool, QueryParameter(description="Go on with what happens; without it, end at what is there")
    ] = False,
    last_event_id: Annotated[str, HeaderParameter(name="Last-Event-ID", description="Go on after this position")] = "",
) -> ASGIApp:
    """The stream."""
    caller = caller_of(request)
    mine = None if caller.may("events:all") else Mine(core, caller.user)
    if mine is not None and job:
        await visible(core, caller, job, "jobs:read")
        mine = None
    wanted = wanted_of(types or [], job, entity, mine)
    start = await _start(core, from_, since, last_event_id, follow)
    end = None if follow else await core.log.last(core.projector.subject)
    return EventStream(_pieces(core, start, end, wanted, texts))


ROUTES = [follow_events]
