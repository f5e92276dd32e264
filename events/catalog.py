"""The whole catalogue, and the message that carries events on the log.

A message is what a writer decided at once: one or more decisions, each with who asked (`by`), why (`cause`, the
request or position that led to it) and the chain it belongs to (`trace`). One message costs one fsync.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, get_args

import msgspec

from events.account import AnyAccountEvent
from events.base import Event, tag_of
from events.job import AnyJobEvent
from events.ledger import AnyLedgerEvent
from events.pool import AnyPoolEvent
from events.task import AnyTaskEvent
from events.worker import AnyWorkerEvent

AnyEvent: TypeAlias = AnyJobEvent | AnyTaskEvent | AnyWorkerEvent | AnyPoolEvent | AnyAccountEvent | AnyLedgerEvent

EVENTS: tuple[type[Event], ...] = get_args(AnyEvent)
BY_TAG: dict[str, type[Event]] = {tag_of(kind): kind for kind in EVENTS}

MESSAGE_BYTES_MAX = 512 * 1024
"""A message closes at this size; the events of one command must fit in one message."""


class Decision(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one command led to."""

    events: list[AnyEvent]
    by: str = ""
    cause: str = ""
    trace: str = ""


class Mark(NamedTuple):
    """How far a writer consumed another subject: every message up to `position`, and `part` events of the one after it."""

    position: int = 0
    part: int = 0


class Message(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One append. `at` is the writer's clock in ms, never going back. `read`: how far its writer had consumed other
    subjects, of those where that changed; `part`: so many events of the message after that, too.
    """

    id: str
    at: int
    writer: str
    decisions: list[Decision]
    read: dict[str, int] = {}
    part: dict[str, int] = {}

    def marks(self) -> Iterator[tuple[str, Mark]]:
        """How far each other subject was consumed, of those where that changed."""
        for subject, position in self.read.items():
            yield subject, Mark(position, self.part.get(subject, 0))

    def events(self) -> Iterator[AnyEvent]:
        """Each event, in order."""
        for decision in self.decisions:
            yield from decision.events


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """An event written by a newer version: projections count and skip it, writers refuse to run."""

    tag: str
    body: dict[str, Any]


class Record(NamedTuple):
    """A message as read back: its position in the stream, its subject, and what it says."""

    position: int
    subject: str
    message: Message


class _LooseDecision(msgspec.Struct):
    events: list[msgspec.Raw]
    by: str = ""
    cause: str = ""
    trace: str = ""


class _LooseMessage(msgspec.Struct):
    id: str
    at: int
    writer: str
    decisions: list[_LooseDecision]
    read: dict[str, int] = {}
    part: dict[str, int] = {}


class _Tag(msgspec.Struct):
    type: str


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode
_decode_loose = msgspec.json.Decoder(_LooseMessage).decode
_decode_tag = msgspec.json.Decoder(_Tag).decode
_decode_event = msgspec.json.Decoder(AnyEvent).decode
_decode_body = msgspec.json.Decoder(dict[str, Any]).decode


def decode(data: bytes | memoryview) -> Message:
    """The message in `data`; events with tags unknown to this version become `Unknown`.

    Raises msgspec.ValidationError when a known event is malformed, msgspec.DecodeError when it is not JSON.
    """
    try:
        return _decode(data)
    except msgspec.ValidationError:
        loose = _decode_loose(data)
    decisions: list[Decision] = []
    for decision in loose.decisions:
        events: list[Any] = [event_of(raw) for raw in decision.events]
        decisions.append(Decision(events, decision.by, decision.cause, decision.trace))
    return Message(loose.id, loose.at, loose.writer, decisions, loose.read, loose.part)


def event_of(raw: msgspec.Raw | bytes) -> AnyEvent | Unknown:
    """One event alone. Raises as `decode` does."""
    tag = _decode_tag(raw).type
    return _decode_event(raw) if tag in BY_TAG else Unknown(tag, _decode_body(raw))


def pool_subject(pool: str) -> str:
    """Where the facts of a pool are."""
    return f"evt.pool.{pool}"


ACCOUNTS_SUBJECT = "evt.accounts.main"
"""Where the facts about users, keys and the identities of workers are."""
LEDGER_SUBJECT = "evt.ledger.main"
"""Where the facts about money are."""


def position_text(position: int) -> str:
    """A position as outsiders see it: opaque to them, `<epoch>.<sequence>` to us."""
    return f"1.{position}"


def position_of(text: str) -> int:
    """The sequence in an outsider's position. Raises ValueError when it is not one of ours."""
    epoch, _, sequence = text.partition(".")
    if epoch != "1" or not sequence.isdecimal():
        raise ValueError(f"not a position: {text!r}; use one that an answer gave, such as 1.42")
    return int(sequence)
