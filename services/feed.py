"""The live feed: what the projector has applied, for any number of listeners, kept once.

A ring of the latest records is shared by all; each listener is a place in it. One that is too slow falls off its end
and is told so (`Lagged`), and `Follower` then reads the log itself until it is near again. So a thousand listeners
cost the log one reader.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Protocol, Self

import msgspec

from events import catalog
from events.catalog import Message, Record
from events.log import Entry, Log, LogUnavailable

RING_RECORDS_MAX = 4096
RING_BYTES_MAX = 4 * 1024 * 1024
"""Of messages as stored; in memory they take about four times as much."""
SLICE_S = 0.0015
"""How long plain work goes on before others get their turn."""
RETRY_S = 0.5


class Lagged(Exception):
    """The listener missed records: read the log from `position` on."""

    def __init__(self, position: int) -> None:
        super().__init__(f"records from position {position} on were missed; read them from the log")
        self.position = position


class Ring:
    """The latest records. `floor` is the position up to which records are gone, `position` that of the last one."""

    def __init__(self, position: int) -> None:
        self.floor = self.position = position
        self._records: list[Record] = []
        self._sizes: list[int] = []
        self._bytes = 0
        self._gone = 0
        self._grown = asyncio.Event()

    def begin(self, position: int) -> None:
        """Say where the records to come begin. Only before the first one."""
        self.floor = self.position = position
        self.wake()

    def push(self, records: list[Record], sizes: list[int]) -> None:
        """Add records in order, with their sizes as stored, and wake every listener."""
        if not records:
            return
        self._records += records
        self._sizes += sizes
        self._bytes += sum(sizes)
        self.position = records[-1].position
        self._trim()
        self.wake()

    def _trim(self) -> None:
        count, freed = len(self._records), 0
        drop = 0
        # Trimmed by halves, so that the cost of moving the rest is spread over many records.
        if count > 2 * RING_RECORDS_MAX:
            drop = count - RING_RECORDS_MAX
            freed = sum(self._sizes[:drop])
        while self._bytes - freed > RING_BYTES_MAX and drop < count - 1:
            freed += self._sizes[drop]
            drop += 1
        if drop:
            self.floor = self._records[drop - 1].position
            del self._records[:drop], self._sizes[:drop]
            self._bytes -= freed
            self._gone += drop

    def wake(self) -> None:
        """Let every waiting listener look again."""
        self._grown.set()
        self._grown = asyncio.Event()

    @property
    def end(self) -> int:
        """How many records were ever pushed: the place of the next one."""
        return self._gone + len(self._records)

    def place_of(self, start: int) -> int | None:
        """The place of the first record at or after position `start`; None when some of those are gone."""
        if start <= self.floor:
            return None
        low, high = 0, len(self._records)
        while low < high:
            middle = (low + high) // 2
            if self._records[middle].position < start:
                low = middle + 1
            else:
                high = middle
        return self._gone + low

    def since(self, place: int) -> list[Record] | None:
        """The records from a place on; None when some are gone."""
        return None if place < self._gone else self._records[place - self._gone :]

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until something was pushed, or `wake` was called, or the time is over."""
        grown = self._grown
        if timeout_s is None:
            await grown.wait()
            return
        try:
            async with asyncio.timeout(timeout_s):
                await grown.wait()
        except TimeoutError:
            return


class Feed:
    """One listener: an async iterator of lists of records, as applied. Raises Lagged when it was too slow."""

    def __init__(self, ring: Ring, start: int, place: int) -> None:
        self._ring, self._start, self._place = ring, start, place

    def __aiter__(self) -> AsyncIterator[list[Record]]:
        return self

    async def __anext__(self) -> list[Record]:
        while True:
            if records := await self.take(None):
                return records

    async def take(self, timeout_s: float | None) -> list[Record]:
        """The next records; [] when there are none by then, or when woken without any. Raises Lagged."""
        if self._place == self._ring.end and (timeout_s is None or timeout_s > 0):
            await self._ring.wait(timeout_s)
        records = self._ring.since(self._place)
        if records is None:
            raise Lagged(self._start)
        if records:
            self._place += len(records)
            self._start = records[-1].position + 1
        return records


class Source(Protocol):
    """What a follower needs of the projector."""

    subject: str
    ring: Ring
    log: Log

    async def reached(self, position: int, timeout_s: float | None) -> bool:
        """Wait until the board has folded this position; whether it has."""
        ...


class Follower:
    """Every record on the projector's subject from a position on: from its ring when near, else from the log."""

    def __init__(self, source: Source, start: int) -> None:
        self.start = max(start, 1)
        self._source = source
        self._feed: Feed | None = None
        self._reader: AsyncIterator[list[Entry]] | None = None
        self._entries: list[Entry] = []

    async def take(self, timeout_s: float | None = None) -> list[Record]:
        """The next records, in order; [] when there are none by then, or now and then for no reason."""
        ring = self._source.ring
        if self._feed is None and self._reader is None:
            if self.start > ring.position + 1 and not await self._source.reached(self.start - 1, timeout_s):
                return []
            self._join()
        if self._feed is not None:
            try:
                return self._taken(await self._feed.take(timeout_s))
            except Lagged:
                self._feed = None
                return []
        return self._taken(await self._read())

    def _join(self) -> None:
        place = self._source.ring.place_of(self.start)
        if place is not None:
            self._feed = Feed(self._source.ring, self.start, place)

    def _taken(self, records: list[Record]) -> list[Record]:
        if records:
            self.start = records[-1].position + 1
        return records

    async def _read(self) -> list[Record]:
        """Some records from the log; the reader is let go as soon as the ring goes on from there."""
        if not self._entries:
            if self._reader is None:
                self._reader = self._source.log.read(self._source.subject, self.start)
            try:
                self._entries = await anext(self._reader)
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
            if not self._entries:
                await self.close()
                return []
        pace = Pace()
        records: list[Record] = []
        while len(records) < len(self._entries) and not pace.over():
            records.append(record_of(self._entries[len(records)]))
        self._entries = self._entries[len(records) :]
        if self._source.ring.place_of(records[-1].position + 1) is not None:
            await self.close()
        else:
            await asyncio.sleep(0)
        return records

    async def close(self) -> None:
        """Let go of the log's reader."""
        reader, self._reader, self._entries = self._reader, None, []
        close: Callable[[], Awaitable[None]] | None = getattr(reader, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[list[Record]]:
        return self

    async def __anext__(self) -> list[Record]:
        while True:
            if records := await self.take(None):
                return records


class Pace:
    """Gives others their turn when plain work has gone on for a while."""

    def __init__(self) -> None:
        self._since = perf_counter()

    def over(self) -> bool:
        """Whether it is time."""
        return perf_counter() - self._since > SLICE_S

    async def turn(self) -> None:
        """Let others run, when it is time."""
        if self.over():
            await asyncio.sleep(0)
            self._since = perf_counter()


def record_of(entry: Entry) -> Record:
    """The record that an entry holds: one without id and events when it is not a message at all."""
    try:
        message = catalog.decode(entry.data)
    except msgspec.DecodeError:
        message = Message("", 0, "", [])
    return Record(entry.position, entry.subject, message)
