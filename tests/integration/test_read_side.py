"""The projector and its readers on a real Postgres, which is killed, replaced and given things it cannot hold."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from events.job import JobFinished
from events.log import MemoryLog
from events.task import Detail, FileRef, TasksFailed, TasksFinished, TasksLeased
from infra.database import Database, DatabaseAway, DatabaseRefused
from projections import board as boards
from projections.rows import JobRow, TaskRow
from services import reads as readers
from services import table_writer
from services.projector import Projector
from services.reads import BadCursor, JobFilter, Reads, ReadsUnavailable, after_of
from services.table_writer import TableWriter
from tests.postgres_support import Server
from tests.read_support import SUBJECT, NaivePool, append, job_id, log_of, message, submitted

WAIT_S = 30


@contextlib.asynccontextmanager
async def projecting(log: MemoryLog, database: Database | None, folder: Path, **more: Any) -> AsyncGenerator[Projector]:
    projector = Projector(log, database, folder, subject=SUBJECT, **more)
    task = asyncio.create_task(projector.run())
    try:
        async with asyncio.timeout(WAIT_S):
            await projector.wait_caught_up()
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def saved(projector: Projector, position: int) -> None:
    assert projector.tables is not None
    async with asyncio.timeout(WAIT_S):
        while not await projector.tables.reached(position, WAIT_S):
            await asyncio.sleep(0.02)  # Postgres is away


def choices(seed: int, count: int) -> list[tuple[int, int, int]]:
    draw = Random(seed)
    return [(draw.randrange(12), draw.randrange(1000), draw.randrange(21)) for _ in range(count)]


async def all_jobs(reads: Reads, wanted: JobFilter, limit: int) -> list[JobRow]:
    rows: list[JobRow] = []
    cursor = ""
    while True:
        page = await reads.jobs(wanted, cursor, limit)
        rows += page.rows
        assert len(page.rows) <= limit
        if not (cursor := page.next):
            return rows


async def all_tasks(reads: Reads, job: str, state: str, limit: int) -> list[TaskRow]:
    rows: list[TaskRow] = []
    after = -1
    while True:
        page = await reads.tasks(job, state, after, limit)
        rows += page.rows
        if not page.next:
            return rows
        after = int(page.next)


async def check(pool: NaivePool, reads: Reads) -> None:
    """Everything readers can ask is what the pool knows."""
    for job in pool.jobs:
        row = await reads.job(job.id)
        assert row is not None
        assert row.state == job.shown
        wanted = [job.row(index) for index in range(len(job.tasks))]
        assert await all_tasks(reads, job.id, "", 3) == wanted
        for state in ("queued", "running", "succeeded", "cancelled"):
            assert await all_tasks(reads, job.id, state, 2) == [task for task in wanted if task.state == state]
        page = await reads.results(job.id, None, 2)
        found = list(page.rows)
        while page.next:
            page = await reads.results(job.id, after_of(page.next), 2)
            found += page.rows
        assert {(one.job, one.index, one.n) for one in found} == {one for one in pool.results if one[0] == job.id}
    listed = await all_jobs(reads, JobFilter(), 7)
    assert [row.job for row in listed] == [job.id for job in reversed(pool.jobs)]
    for state in {job.shown for job in pool.jobs}:
        rows = await all_jobs(reads, JobFilter((state,)), 3)
        assert [row.job for row in rows] == [job.id for job in reversed(pool.jobs) if job.shown == state]
    both = await all_jobs(reads, JobFilter(("queued", "succeeded")), 3)
    assert [row.job for row in both] == [j.id for j in reversed(pool.jobs) if j.shown in ("queued", "succeeded")]


async def rows_in(database: Database) -> list[int]:
    names = ("jobs", "task_history", "results", "job_history", "worker_history")
    return [(await database.fetch(f"SELECT count(*) FROM read.{name}"))[0][0] for name in names]


@pytest.fixture
def few_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The board forgets soon, so that the tables are asked."""
    monkeypatch.setattr(boards, "RECENT_MAX", 3)


async def test_readers_see_what_happened(database: Database, tmp_path: Path, few_recent: None) -> None:
    pool = NaivePool().run(choices(1, 700))
    async with projecting(log_of(pool.messages), database, tmp_path) as projector:
        await saved(projector, len(pool.messages))
        reads = Reads(projector, database)
        assert sum(reads.totals().jobs.values()) == len(pool.jobs) > 30
        assert projector.board.forgotten
        await check(pool, reads)
        assert await reads.job("jnone") is None
        assert await reads.job("j\0none") is None
        assert (await reads.tasks("jnone")).rows == []
        assert [row.worker for row in reads.workers()] == ["w0", "w1"]
        kept = await database.fetch("SELECT worker, state FROM read.workers ORDER BY worker")
        assert [row[0] for row in kept] == ["w0", "w1"]


async def test_a_reader_sees_at_once_what_was_folded(database: Database, tmp_path: Path, few_recent: None) -> None:
    """Written while read: no read is older than the position that was reached before it."""
    pool = NaivePool().run(choices(2, 400))
    log = MemoryLog()
    async with projecting(log, database, tmp_path) as projector:
        reads = Reads(projector, database)
        for at in range(0, len(pool.messages), 40):
            position = await append(log, *pool.messages[at : at + 40])
            assert await reads.reached(position, WAIT_S)
            whole = NaivePool().run(choices(2, 400)[: 2 * position])
            for job in whole.jobs[-4:] + whole.jobs[:2]:
                assert [task.state for task in await all_tasks(reads, job.id, "", 100)] == [
                    job.row(index).state for index in range(len(job.tasks))
                ]


async def test_a_restart_goes_on_where_it_was(database: Database, tmp_path: Path, few_recent: None) -> None:
    pool = NaivePool().run(choices(3, 500))
    log = MemoryLog()
    step = len(pool.messages) // 4
    for n in range(5):
        if n == 2:
            (tmp_path / "board.snapshot").unlink()
        async with projecting(log, database, tmp_path) as projector:
            position = await append(log, *pool.messages[n * step : (n + 1) * step])
            if position:
                await saved(projector, position)
    async with projecting(log, database, tmp_path) as projector:
        await saved(projector, len(log.entries))
        await check(pool, Reads(projector, database))


async def test_postgres_killed_and_back(server: Server, database: Database, tmp_path: Path, few_recent: None) -> None:
    pool = NaivePool().run(choices(4, 600))
    log, half = MemoryLog(), len(pool.messages) // 2
    async with projecting(log, database, tmp_path) as projector:
        reads = Reads(projector, database)
        await append(log, *pool.messages[: half - 10])
        await saved(projector, half - 10)
        assert projector.status().database == "ok"
        server.stop(signal.SIGKILL)
        try:
            await append(log, *pool.messages[half - 10 : -10])
            assert await reads.reached(len(log.entries), WAIT_S)
            live = next(iter(projector.board.open))
            assert await reads.job(live) is not None
            assert (await reads.jobs(JobFilter(("queued", "running", "held", "cancelling")))).rows
            with pytest.raises(ReadsUnavailable, match="away"):
                await reads.jobs(JobFilter())
            with pytest.raises(ReadsUnavailable):
                await reads.tasks(live)
        finally:
            server.start()
        await append(log, *pool.messages[-10:])
        await saved(projector, len(log.entries))
        await check(pool, reads)
        assert projector.status().database == "ok"


async def test_two_projectors_on_one_database_write_each_row_once(database: Database, tmp_path: Path) -> None:
    pool = NaivePool().run(choices(5, 400))
    log = MemoryLog()
    async with projecting(log, database, tmp_path / "a") as one, projecting(log, database, tmp_path / "b") as two:
        for at in range(0, len(pool.messages), 20):
            position = await append(log, *pool.messages[at : at + 20])
            await saved(one if at % 40 else two, position)
        await saved(one, len(log.entries))
        await saved(two, len(log.entries))
        await check(pool, Reads(two, database))
        assert (await rows_in(database))[0] == len(pool.jobs)


async def test_only_what_postgres_cannot_hold_is_left_out(database: Database, tmp_path: Path) -> None:
    messages = [message(n, submitted(n)) for n in range(20)]
    messages[7] = message(7, submitted(7), TasksFailed(job_id(7), [0, 0], 1, "w", code=2**70))
    async with projecting(log_of(messages), database, tmp_path) as projector:
        await saved(projector, 20)
        assert projector.status().skipped == 1
        rows = await database.fetch("SELECT job FROM read.jobs ORDER BY number")
        assert [row[0] for row in rows] == [job_id(n) for n in range(20) if n != 7]


async def test_a_rebuild_grows_beside_and_is_switched_to(database: Database, tmp_path: Path, few_recent: None) -> None:
    pool = NaivePool().run(choices(6, 400))
    log = log_of(pool.messages[:-20])
    async with projecting(log, database, tmp_path) as projector:
        await saved(projector, len(log.entries))
        reads = Reads(projector, database)
        async with asyncio.timeout(WAIT_S):
            await projector.rebuild()
        await append(log, *pool.messages[-20:])
        await saved(projector, len(log.entries))
        await check(pool, reads)
        builds = await database.fetch("SELECT id, live FROM read.builds")
        assert [tuple(build) for build in builds] == [(2, True)]
        assert await database.fetch("SELECT 1 FROM pg_namespace WHERE nspname = 'read_1'") == []


@pytest.mark.parametrize("removed", ["SCHEMA read CASCADE", "SCHEMA read_1 CASCADE", "TABLE read_1.results CASCADE"])
async def test_removed_tables_come_back_from_the_log(database: Database, tmp_path: Path, removed: str) -> None:
    pool = NaivePool().run(choices(7, 200))
    log = log_of(pool.messages[:-5])
    async with projecting(log, database, tmp_path) as projector:
        await saved(projector, len(log.entries))
        await database.execute(f"DROP {removed}")
        assert projector.tables is not None
        await append(log, *pool.messages[-5:])
        async with asyncio.timeout(WAIT_S):
            while True:
                await projector.tables.reached(len(log.entries), 0.2)
                await asyncio.sleep(0.02)
                with contextlib.suppress(ReadsUnavailable):
                    await check(pool, Reads(projector, database))
                    break
        assert projector.status().skipped == 0


async def test_tables_of_another_log_are_replaced(database: Database, tmp_path: Path) -> None:
    async with projecting(log_of(NaivePool().run(choices(8, 200)).messages), database, tmp_path / "a") as projector:
        await saved(projector, projector.position)
    other = [message(1000 + n, submitted(n)) for n in range(3)]
    async with projecting(log_of(other), database, tmp_path / "b") as projector:
        await saved(projector, 3)
        assert await rows_in(database) == [3, 0, 0, 0, 0]


async def test_newer_tables_are_left_alone(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(message(n, submitted(n)) for n in range(3))
    monkeypatch.setattr(table_writer, "VERSION", 9)
    async with projecting(log, database, tmp_path) as projector:
        await saved(projector, 3)
    monkeypatch.setattr(table_writer, "VERSION", 8)
    async with projecting(log, database, tmp_path) as projector:
        assert projector.tables is not None
        assert not await projector.tables.reached(3, 0.5)
        assert "newer" in projector.status().database
    assert await rows_in(database) == [3, 0, 0, 0, 0]


async def test_a_process_that_does_not_write_the_tables_reads_them(
    database: Database, tmp_path: Path, few_recent: None
) -> None:
    pool = NaivePool().run(choices(9, 300))
    log = log_of(pool.messages)
    async with (
        projecting(log, database, tmp_path / "a"),
        projecting(log, database, tmp_path / "b", tables=False) as reader,
    ):
        await saved(reader, len(log.entries))
        assert not isinstance(reader.tables, TableWriter)
        await check(pool, Reads(reader, database))


async def test_a_large_array_is_paged_by_any_state(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "SCAN_FACTS_MAX", 50)
    lot, job = 100_000, job_id(0)
    facts = [TasksLeased(job, [at, at + 99], at + 1, "w") for at in range(0, 50_000, 100)]
    ends = [TasksFinished(job, [at, at + 99], at + 1, "w") for at in range(0, 40_000, 100)]
    failed = TasksFailed(job, [45_050, 45_050], 45_001, "w")
    log = log_of([message(0, submitted(0, lot)), message(1, *facts), message(2, *ends), message(3, failed)])
    async with projecting(log, database, tmp_path) as projector:
        reads = Reads(projector, database)
        await saved(projector, 4)
        for state, first, count in (("succeeded", 0, 40_000), ("leased", 40_000, 9_999), ("queued", 50_000, 50_000)):
            rows = await all_tasks(reads, job, state, 5000)
            assert (rows[0].index, len(rows)) == (first, count)
        assert [row.index for row in await all_tasks(reads, job, "failed", 10)] == [45_050]
        assert [row.state for row in (await reads.tasks(job, "", 39_998, 3)).rows] == ["succeeded", "leased", "leased"]
        assert (await reads.task(job, lot - 1)) == TaskRow(job, lot - 1, "queued")
        assert await reads.task(job, lot) is None


async def test_cursors_that_no_page_gave(database: Database, tmp_path: Path) -> None:
    async with projecting(log_of([message(0, submitted(0))]), database, tmp_path) as projector:
        with pytest.raises(BadCursor):
            await Reads(projector, database).jobs(JobFilter(), "x'; DROP")
    with pytest.raises(BadCursor):
        after_of("x/y")


async def test_errors_say_which_kind_they_are(database: Database, server: Server) -> None:
    with pytest.raises(DatabaseRefused) as refused:
        await database.fetch("SELECT nothing_of_this_name")
    assert not refused.value.value
    with pytest.raises(DatabaseRefused) as refused:
        await database.fetch("SELECT $1::bigint", 2**70)
    assert refused.value.value
    away = Database(f"postgresql://hive@/x?host={Path(sys.prefix)}/none")
    with pytest.raises(DatabaseAway):
        await away.fetch("SELECT 1")
    await away.close()


async def test_details_are_shown_with_their_task(database: Database, tmp_path: Path) -> None:
    job = job_id(0)
    details = [Detail(wall_ms=at, results=[FileRef(at, "1" * 64, at)]) for at in range(150)]
    log = log_of([
        message(0, submitted(0, 150)), message(1, TasksLeased(job, [0, 149], 1, "w")),
        message(2, TasksFinished(job, [0, 149], 1, "w", 1, details), JobFinished(job, "succeeded", 150)),
    ])  # fmt: skip
    async with projecting(log, database, tmp_path) as projector:
        reads = Reads(projector, database)
        rows = (await reads.tasks(job, "", 60, 10)).rows
        assert [(row.index, row.detail) for row in rows] == [(at, details[at]) for at in range(61, 71)]
        assert len((await reads.results(job, (99, 0), 1000)).rows) == 51
