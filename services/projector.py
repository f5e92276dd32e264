"""Folds the log into what readers are given: the board in memory, the tables in Postgres, and the live feed.

The board follows the log by itself and never waits for Postgres. The tables follow the feed at their own pace. Both
start where they were: the board from its snapshot (a cache: deleting it is safe), the tables from their own position.
"""

import asyncio
from pathlib import Path
from time import monotonic

import msgspec

from events.log import Entry, Log, LogUnavailable
from infra.database import Database
from projections.board import BOARD
from projections.board_state import Board
from services import snapshots
from services.feed import Feed, Follower, Pace, Ring, record_of
from services.table_writer import Superseded, TableWriter

SNAPSHOT_MESSAGES = 20_000
"""A snapshot is written after so many messages..."""
SNAPSHOT_S_MIN = 60.0
"""...and not more often than this."""
RETRY_S = 0.5


class ProjectorStatus(msgspec.Struct, frozen=True, gc=False):
    """How far everything is. `behind`: messages folded but not yet in the tables' position; `database`: "ok" or why not;
    `unreadable`, `skipped`: messages that could not be decoded, or that Postgres refused.
    """

    position: int
    tables_position: int
    behind: int
    caught_up: bool
    database: str
    unreadable: int
    skipped: int


class Projector:
    """`board`, `ring` and `tables` (None without a database) may be looked at, and are replaced by `run` when it
    starts; `folder` holds the snapshot. `subject` may be a wildcard, such as `evt.pool.*`.
    """

    def __init__(self, log: Log, subject: str, folder: Path, database: Database | None) -> None:
        self.log, self.subject = log, subject
        self.board: Board = BOARD.initial()
        self.ring = Ring(0)
        self.tables = TableWriter(self, database) if database is not None else None
        self.unreadable = 0
        self._database = database
        self._growing: TableWriter | None = None
        self._path = folder / "board.snapshot"
        self._caught_up = asyncio.Event()
        self._snapshot_at, self._snapshot_messages = monotonic(), 0
        self._wake_tables = asyncio.Event()

    @property
    def position(self) -> int:
        """Up to where the board has folded."""
        return self.ring.position

    @property
    def origin(self) -> str:
        """The id of the log's first message, "" while it has none: tells one log from another."""
        return self.board.origin

    @property
    def caught_up(self) -> bool:
        """Whether the end of the log was seen since `run` began."""
        return self._caught_up.is_set()

    async def run(self) -> None:
        """Follow the log until cancelled; the board's snapshot is written then. Raises what is a bug."""
        await self._load()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                if self.tables is not None:
                    group.create_task(self._write_tables())
        finally:
            await self._save()

    async def wait_caught_up(self) -> None:
        """Until the end of the log was seen."""
        await self._caught_up.wait()

    async def reached(self, position: int, timeout_s: float | None) -> bool:
        """Wait until the board has folded `position`; whether it has."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.ring.position < position:
                    await self.ring.wait()
        except TimeoutError:
            return False
        return True

    def subscribe(self) -> Feed:
        """What is applied from now on, as lists of records; raises Lagged(position) when read too slowly."""
        return Feed(self.ring, self.ring.position + 1, self.ring.end)

    def follow(self, start: int) -> Follower:
        """Every record from position `start` on: the old ones from the log, then as applied; never lags."""
        return Follower(self, start)

    def status(self) -> ProjectorStatus:
        """How far everything is."""
        tables = self.tables
        at = tables.position if tables else 0
        away = (tables.away or "ok") if tables else "away: no database is configured"
        behind = sum(1 for _ in ()) if tables is None else max(self.position - at, 0)
        skipped = tables.skipped if tables else 0
        return ProjectorStatus(self.position, at, behind, self.caught_up, away, self.unreadable, skipped)

    async def rebuild(self) -> None:
        """Fold the whole log into new tables beside the present ones, which go on serving, then switch to them."""
        if self._database is not None and self._growing is None:
            self._growing = TableWriter(self, self._database, fresh=True)
            self._wake_tables.set()
            while self._growing is not None:
                await self.ring.wait(RETRY_S)

    async def _follow(self) -> None:
        while True:
            try:
                async for entries in self.log.read(self.subject, self.position + 1):
                    if entries:
                        await self._apply(entries)
                        continue
                    self._caught_up.set()
                    self.ring.wake()
                    await self._save_when_due()
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _apply(self, entries: list[Entry]) -> None:
        """Fold entries in slices: between two slices the board, the ring and the position agree."""
        pace = Pace()
        records, sizes = [], []
        for entry in entries:
            record = record_of(entry)
            if not record.message.id:
                self.unreadable += 1
            BOARD.apply(self.board, record.message, record.position)
            records.append(record)
            sizes.append(len(entry.data))
            if pace.over():
                self.ring.push(records, sizes)
                records, sizes = [], []
                await pace.turn()
        self.ring.push(records, sizes)
