"""Keeps one build of the tables up with the log: rows collect, and are saved with their position in one transaction.

What is saved starts where the build's own position says, always: it is read again after every trouble, so that an
unknown outcome, a Postgres that lost its last moments, or a second control plane on the same tables are all harmless.
While Postgres is away nothing collects; the rows come from the log again when it is back.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

from events.catalog import Record
from infra import tables
from infra.database import Database, DatabaseAway, DatabaseRefused, Transaction
from projections.history import VERSION, Rows
from services.feed import Follower, Pace, Source

SAVE_S_MIN = 0.1
"""Rows collect at least so long, so that many share a transaction."""
WANTED_S_MIN = 0.01
"""The same when a reader waits for them."""
ROWS_MAX = 20_000
"""A transaction takes about so many rows; a message is never cut, and the largest has some thousand."""
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
TAKE_S_MAX = 5.0


class Moved(Exception):
    """The build's position is not where this writer left it."""


class Superseded(Exception):
    """Newer tables are live: a newer version of Hive serves here, and this one's tables would only get in its way."""


class _Build(NamedTuple):
    """A row of `read.builds`, and whether its tables and views are all there."""

    id: int
    version: int
    origin: str
    live: bool
    position: int
    whole: bool


class Board(Source, Protocol):
    """What the writer needs of the projector beside its records."""

    @property
    def origin(self) -> str:
        """The id of the log's first message; "" while it has none."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether the end of the log was seen."""
        ...


class TableWriter:
    """`position`: what is saved; `away`: why Postgres is not there, "" when it is or nobody knows yet; `skipped`: messages
    that Postgres refused, each left out alone; `live`: whether readers see this build.
    """

    def __init__(self, source: Board, database: Database, fresh: bool = False) -> None:
        self.position = 0
        self.at = 0
        self.away = ""
        self.skipped = 0
        self.live = False
        self.build = 0
        self._source, self._database, self._fresh = source, database, fresh
        self._moved = asyncio.Event()
        self._wanted = False
        self._doubted = False

    async def run(self) -> None:
        """Follow until cancelled, through every absence of Postgres. Raises Superseded."""
        retry_s = RETRY_S_MIN
        while True:
            try:
                await self._source.reached(1, None)
                await self._find_build()
                self.away, retry_s = "", RETRY_S_MIN
                await self._follow()
            except Moved:
                continue
            except (DatabaseAway, DatabaseRefused) as error:
                self.away = str(error)
                self._tell()
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_S_MAX)

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until readers see everything up to `position`, hurrying the writer; whether they do. Does not wait for a
        Postgres that is away.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position or not self.live:
                    if self.away:
                        return False
                    self._wanted = True
                    self._source.ring.wake()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def look_again(self) -> None:
        """A reader was refused by the tables: see whether they are all there."""
        self._doubted = True
        self._source.ring.wake()

    # Builds

    async def _find_build(self) -> None:
        """Settle which build is ours, and how far it is: the live one, one that grows, or a new one."""
        self.live = False
        await self._database.execute(tables.PREPARE)
        known = await self._database.fetch(tables.FIND_BUILDS)
        await self._see(max((build[4] for build in known), default=0))
        origin, end = self._source.origin, self._source.ring.position
        async with self._database.transaction() as transaction:
            await transaction.execute(f"SELECT pg_advisory_xact_lock({tables.LOCK})")
            builds = [_Build(*build) for build in await transaction.fetch(tables.FIND_BUILDS)]
            if any(build.live and build.version > VERSION for build in builds):
                raise Superseded("tables of a newer version of Hive are live; stop this one, or the newer")
            # A build that has seen more than the log holds is of the log before it was restored to an earlier state.
            whole = [build for build in builds if build.whole and build.origin == origin and build.position <= end]
            ours = [build for build in whole if build.version == VERSION]
            if self.build or self._fresh:
                ours = [build for build in ours if build.id == self.build] or (ours if self.build else [])
            if ours:
                found = ours[0]
            else:
                # With no usable tables to serve meanwhile, these are live while they grow.
                found = await self._create(transaction, origin, live=not any(build.live for build in whole))
        self._set(found.id, found.position, found.live)

    async def _create(self, transaction: Transaction, origin: str, live: bool) -> _Build:
        ((build,),) = await transaction.fetch(tables.ADD_BUILD, VERSION, origin)
        await transaction.execute(tables.create(build))
        if live:
            await self._show(transaction, build)
        return _Build(build, VERSION, origin, live, 0, True)

    async def _see(self, position: int) -> None:
        """Wait until the board is at `position`, or the log turns out not to reach it."""
        while self._source.ring.position < position and not self._source.caught_up:
            await self._source.ring.wait()

    def _set(self, build: int, position: int, live: bool) -> None:
        self.build, self.position, self.live = build, position, live
        self._tell()

    async def _show(self, transaction: Transaction, build: int) -> None:
        """Show a build to readers and drop the others."""
        await transaction.execute(tables.show(build))
        await transaction.execute(tables.SET_LIVE, build)
        for other, *_ in await transaction.fetch(tables.FIND_BUILDS):
            if other != build:
                await transaction.execute(tables.drop(other))
                await transaction.execute(tables.DROP_BUILD, other)

    async def _switch(self) -> None:
        """Show this build to readers, unless what they see now is further. Its writer is held off meanwhile."""
        async with self._database.transaction() as transaction:
            await transaction.execute(f"SELECT pg_advisory_xact_lock({tables.LOCK})")
            live = await transaction.fetch(tables.LOCK_LIVE)
            if live and live[0][0] > self.position and live[0][1] == VERSION:
                return
            await self._show(transaction, self.build)
        self._set(self.build, self.position, True)

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    # Rows

    async def _follow(self) -> None:
        async with Follower(self._source, self.position + 1) as follower:
            rows, records = Rows(self.position), list[Record]()
            saved_at = monotonic() - SAVE_S_MIN
            pace = Pace()
            while True:
                wait_s = TAKE_S_MAX if not records else self._due(saved_at) - monotonic()
                taken = await follower.take(max(wait_s, 0.0))
                if self._doubted:
                    self._doubted = False
                    raise Moved
                for record in taken:
                    rows.add(record.message, record.position)
                    records.append(record)
                    await pace.turn()
                    if rows.count >= ROWS_MAX:
                        rows, records = await self._flush(rows, records)
                        saved_at = monotonic()
                if records and monotonic() >= self._due(saved_at):
                    rows, records = await self._flush(rows, records)
                    saved_at = monotonic()
                if not records:
                    self._wanted = False
                    if not self.live and self._source.caught_up and self.position >= self._source.ring.position:
                        await self._switch()

    def _due(self, saved_at: float) -> float:
        return saved_at + (WANTED_S_MIN if self._wanted else SAVE_S_MIN)

    async def _flush(self, rows: Rows, records: list[Record]) -> tuple[Rows, list[Record]]:
        """Save; the empty batch that comes next."""
        self._wanted = False
        await self._save(rows, records)
        return Rows(self.position), []

    async def _save(self, rows: Rows, records: Sequence[Record]) -> None:
        """Save a batch. When Postgres refuses it, its halves: so that only the message it cannot hold is left out."""
        try:
            await self._write(rows)
        except DatabaseRefused as error:
            if not error.value:
                raise
            if len(records) == 1:
                await self._write(self._empty(rows))
                self.skipped += 1
                return
            middle = len(records) // 2
            for part in (records[:middle], records[middle:]):
                await self._save(self._rows_of(part), part)

    def _rows_of(self, records: Sequence[Record]) -> Rows:
        rows = Rows(self.position)
        for record in records:
            rows.add(record.message, record.position)
        return rows

    def _empty(self, rows: Rows) -> Rows:
        empty = Rows(rows.position)
        empty.at = rows.at
        return empty

    async def _write(self, rows: Rows) -> None:
        """One transaction: rows, then the position. Raises Moved, DatabaseAway, DatabaseRefused."""
        async with self._database.transaction(durable=False) as transaction:
            held = await transaction.fetch(tables.LOCK_BUILD, self.build)
            if not held or held[0][0] != self.position:
                raise Moved
            schema = tables.schema_of(self.build)
            for table, added in (
                (tables.JOBS, list(rows.jobs.values())),
                (tables.JOB_HISTORY, rows.job_history),
                (tables.TASK_HISTORY, rows.tasks),
                (tables.RESULTS, rows.results),
                (tables.WORKER_HISTORY, rows.workers),
                (tables.ENTRIES, rows.entries),
            ):
                if added:
                    await transaction.copy(schema, table.name, table.names, added)
            if rows.updates:
                await transaction.execute(tables.update_jobs(self.build), *_columns(rows))
            await transaction.execute(tables.MOVE_BUILD, self.build, rows.position, rows.at)
        self.position, self.at = rows.position, rows.at
        self._tell()


def _columns(rows: Rows) -> list[list[Any]]:
    """The updates as one list a column, in the order that `tables.update_jobs` says."""
    updates = rows.updates.values()
    return [
        [update.job for update in updates],
        [update.state for update in updates],
        [update.reason for update in updates],
        [update.first_reason for update in updates],
        [update.succeeded for update in updates],
        [update.failed for update in updates],
        [update.cancelled for update in updates],
        [update.finished_at for update in updates],
        [update.position for update in updates],
    ]
