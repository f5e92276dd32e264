"""Folds the log into what readers are given: the board in memory, the tables in Postgres, and the live feed.

The board follows the log by itself and never waits for Postgres. The tables follow the feed at their own pace. Both
start where they were: the board from its snapshot (a cache: deleting it is safe), the tables from their own position.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec

from events.catalog import Record
from events.log import Entry, Log, LogUnavailable
from infra.database import Database, DatabaseAway
from projections.board import BOARD
from projections.board_state import Board
from services import board_file
from services.feed import Feed, Follower, Pace, Ring, record_of
from services.table_watcher import TableWatcher
from services.table_writer import Superseded, TableWriter

SNAPSHOT_MESSAGES = 20_000
"""A snapshot is due after so many messages, and written when the end of the log is seen..."""
SNAPSHOT_MESSAGES_MAX = 10 * SNAPSHOT_MESSAGES
"""...or at the latest after so many..."""
SNAPSHOT_S_MIN = 60.0
"""...and not more often than this."""
RETRY_S = 0.5


class ProjectorStatus(msgspec.Struct, frozen=True, gc=False):
    """How far everything is. `behind`: how many positions the tables are behind the board; `database`: "ok" or why not;
    `unreadable`, `skipped`: messages that could not be decoded, or that Postgres refused; `snapshot`: "ok" or why not.
    """

    position: int
    tables_position: int
    behind: int
    caught_up: bool
    database: str
    unreadable: int
    skipped: int
    snapshot: str


class Projector:
    """`board`, `ring` and `tables` (None without a database) may be looked at. `folder` holds the board's snapshot.
    `subject` may be a wildcard. Without `tables` another process writes them, and this one only sees how far they are.
    """

    def __init__(
        self, log: Log, database: Database | None, folder: Path, tables: bool = True, subject: str = "evt.>"
    ) -> None:
        self.log, self.subject = log, subject
        self.board: Board = BOARD.initial()
        self.ring = Ring(0)
        self.tables: TableWriter | TableWatcher | None = None
        if database is not None:
            self.tables = TableWriter(self, database) if tables else TableWatcher(database)
        self.unreadable = 0
        self._database = database
        self._path = board_file.path_in(folder)
        self._caught_up = asyncio.Event()
        self._saved_at, self._saved_messages = monotonic(), 0
        self._snapshot = "ok"

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
                    group.create_task(self._write_tables(self.tables))
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
        at, skipped, database = 0, 0, "away: no database is configured"
        if self.tables is not None:
            at, skipped = self.tables.position, self.tables.skipped
            database = "ok" if self.tables.live or not self.position else "away: the tables are not there yet"
            database = f"away: {self.tables.away}" if self.tables.away else database
        return ProjectorStatus(
            self.position, at, max(self.position - at, 0), self.caught_up, database, self.unreadable, skipped,
            self._snapshot,
        )  # fmt: skip

    async def rebuild(self) -> None:
        """Fold the whole log into new tables beside the present ones, which go on serving, then switch to them.
        Raises DatabaseAway.
        """
        if self._database is None:
            raise DatabaseAway("no database is configured")
        growing = TableWriter(self, self._database, fresh=True)
        task = asyncio.create_task(growing.run())
        try:
            while not growing.live:
                if task.done():
                    await task
                await self.ring.wait(RETRY_S)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        while True:
            try:
                async for entries in self.log.read(self.subject, self.position + 1):
                    if entries:
                        await self._apply(entries)
                    else:
                        self._caught_up.set()
                        self.ring.wake()
                    await self._save_when_due(idle=not entries)
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _apply(self, entries: list[Entry]) -> None:
        """Fold entries in slices: whenever others have their turn, the board, the ring and the position agree."""
        pace = Pace()
        records: list[Record] = []
        sizes: list[int] = []
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

    async def _write_tables(self, writer: TableWriter | TableWatcher) -> None:
        try:
            await writer.run()
        except Superseded as error:
            writer.away = str(error)

    # The snapshot

    async def _load(self) -> None:
        """Take the board up where its snapshot has it, when the snapshot is of this log."""
        while True:
            try:
                first = await self.log.get(self.subject, 1)
                last = await self.log.last(self.subject)
                break
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
        if first is None:
            return
        board = board_file.read(self._path, BOARD, record_of(first).message.id)
        if board is not None and board.position <= last:
            self.board = board
            self.ring.begin(board.position)
        self._saved_messages = self.board.messages

    async def _save_when_due(self, idle: bool) -> None:
        count = self.board.messages - self._saved_messages
        due = count >= (SNAPSHOT_MESSAGES if idle else SNAPSHOT_MESSAGES_MAX)
        if due and monotonic() - self._saved_at >= SNAPSHOT_S_MIN:
            await self._save()

    async def _save(self) -> None:
        """Write the snapshot. Nothing is folded meanwhile: the one who folds is the one who waits here."""
        if self.board.messages == self._saved_messages:
            return
        try:
            await board_file.write(self._path, BOARD, self.board, self.board.origin)
            self._snapshot = "ok"
        except OSError as error:
            self._snapshot = f"not written: {error}"
        self._saved_at, self._saved_messages = monotonic(), self.board.messages
