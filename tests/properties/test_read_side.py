"""What readers see is what happened: the board and the rows against a pool that keeps every task by itself."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from events.task import Detail, TasksFinished
from projections.board import BOARD, fold
from projections.history import DETAIL_TASKS_MAX, DETAILS, RUN_TASKS_MAX, Rows, Update
from projections.rows import JobRow, TaskRow
from projections.tasks import Fact, fold_runs
from services.reads import _job_row
from tests import read_support
from tests.read_support import NaivePool

CHOICES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3), st.integers(0, 20)), min_size=40, max_size=90)
CUTS = st.lists(st.integers(0, 45), max_size=4)
DECODE = msgspec.json.Decoder(list[Detail]).decode


@given(CHOICES)
def test_the_boards_counts_are_those_of_the_tasks(choices: list[tuple[int, int, int]]) -> None:
    pool, board = NaivePool().run(choices), BOARD.initial()
    for position, message in enumerate(pool.messages, 1):
        fold(board, message, position)
    for job in pool.jobs:
        found = board.find(job.id)
        assert found is not None
        row = found.row()
        states = [job.row(index).state for index in range(len(job.tasks))]
        held = states.count("queued") + states.count("held")
        assert (row.queued, row.leased, row.running) == (held, states.count("leased"), states.count("running"))
        ended = [states.count(state) for state in ("succeeded", "failed", "cancelled")]
        assert [row.succeeded, row.failed, row.cancelled] == ended
        assert row.state == job.shown
    totals = board.totals()
    assert sum(totals.jobs.values()) == len(pool.jobs)
    assert sum(totals.tasks.values()) == sum(len(job.tasks) for job in pool.jobs)
    assert min(totals.tasks.values()) >= 0
    leased = sum(len(job.where("leased", "running")) for job in pool.jobs)
    assert (
        sum(worker.leased for worker in board.workers.values())
        == leased
        == totals.tasks["leased"] + totals.tasks["running"]
    )
    assert board.strays == 0


@given(CHOICES, st.integers(0, 30))
def test_a_board_cut_anywhere_through_its_snapshot_is_the_whole_fold(
    choices: list[tuple[int, int, int]], cut: int
) -> None:
    messages = NaivePool().run(choices).messages
    whole, cut_one = BOARD.initial(), BOARD.initial()
    for position, message in enumerate(messages, 1):
        fold(whole, message, position)
        fold(cut_one, message, position)
        if position == cut:
            cut_one = BOARD.unpack(list(BOARD.pack(cut_one)))
    assert cut_one == whole


class Tables:
    """The tables as Postgres would hold them, in memory."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[Any]] = {}
        self.tasks: list[list[Any]] = []
        self.results: list[list[Any]] = []

    def save(self, rows: Rows) -> None:
        self.jobs.update(rows.jobs)
        for update in rows.updates.values():
            self._update(self.jobs[update.job], update)
        self.tasks += rows.tasks
        self.results += rows.results

    def _update(self, row: list[Any], update: Update) -> None:
        row[2] = update.state or row[2]
        row[3] = update.reason if update.reason is not None else row[3] or update.first_reason
        row[9:12] = update.succeeded, update.failed, update.cancelled
        row[16], row[18] = update.finished_at, update.position

    def seen(self, job: str, low: int, high: int, state: Any) -> list[TaskRow]:
        """The tasks from `low` to `high`, as a reader makes them from the rows, with details."""
        covering = [row for row in self.tasks if row[0] == job and row[1] <= high and row[2] >= low]
        facts = [Fact(*[*row[1:10], *row[11:14], row[15]]) for row in covering]
        texts = {(row[15], row[1]): row[DETAILS] for row in covering}
        found: list[TaskRow] = []
        for first, last, view in fold_runs(facts, low, high, state):
            for index in range(first, last + 1):
                row = view.row(job, index)
                if text := texts.get(view.source):
                    details = DECODE(text)
                    row = msgspec.structs.replace(row, detail=details[index - view.source[1]])
                found.append(row)
        return found


def tables_of(pool: NaivePool, cuts: list[int]) -> Tables:
    """The tables, saved after each of the positions in `cuts` and at the end."""
    tables, rows = Tables(), Rows()
    for position, message in enumerate(pool.messages, 1):
        rows.add(message, position)
        if position in cuts:
            tables.save(rows)
            rows = Rows(position)
    tables.save(rows)
    return tables


@given(CHOICES, CUTS, st.integers(0, 8))
def test_tasks_folded_from_rows_are_the_tasks(choices: list[tuple[int, int, int]], cuts: list[int], low: int) -> None:
    pool = NaivePool().run(choices)
    tables = tables_of(pool, cuts)
    for job in pool.jobs:
        high = len(job.tasks) - 1
        wanted = [job.row(index) for index in range(min(low, high), high + 1)]
        assert tables.seen(job.id, min(low, high), high, job.shown) == wanted
    results = {(row[0], row[1], row[2]) for row in tables.results}
    assert results == set(pool.results)


@given(CHOICES, CUTS)
def test_an_ended_jobs_row_is_what_the_board_had(choices: list[tuple[int, int, int]], cuts: list[int]) -> None:
    pool, board = NaivePool().run(choices), BOARD.initial()
    for position, message in enumerate(pool.messages, 1):
        fold(board, message, position)
    tables = tables_of(pool, cuts)
    for job in board.ended.values():
        assert _without_nul(job.row()) == _table_row(tables.jobs[job.job])
    for job in board.open.values():
        state = tables.jobs[job.job][2]
        assert state == job.state or (state, job.state) == ("queued", "running")


def _without_nul(row: JobRow) -> JobRow:
    return msgspec.structs.replace(row, reason=row.reason.replace("\0", "\ufffd"))


def _table_row(row: list[Any]) -> JobRow:
    return _job_row(row[:19])


@given(st.integers(1, 9000), st.booleans())
def test_rows_cover_their_tasks_once_and_are_bounded(count: int, detailed: bool) -> None:
    rows = Rows()
    details = [Detail(wall_ms=at) for at in range(count)] if detailed else []
    rows.add(read_support.message(1, TasksFinished("j", [5, 4 + count], 1, "w", 1, details)), 1)
    covered = [index for row in rows.tasks for index in range(row[1], row[2] + 1)]
    assert covered == list(range(5, 5 + count))
    most = DETAIL_TASKS_MAX if detailed else RUN_TASKS_MAX
    assert all(row[2] - row[1] < most for row in rows.tasks)
