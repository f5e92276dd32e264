"""Answers readers: what is open or ended lately from the board, the rest from the tables, as one.

Jobs, workers and totals are answered by the board even while Postgres is away. What the tables must answer waits until
they hold what the board holds of it, so that a reader never sees less than was acknowledged before it asked; when that
takes too long, or Postgres is away, `ReadsUnavailable` says so.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from events.base import Digest, JobId, Sealed, WorkerId
from events.task import Detail
from infra import tables
from infra.database import Database, DatabaseAway, DatabaseRefused, Record
from projections.board_state import Guess, Job
from projections.history import RUN_TASKS_MAX
from projections.rows import ENDED_STATES, OPEN_STATES, JobRow, ResultRow, TaskRow, Totals, WorkerRow
from projections.tasks import Fact, View, fold_runs
from services.projector import Projector

FRESH_S_MAX = 5.0
"""How long a read waits for the tables to come up to the board."""
SCAN_JOBS_MAX = 20_000
"""How many jobs of the board are looked at before others get their turn: about 2 ms."""
SCAN_FACTS_MAX = 2000
"""How many rows of history one look at a job's tasks takes: more than can cover any one task."""
SCANS_MAX = 16
"""How many such looks one page of tasks takes at most; a page may then be short and still have a next one."""
NUMBER_MAX = 2**63 - 1
ATTEMPTS_MAX = 100
END_KINDS = ("finished", "failed", "retried", "late")

Row = TypeVar("Row")

_decode_details = msgspec.json.Decoder(list[Detail]).decode


class ReadsUnavailable(Exception):
    """The tables cannot answer now; what the board answers goes on. Try again in a moment."""


class BadCursor(Exception):
    """A cursor that no page gave."""


class JobFilter(msgspec.Struct, frozen=True, gc=False):
    """Which jobs: in any of these states (none: all), of this kind and owner ("": any)."""

    states: tuple[str, ...] = ()
    kind: str = ""
    owner: str = ""

    def takes(self, job: Job) -> bool:
        """Whether it takes this one."""
        return (
            (not self.states or job.state in self.states)
            and (not self.kind or job.kind == self.kind)
            and (not self.owner or job.owner == self.owner)
        )


class Page(msgspec.Struct, Generic[Row], frozen=True):
    """Some rows; `next` is the cursor of the next page, "" when there is none; `position`: what they are as of, at least."""

    rows: list[Row]
    next: str
    position: int


class Reads:
    """The questions. `database` None: only what the board can answer."""

    def __init__(self, projector: Projector, database: Database | None) -> None:
        self._projector, self._database = projector, database

    @property
    def position(self) -> int:
        """Up to where the board has folded."""
        return self._projector.position

    @property
    def tables_position(self) -> int:
        """Up to where the tables are saved."""
        return self._projector.tables.position if self._projector.tables else 0

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until the board has folded `position`; whether it has. The tables' answers then hold it too."""
        return await self._projector.reached(position, timeout_s)

    async def changes(self) -> AsyncIterator[int]:
        """The board's position, now and each time it has moved; steps that the caller is too slow for are left out."""
        seen = -1
        while True:
            while (position := self._projector.position) == seen:
                await self._projector.ring.wait()
            yield position
            seen = position

    # What the board answers

    def totals(self) -> Totals:
        """Jobs, tasks and workers by state."""
        return self._projector.board.totals()

    def workers(self) -> list[WorkerRow]:
        """Every worker that was ever seen, by id."""
        return [worker.row() for _, worker in sorted(self._projector.board.workers.items())]

    def worker(self, worker: WorkerId) -> WorkerRow | None:
        """One worker; None when it was never seen."""
        found = self._projector.board.workers.get(worker)
        return found.row() if found else None

    def live_job(self, job: JobId) -> JobRow | None:
        """The job as the board has it; None when it ended long ago, or never was."""
        found = self._projector.board.find(job)
        return found.row() if found else None

    def live_task(self, job: JobId, index: int) -> Guess:
        """What the board alone says of a task, for as long as the tables are away."""
        found = self._projector.board.find(job)
        return found.of_task(index) if found else "unknown"

    # What the tables know too

    async def job(self, job: JobId) -> JobRow | None:
        """The job; None when there is none. Raises ReadsUnavailable only for one that the board no longer has."""
        if row := self.live_job(job):
            return row
        forgotten = self._projector.board.forgotten
        if not forgotten:
            return None
        await self._fresh(forgotten)
        rows = await self._fetch(tables.FIND_JOB, job)
        return self.live_job(job) or (_job_row(rows[0]) if rows else None)

    async def jobs(self, wanted: JobFilter, cursor: str = "", limit: int = 100) -> Page[JobRow]:
        """Jobs by submission, newest first. Raises ReadsUnavailable, unless only open states are asked for; BadCursor."""
        below = _number(cursor) if cursor else NUMBER_MAX
        position = self.position
        if not position:
            return Page([], "", 0)
        found = {row.job: row for row in await self._board_jobs(wanted, below, limit + 1)}
        ended = [state for state in wanted.states or ENDED_STATES if state in ENDED_STATES]
        if ended:
            # What ended after the tables' position is still known to the board, unless they are far behind.
            await self._fresh(self._projector.board.forgotten)
            sql = tables.list_jobs(len(ended))
            for record in await self._fetch(sql, below, limit + 1, wanted.kind, wanted.owner, *ended):
                row = _job_row(record)
                found.setdefault(row.job, row)
        rows = sorted(found.values(), key=lambda row: -row.number)
        last = str(rows[limit - 1].number) if len(rows) > limit else ""
        return Page(rows[:limit], last, position)

    async def _board_jobs(self, wanted: JobFilter, below: int, limit: int) -> list[JobRow]:
        board = self._projector.board
        rows: list[JobRow] = []
        # Copies, newest first: the board goes on changing whenever others get their turn.
        if not wanted.states or any(state in OPEN_STATES for state in wanted.states):
            rows += await self._pick(list(reversed(board.open.values())), wanted, below, limit)
        if not wanted.states or any(state in ENDED_STATES for state in wanted.states):
            ended = sorted(board.ended.values(), key=lambda job: -job.number)
            rows += await self._pick(ended, wanted, below, limit)
        return rows

    async def _pick(self, jobs: list[Job], wanted: JobFilter, below: int, limit: int) -> list[JobRow]:
        rows: list[JobRow] = []
        for at in range(0, len(jobs), SCAN_JOBS_MAX):
            for job in jobs[at : at + SCAN_JOBS_MAX]:
                if job.number < below and wanted.takes(job):
                    rows.append(job.row())
                    if len(rows) == limit:
                        return rows
            await asyncio.sleep(0)
        return rows

    async def tasks(
        self, job: JobId, state: str = "", after: int = -1, limit: int = 100, detailed: bool = True
    ) -> Page[TaskRow]:
        """Tasks with numbers above `after`, ascending, only those in `state` when one is named; empty for a job that is
        not there. `next` is the `after` of the next page; a page may be short and still have one. Raises ReadsUnavailable.
        """
        row = await self.job(job)
        if row is None:
            return Page([], "", self.tables_position)
        await self._fresh_for(row)
        found: list[tuple[int, View]] = []
        low = after + 1
        for _ in range(SCANS_MAX):
            if low >= row.count or len(found) >= limit:
                break
            low = await self._scan_tasks(row, state, low, limit, found)
        details = await self._details(job, (view for _, view in found)) if detailed else {}
        rows = [_with_detail(view.row(job, index), view, details) for index, view in found]
        return Page(rows, str(low - 1) if low < row.count else "", self.tables_position)

    async def _scan_tasks(self, job: JobRow, state: str, low: int, limit: int, found: list[tuple[int, View]]) -> int:
        """Look at tasks from `low` on and add those in `state` to `found`, up to `limit`; where to go on."""
        high = job.count - 1 if state else min(job.count - 1, low + limit - len(found) - 1)
        records = await self._fetch(tables.TASK_FACTS, job.job, low - RUN_TASKS_MAX, high, low, SCAN_FACTS_MAX + 1)
        facts = [Fact(*record) for record in records]
        if len(facts) > SCAN_FACTS_MAX:
            # Only tasks before the first one of the row that was cut off are known in full.
            high = max(facts[-1].first - 1, low)
            facts = [fact for fact in facts if fact.first <= high]
        for first, last, view in fold_runs(facts, low, high, job.state):
            if state and view.state != state:
                continue
            room = limit - len(found)
            found += [(index, view) for index in range(first, min(last, first + room - 1) + 1)]
            if len(found) >= limit:
                return found[-1][0] + 1
        return high + 1

    async def _details(self, job: JobId, views: Iterable[View]) -> dict[tuple[int, int], list[Detail]]:
        sources = {view.source for view in views} - {(0, 0)}
        if not sources:
            return {}
        firsts = sorted({first for _, first in sources})
        numbers = sorted({number for number, _ in sources})
        records = await self._fetch(tables.TASK_DETAILS, job, firsts, numbers)
        return {(number, first): _decode_details(text) for number, first, text in records}

    async def ends(self, job: JobId, index: int) -> list[Fact]:
        """How the attempts of a task ended, and what came too late, in the order of the log: the last ATTEMPTS_MAX. Raises
        ReadsUnavailable.
        """
        row = await self.job(job)
        if row is None or not 0 <= index < row.count:
            return []
        await self._fresh_for(row)
        records = await self._fetch(tables.TASK_FACTS, job, index - RUN_TASKS_MAX, index, index, SCAN_FACTS_MAX)
        facts = sorted((Fact(*record) for record in records), key=lambda fact: fact.number)
        return [fact for fact in facts if fact.kind in END_KINDS][-ATTEMPTS_MAX:]

    async def task(self, job: JobId, index: int) -> TaskRow | None:
        """One task; None when there is none. Raises ReadsUnavailable."""
        page = await self.tasks(job, after=index - 1, limit=1) if index >= 0 else None
        return page.rows[0] if page and page.rows else None

    async def results(self, job: JobId, after: tuple[int, int] | None = None, limit: int = 100) -> Page[ResultRow]:
        """Files that the job's ended tasks left, by task and number, after (task, number). `next` is "task/number" of the last.
        Raises ReadsUnavailable.
        """
        row = await self.job(job)
        if row is None:
            return Page([], "", self.tables_position)
        await self._fresh_for(row)
        index, n = after if after is not None else (-1, -1)
        records = await self._fetch(tables.LIST_RESULTS, job, index, n, limit + 1)
        rows = [ResultRow(job, *record) for record in records]
        last = f"{rows[limit - 1].index}/{rows[limit - 1].n}" if len(rows) > limit else ""
        return Page(rows[:limit], last, self.tables_position)

    async def kept_results(self, since: int, after: str, limit: int) -> list[tuple[Digest, bool]]:
        """Blobs that tasks left, of jobs that are open or ended since then (ms), and whether each is a list of files: by
        digest, those after `after`. As of the board's position. Raises ReadsUnavailable.
        """
        await self._fresh(self.position)
        return [(record[0], record[1]) for record in await self._fetch(tables.KEPT_RESULTS, since, after, limit)]

    async def kept_emitted(self, since: int, after: str, limit: int) -> list[Digest]:
        """Likewise the blobs of what tasks told of themselves."""
        await self._fresh(self.position)
        return [record[0] for record in await self._fetch(tables.KEPT_EMITTED, since, after, limit)]

    # The tables

    async def _fresh_for(self, job: JobRow) -> None:
        await self._fresh(job.position)

    async def _fresh(self, position: int) -> None:
        """Wait until the tables hold `position`. Raises ReadsUnavailable."""
        writer = self._projector.tables
        if writer is None:
            raise ReadsUnavailable("no database is configured; lists and history need one")
        if writer.position >= position and writer.live:
            return
        if await writer.reached(position, FRESH_S_MAX):
            return
        if writer.away:
            raise ReadsUnavailable(f"lists and history are not available: {writer.away}")
        behind = max(self.position - writer.position, 0)
        raise ReadsUnavailable(f"the tables are {behind} positions behind the log and catching up; try again soon")

    async def rows(self, position: int, sql: str, *arguments: Any) -> list[Record]:
        """Ask the tables, once they hold `position`. Raises ReadsUnavailable."""
        await self._fresh(position)
        return await self._fetch(sql, *arguments)

    async def _fetch(self, sql: str, *arguments: Any) -> list[Record]:
        """Ask the tables, right after `_fresh`. Raises ReadsUnavailable, also when they were replaced meanwhile."""
        writer = self._projector.tables
        if self._database is None or writer is None:
            raise ReadsUnavailable("no database is configured; lists and history need one")
        build = writer.build
        try:
            records = await self._database.fetch(sql, *arguments)
        except DatabaseAway as error:
            raise ReadsUnavailable(f"lists and history are not available: {error}") from error
        except DatabaseRefused as error:
            if error.value:  # No row can hold what was asked for.
                return []
            writer.look_again()
            raise ReadsUnavailable(f"lists and history are being rebuilt: {error}") from error
        if writer.build != build or not writer.live:
            raise ReadsUnavailable("the tables were replaced just now; try again")
        return records


def after_of(cursor: str) -> tuple[int, int] | None:
    """A results page's `next` as the `after` of the next one; None for "". Raises BadCursor."""
    if not cursor:
        return None
    index, slash, n = cursor.partition("/")
    if not slash or not index.isdecimal() or not n.isdecimal() or len(cursor) > 30:
        raise BadCursor(f"{cursor!r} is not a cursor; use the `next` that a page gave")
    return min(int(index), NUMBER_MAX), min(int(n), NUMBER_MAX)


def _number(cursor: str) -> int:
    if not cursor.isdecimal() or len(cursor) > 19:
        raise BadCursor(f"{cursor!r} is not a cursor; use the `next` that a page gave")
    return min(int(cursor), NUMBER_MAX)


def _with_detail(row: TaskRow, view: View, details: dict[tuple[int, int], list[Detail]]) -> TaskRow:
    known = details.get(view.source)
    at = row.index - view.source[1]
    return msgspec.structs.replace(row, detail=known[at]) if known and at < len(known) else row


def _job_row(record: Record) -> JobRow:
    (
        job, owner, state, reason, kind, count, priority, cpus_milli, memory_bytes, succeeded, failed, cancelled,
        text_key, text_data, after, submitted_at, finished_at, number, position,
    ) = record  # fmt: skip
    waiting = count - succeeded - failed - cancelled
    return JobRow(
        job, owner, state, reason, kind, count, priority, cpus_milli, memory_bytes, waiting, 0, 0, succeeded, failed,
        cancelled, Sealed(text_key, text_data), after, submitted_at, finished_at, position, number,
    )  # fmt: skip
