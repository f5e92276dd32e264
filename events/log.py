"""The port to the log, and the log in memory that tests and simulations use.

The log is a sequence of messages, each on a subject. Positions are the stream's sequence numbers: from 1, ascending,
over all subjects. A writer appends with a guard: the position of the last message on its subject as it knows it.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol


class Conflict(Exception):
    """Another writer was here: the guard was stale. Definite: nothing was appended by this call."""


class Unsettled(Exception):
    """No definite answer: the append may or may not have happened. Send the same bytes with the same guard again."""


class LogUnavailable(Exception):
    """The log cannot be read right now."""


class Entry(NamedTuple):
    """A message as stored: position, subject and bytes (see `catalog.decode`)."""

    position: int
    subject: str
    data: bytes


class Log(Protocol):
    """What a writer, a follower and a projection need of a log."""

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        """Append when the last message on `subject` is at `expected` (0: none); the new position, once it is on disk.

        Raises Conflict or Unsettled.
        """
        ...

    def read(self, subject: str, start: int) -> AsyncGenerator[list[Entry], None]:
        """Batches of entries on `subject` (which may be a wildcard) from position `start` on, for ever, in order.

        An empty batch says: nothing more is stored at this moment. Reconnects by itself.
        """
        ...

    async def last(self, subject: str) -> int:
        """The position of the last message on `subject` (0: none), as the stream's leader knows it. Raises LogUnavailable."""
        ...

    async def get(self, subject: str, start: int) -> Entry | None:
        """The first entry on `subject` at or after `start`, as the stream's leader knows it. Raises LogUnavailable."""
        ...


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject fits a pattern with NATS' wildcards: `*` one token, `>` the rest."""
    wanted, given = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(given) > at
        if at >= len(given) or token not in ("*", given[at]):
            return False
    return len(wanted) == len(given)


READ_BATCH_MAX = 500


class MemoryLog:
    """The log in memory. `entries` may be looked at and given to another MemoryLog."""

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.entries = list(entries or [])
        self._grown = asyncio.Event()

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        if await self.last(subject) != expected:
            raise Conflict(f"{subject}: not at {expected}")
        self.entries.append(Entry(len(self.entries) + 1, subject, bytes(data)))
        self._grown.set()
        self._grown = asyncio.Event()
        return len(self.entries)

    async def read(self, subject: str, start: int) -> AsyncGenerator[list[Entry], None]:
        at = max(start, 1) - 1
        while True:
            grown = self._grown
            while at < len(self.entries):
                chunk = self.entries[at : at + READ_BATCH_MAX]
                at += len(chunk)
                if found := [entry for entry in chunk if matches(subject, entry.subject)]:
                    yield found
            yield []
            await grown.wait()

    async def last(self, subject: str) -> int:
        return next((e.position for e in reversed(self.entries) if matches(subject, e.subject)), 0)

    async def get(self, subject: str, start: int) -> Entry | None:
        return next((e for e in self.entries[max(start, 1) - 1 :] if matches(subject, e.subject)), None)
