"""Given facts, then rows: the board."""

from typing import Any

import pytest

from events.catalog import Decision, Message, Unknown
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable
from events.pool import WriterLed
from events.task import (
    TasksDue,
    TasksFailed,
    TasksFinished,
    TasksLate,
    TasksLeased,
    TasksReclaimed,
    TasksRetried,
    TasksStarted,
)
from events.worker import (
    Capacity,
    WorkerContested,
    WorkerDrained,
    WorkerLost,
    WorkerRegistered,
    WorkerReturned,
    WorkerStopped,
    WorkerUndrained,
    WorkerUnreachable,
)
from projections import board as boards
from projections.board import BOARD, Board, fold
from projections.rows import JobRow
from tests.read_support import T0, job_id, message, submitted

J = job_id(0)


def given(*events: Any) -> Board:
    """The board after these events, one a message."""
    board = BOARD.initial()
    for n, event in enumerate(events, 1):
        fold(board, message(n, event), n)
    return board


def job(board: Board, n: int = 0) -> JobRow:
    found = board.find(job_id(n))
    assert found is not None
    return found.row()


def counts(row: JobRow) -> tuple[int, ...]:
    return (row.queued, row.leased, row.running, row.succeeded, row.failed, row.cancelled)


def test_a_submitted_job_waits_with_all_its_tasks() -> None:
    row = job(given(submitted(0, 5, priority=7)))
    assert (row.state, row.priority, row.submitted_at, row.finished_at) == ("queued", 7, T0 + 1, 0)
    assert counts(row) == (5, 0, 0, 0, 0, 0)


def test_tasks_go_from_queued_to_leased_to_running_to_ended() -> None:
    leased = (submitted(0, 5), TasksLeased(J, [0, 3], 1, "w"))
    assert counts(job(given(*leased))) == (1, 4, 0, 0, 0, 0)
    started = (*leased, TasksStarted(J, [1, 2], 1, "w"))
    assert counts(job(given(*started))) == (1, 2, 2, 0, 0, 0)
    ended = (*started, TasksFinished(J, [0, 1], 1, "w"), TasksFailed(J, [2, 2], 1, "w", code=9))
    row = job(given(*ended))
    assert counts(row) == (1, 1, 0, 2, 1, 0)
    assert (row.state, row.reason) == ("running", "task 2: exit code 9")


def test_a_task_too_short_to_be_seen_running_leaves_the_leased_and_not_the_running() -> None:
    board = given(
        submitted(0, 4),
        TasksLeased(J, [0, 3], 1, "w"),
        TasksStarted(J, [0, 0], 1, "w"),
        TasksFinished(J, [2, 3], 1, "w"),
    )
    assert counts(job(board)) == (0, 1, 1, 2, 0, 0)


def test_a_retried_task_is_queued_again_and_a_reclaimed_one_leased_again() -> None:
    facts = (submitted(0, 2), TasksLeased(J, [0, 1], 1, "w"), TasksRetried(J, [0, 1], 1, "w", end="lost", not_before=9))
    assert (job(given(*facts)).state, counts(job(given(*facts)))) == ("queued", (2, 0, 0, 0, 0, 0))
    again = (*facts, TasksDue(J, [0, 0]), TasksReclaimed(J, [1, 1], 1, "w"))
    assert counts(job(given(*again))) == (1, 1, 0, 0, 0, 0)


def test_a_late_report_changes_nothing() -> None:
    facts = (submitted(0, 2), TasksLeased(J, [0, 1], 1, "w"))
    assert job(given(*facts, TasksLate(J, [0, 1], 9, "w"))) == job(given(*facts))


@pytest.mark.parametrize(("detail", "shown"), [("", "dependencies"), ("needs 9 CPUs", "dependencies: needs 9 CPUs")])
def test_a_held_job_says_why_until_it_is_runnable(detail: str, shown: str) -> None:
    facts = (submitted(0), JobHeld(J, "dependencies", detail))
    assert (job(given(*facts)).state, job(given(*facts)).reason) == ("held", shown)
    runnable = job(given(*facts, JobRunnable(J)))
    assert (runnable.state, runnable.reason) == ("queued", "")


def test_cancelling_ends_what_waits_at_once_and_what_runs_when_it_says_so() -> None:
    facts = (
        submitted(0, 5), TasksLeased(J, [0, 2], 1, "w"), TasksRetried(J, [2, 2], 1, "w", end="oom"),
        JobCancelled(J, "enough"),
    )  # fmt: skip
    row = job(given(*facts))
    assert (row.state, row.reason, counts(row)) == ("cancelling", "enough", (0, 2, 0, 0, 0, 3))
    ended = (*facts, TasksFailed(J, [0, 0], 1, "w", end="cancelled"), TasksFinished(J, [1, 1], 1, "w"))
    assert counts(job(given(*ended))) == (0, 0, 0, 1, 0, 4)
    done = job(given(*ended, JobFinished(J, "cancelled", 1, 0, 4)))
    assert (done.state, done.reason, counts(done)) == ("cancelled", "enough", (0, 0, 0, 1, 0, 4))


def test_an_ended_job_is_known_until_enough_others_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "RECENT_MAX", 2)
    board = given(*(submitted(n) for n in range(3)), *(JobFinished(job_id(n), "succeeded", 1) for n in range(3)))
    assert board.find(job_id(0)) is None
    assert board.forgotten == 4
    assert [job(board, n).state for n in (1, 2)] == ["succeeded", "succeeded"]
    assert (board.totals().jobs, board.totals().tasks["succeeded"]) == ({"succeeded": 3}, 3)


def test_workers_states_and_what_they_have() -> None:
    registered = WorkerRegistered("w", "s1", "b1", Capacity(4000, 1), "0.1")
    board = given(
        registered, submitted(0, 4), TasksLeased(J, [0, 3], 1, "w"), TasksFinished(J, [0, 0], 1, "w"),
        TasksFailed(J, [1, 1], 1, "w"), TasksRetried(J, [2, 2], 1, "w", end="returned"), WorkerDrained("w"),
    )  # fmt: skip
    row = board.workers["w"].row()
    assert (row.state, row.drained, row.session, row.since) == ("ready", True, "s1", T0 + 1)
    assert (row.leased, row.finished, row.failed) == (1, 1, 1)
    for event, state in (
        (WorkerUnreachable("w"), "unreachable"), (WorkerReturned("w"), "ready"), (WorkerLost("w"), "lost"),
        (WorkerStopped("w"), "stopped"), (registered, "ready"),
    ):  # fmt: skip
        assert given(registered, event).workers["w"].state == state
    assert not given(registered, WorkerDrained("w"), WorkerUndrained("w")).workers["w"].drained
    contested = given(registered, WorkerContested("w", "b2")).workers["w"].row()
    assert (contested.state, contested.boot, contested.since, contested.contested_at) == ("ready", "b1", T0 + 1, T0 + 2)


def test_it_knows_who_leads_and_counts_what_it_does_not_know() -> None:
    board = given(WriterLed("main", "writer-1"), Unknown("job.sung", {}), JobFinished("jnone", "failed"))
    totals = board.totals()
    assert (totals.writer, totals.writer_at, totals.unknown, board.strays) == ("writer-1", T0 + 1, 1, 1)


def test_a_message_is_folded_once() -> None:
    board = given(submitted(0))
    fold(board, message(1, submitted(1)), 1)
    assert board.find(job_id(1)) is None
    assert board.position == 1


def test_jobs_are_numbered_by_submission_also_within_a_message() -> None:
    board = BOARD.initial()
    fold(board, Message("m", T0, "w", [Decision([submitted(0)]), Decision([submitted(1)])]), 7)
    assert job(board, 0).number < job(board, 1).number
    assert job(board, 0).position == job(board, 1).position == 7


def test_an_array_costs_no_more_than_a_task() -> None:
    lot = 1_000_000
    board = given(submitted(0, lot), TasksLeased(J, [0, lot - 1], 1, "w"), TasksFinished(J, [0, lot // 2], 1, "w"))
    assert sum(len(piece) for piece in BOARD.pack(board)) < 2000


def test_what_counts_alone_say_of_one_task() -> None:
    facts = [submitted(0, 3), TasksLeased(J, [0, 2], 1, "w")]

    def says(*more: Any) -> list[str]:
        facts.extend(more)
        found = given(*facts).find(J)
        assert found is not None
        return [found.of_task(index) for index in range(3)]

    assert says() == ["unknown"] * 3
    assert says(TasksStarted(J, [1, 2], 1, "w")) == ["unknown", "running", "running"]
    assert says(TasksFinished(J, [0, 0], 1, "w")) == ["succeeded", "running", "running"]
    # While one waits to be tried again, any that does not run may be that one.
    assert says(TasksRetried(J, [1, 1], 1, "w", end="oom")) == ["unknown", "unknown", "running"]
    assert says(TasksLeased(J, [1, 1], 2, "w"), TasksFailed(J, [1, 1], 2, "w")) == ["ended", "ended", "running"]
    assert says(TasksFinished(J, [2, 2], 1, "w"), JobFinished(J, "failed", 2, 1)) == ["ended"] * 3
    assert [given(submitted(0, 3), JobCancelled(J, "")).open[J].of_task(0)] == ["cancelled"]
