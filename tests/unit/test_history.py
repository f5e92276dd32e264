"""Given facts, then rows of the tables; and the tasks that readers make of rows."""

from typing import Any

import msgspec

from events.base import runs_of
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable
from events.task import Detail, FileRef, TasksFailed, TasksFinished, TasksLate, TasksLeased, TasksRetried, TasksStarted
from events.worker import Capacity, WorkerDrained, WorkerRegistered
from infra import tables
from projections.history import DETAIL_TASKS_MAX, KIND, LEASED_AT, NUMBER, STARTED_AT, Rows
from projections.rows import JobState
from projections.tasks import Fact, fold_tasks
from tests.read_support import T0, job_id, message, submitted

J = job_id(0)


def given(*events: Any, start: int = 1) -> Rows:
    """The rows of these events, one a message, in one batch."""
    rows = Rows(start - 1)
    for position, event in enumerate(events, start):
        rows.add(message(position, event), position)
    return rows


def test_a_lease_that_ends_as_it_was_given_is_one_row_that_says_it_all() -> None:
    rows = given(
        TasksLeased(J, [0, 511], 1, "w"), TasksStarted(J, [0, 511], 1, "w"), TasksFinished(J, [0, 511], 1, "w")
    )
    assert len(rows.tasks) == 1
    row = rows.tasks[0]
    assert (row[KIND], row[LEASED_AT], row[STARTED_AT], row[NUMBER]) == ("finished", T0 + 1, T0 + 2, 3 << 16)


def test_a_lease_that_ends_in_parts_keeps_its_row_and_adds_one_a_part() -> None:
    rows = given(TasksLeased(J, [0, 9], 1, "w"), TasksFinished(J, [0, 4], 1, "w"), TasksFinished(J, [5, 9], 1, "w"))
    assert [row[KIND] for row in rows.tasks] == ["leased", "finished", "finished"]


def test_an_array_costs_rows_by_lease_and_not_by_task() -> None:
    facts = [TasksLeased(J, [at, at + 511], at, "w") for at in range(0, 512_000, 512)]
    assert given(submitted(0, 512_000), *facts).count == 1001


def test_details_are_cut_with_their_tasks() -> None:
    details = [Detail(wall_ms=at) for at in range(100)]
    rows = given(TasksFinished(J, runs_of([*range(50), *range(60, 110)]), 1, "w", 1, details))
    told = [(row[1], row[2], msgspec.json.decode(row[14])) for row in rows.tasks]
    assert [(first, last) for first, last, _ in told] == [(0, 49), (60, 109)]
    assert told[1][2][0] == {"wall_ms": 50}
    rows = given(TasksFinished(J, [0, 99], 1, "w", 1, details))
    assert [(row[1], row[2]) for row in rows.tasks] == [(0, DETAIL_TASKS_MAX - 1), (DETAIL_TASKS_MAX, 99)]


def test_results_are_those_of_attempts_that_count() -> None:
    detail = Detail(results=[FileRef(0, "1" * 64, 7)])
    rows = given(TasksRetried(J, [0, 0], 1, "w", details=[detail]), TasksFinished(J, [0, 0], 2, "w", 2, [detail]))
    assert rows.results == [[J, 0, 0, "1" * 64, 7, -1]]


def test_a_job_that_is_submitted_and_ends_in_one_batch_is_one_row() -> None:
    rows = given(submitted(0), TasksFailed(J, [0, 0], 1, "w", end="oom"), JobFinished(J, "failed", 0, 1, 0))
    (row,) = rows.jobs.values()
    values = dict(zip(tables.JOBS.names, row, strict=True))
    assert (values["state"], values["reason"], values["failed"], values["finished_at"]) == (
        "failed",
        "task 0: oom",
        1,
        T0 + 3,
    )
    assert (values["by"], values["trace"], not rows.updates) == ("uada", "t1", True)


def test_what_failed_first_is_the_reason_also_of_a_job_of_an_earlier_batch() -> None:
    rows = given(TasksFailed(J, [3, 3], 1, "w", code=2), TasksFailed(J, [4, 4], 1, "w", code=7))
    update = rows.updates[J]
    assert (update.state, update.reason, update.first_reason) == ("", None, "task 3: exit code 2")
    cancelled = given(TasksFailed(J, [3, 3], 1, "w", code=2), JobCancelled(J, "enough")).updates[J]
    assert (cancelled.state, cancelled.reason) == ("cancelling", "enough")


def test_holding_and_releasing_are_kept_with_who_asked() -> None:
    rows = given(JobHeld(J, "capacity", "needs 9 CPUs"), JobRunnable(J))
    assert [(row[1], row[3], row[4]) for row in rows.job_history] == [
        ("job.held", "capacity: needs 9 CPUs", "uada"),
        ("job.runnable", "", "uada"),
    ]
    assert (rows.updates[J].state, rows.updates[J].reason) == ("queued", "")


def test_rows_have_the_columns_of_their_tables_and_nothing_that_postgres_cannot_hold() -> None:
    detail = Detail(results=[FileRef(0, "1" * 63 + "\0", 7)])
    rows = given(
        submitted(0), JobHeld(J, "capacity", "\0"), TasksLate(J, [0, 0], 9, "w"), WorkerDrained("w"),
        TasksFailed(J, [0, 0], 1, "w", 1, "exit", 1, "\0", [detail]), WorkerRegistered("w", "\0", "b", Capacity(1, 1)),
    )  # fmt: skip
    for table, added in (
        (tables.JOBS, [*rows.jobs.values()]), (tables.JOB_HISTORY, rows.job_history), (tables.TASK_HISTORY, rows.tasks),
        (tables.RESULTS, rows.results), (tables.WORKER_HISTORY, rows.workers),
    ):  # fmt: skip
        assert added
        assert {len(row) for row in added} == {len(table.columns)}
        assert "\0" not in "".join(str(value) for row in added for value in row)
        assert "\\u0000" not in "".join(str(value) for row in added for value in row)


def test_tasks_without_rows_are_what_their_job_says() -> None:
    shown: dict[JobState, str] = {
        "queued": "queued", "running": "queued", "held": "held", "cancelling": "cancelled", "failed": "cancelled",
    }  # fmt: skip
    for state, task in shown.items():
        assert [row.state for row in fold_tasks([], 5, 6, J, state)] == [task, task]


def test_a_late_report_does_not_show() -> None:
    rows = given(TasksLeased(J, [0, 0], 2, "w"), TasksLate(J, [0, 0], 1, "v"))
    facts = [Fact(*[*row[1:10], *row[11:14], row[15]]) for row in rows.tasks]
    (row,) = fold_tasks(facts, 0, 0, J, "running")
    assert (row.state, row.lease, row.worker) == ("leased", 2, "w")
