"""The board: every open job, the jobs that ended last, every worker, and totals, all in memory.

It keeps counts, never tasks, but for the numbers of those that run right now: an array of a million tasks costs as
much as one task. What is queued is derived: count - leased - running - ended. A fact that fits nothing the board
knows is counted (`strays`), never refused.
"""

from collections.abc import Callable
from itertools import islice
from sys import intern
from typing import Any

from events.base import Event, Runs, WorkerId
from events.catalog import AnyEvent, Message, Unknown
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable, JobSubmitted
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
    WorkerContested,
    WorkerDrained,
    WorkerLost,
    WorkerRegistered,
    WorkerReturned,
    WorkerStopped,
    WorkerUndrained,
    WorkerUnreachable,
)
from projections.base import Projection, number_of, pairs, position_in, size
from projections.board_state import Board, Job, Worker, pack, unpack
from projections.rows import JobState, WorkerState

VERSION = 1
RECENT_MAX = 10_000
"""How many ended jobs the board still knows, at least..."""
RECENT_PARTS = 10
"""...and by which part of that it may know more."""


def fold(board: Board, message: Message, position: int) -> None:
    """Fold one message in. One at or below the board's position changes nothing."""
    if position <= board.position:
        return
    at = message.at
    number = number_of(position, 0)
    for decision in message.decisions:
        for event in decision.events:
            if (change := _CHANGES.get(type(event))) is not None:
                change(board, event, at, number)
            number += 1
    board.position, board.at = position, max(at, board.at)
    board.origin = board.origin or message.id
    board.messages += 1


def apply(board: Board, event: AnyEvent | Unknown, at: int, position: int, n: int = 0) -> None:
    """Fold in one event alone, the `n`-th of its message; `fold` is for whole messages and keeps the position."""
    if (change := _CHANGES.get(type(event))) is not None:
        change(board, event, at, number_of(position, n))


def _move(board: Board, job: Job, state: JobState) -> None:
    jobs = board.jobs
    jobs[job.state] -= 1
    jobs[state] = jobs.get(state, 0) + 1
    job.state = state


def _submitted(board: Board, event: JobSubmitted, at: int, number: int) -> None:
    if event.job in board.open or event.job in board.ended:
        board.strays += 1
        return
    board.open[event.job] = Job(
        event.job, intern(event.owner), event.kind, event.count, event.priority, event.cpus_milli, event.memory_bytes,
        event.text, event.after, at, number, position=position_in(number),
    )  # fmt: skip
    board.jobs["queued"] = board.jobs.get("queued", 0) + 1
    board.tasks.queued += event.count


def _open(board: Board, event: Any, number: int) -> Job | None:
    job = board.open.get(event.job)
    if job is None:
        board.strays += 1
    else:
        job.position = position_in(number)
    return job


def _held(board: Board, event: JobHeld, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) and job.state != "cancelling":
        job.reason = held_reason(event)
        _move(board, job, "held")


def held_reason(event: JobHeld) -> str:
    """Why a job is held, for people."""
    if event.reason == "funds":
        return "funds: what it may cost is being set aside"
    return f"{event.reason}: {event.detail}" if event.detail else event.reason


def _runnable(board: Board, event: JobRunnable, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) and job.state != "cancelling":
        job.reason = ""
        _move(board, job, "running" if job.queued() < job.count else "queued")


def _cancelled(board: Board, event: JobCancelled, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) and job.state != "cancelling":
        waiting = job.queued()
        job.cancelled += waiting
        board.tasks.queued -= waiting
        board.tasks.cancelled += waiting
        job.reason = event.reason or "cancelled"
        _move(board, job, "cancelling")


def _job_finished(board: Board, event: JobFinished, at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    tasks = board.tasks
    tasks.queued -= job.queued()
    tasks.leased -= job.leased
    tasks.running -= job.running
    tasks.succeeded += event.succeeded - job.succeeded
    tasks.failed += event.failed - job.failed
    tasks.cancelled += event.cancelled - job.cancelled
    job.leased = job.running = 0
    job.succeeded, job.failed, job.cancelled = event.succeeded, event.failed, event.cancelled
    job.finished_at, job.started = at, None
    _move(board, job, event.state)
    del board.open[event.job]
    board.ended[event.job] = job
    if len(board.ended) > RECENT_MAX + RECENT_MAX // RECENT_PARTS:
        _forget(board)


def _forget(board: Board) -> None:
    """Let the jobs go that ended first. Many at once: finding the first of a dict passes the places freed before."""
    for job in list(islice(board.ended, len(board.ended) - RECENT_MAX)):
        board.forgotten = board.ended.pop(job).position


def _leased(board: Board, event: TasksLeased | TasksReclaimed, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    count = size(event.tasks)
    job.leased += count
    board.tasks.leased += count
    _worker(board, event.worker).leased += count
    if job.state == "cancelling":
        job.cancelled -= count
        board.tasks.cancelled -= count
        return
    board.tasks.queued -= count
    if job.state == "queued":
        _move(board, job, "running")


def _started(board: Board, event: TasksStarted, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    if job.started is None:
        job.started = set()
    before = len(job.started)
    for first, last in pairs(event.tasks):
        job.started.update(range(first, last + 1))
    count = len(job.started) - before
    job.leased -= count
    job.running += count
    board.tasks.leased -= count
    board.tasks.running += count


def _take_started(started: set[int], runs: Runs) -> int:
    """Remove the numbers in `runs` from `started`; how many there were. Costs the smaller of the two."""
    before = len(started)
    for first, last in pairs(runs):
        if last - first < len(started):
            started.difference_update(range(first, last + 1))
        else:
            started.difference_update([index for index in started if first <= index <= last])
    return before - len(started)


def _end(board: Board, job: Job, event: TasksFinished | TasksFailed | TasksRetried) -> int:
    """The attempts at these tasks are over; how many tasks."""
    count = size(event.tasks)
    running = 0
    if job.started is not None:
        running = _take_started(job.started, event.tasks)
        job.running -= running
        board.tasks.running -= running
        job.started = job.started or None
    job.leased -= count - running
    board.tasks.leased -= count - running
    return count


def _finished(board: Board, event: TasksFinished, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    count = _end(board, job, event)
    job.succeeded += count
    board.tasks.succeeded += count
    worker = _worker(board, event.worker)
    worker.leased -= count
    worker.finished += count


def _failed(board: Board, event: TasksFailed, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    count = _end(board, job, event)
    worker = _worker(board, event.worker)
    worker.leased -= count
    if event.end == "cancelled" or job.state == "cancelling":
        job.cancelled += count
        board.tasks.cancelled += count
        return
    worker.failed += count
    job.failed += count
    board.tasks.failed += count
    job.reason = job.reason or failed_reason(event)


def failed_reason(event: TasksFailed) -> str:
    """What failed first, for people."""
    how = f"exit code {event.code}" if event.end == "exit" else event.end
    return f"task {event.tasks[0]}: {how}" + (f" ({event.reason})" if event.reason else "")


def _retried(board: Board, event: TasksRetried, _at: int, number: int) -> None:
    if (job := _open(board, event, number)) is None:
        return
    count = _end(board, job, event)
    worker = _worker(board, event.worker)
    worker.leased -= count
    if event.end not in ("returned", "cancelled"):
        worker.failed += count
    if job.state == "cancelling":
        job.cancelled += count
        board.tasks.cancelled += count
        return
    board.tasks.queued += count
    if job.state == "running" and job.queued() == job.count:
        _move(board, job, "queued")


def _due(board: Board, event: TasksDue, _at: int, number: int) -> None:
    _open(board, event, number)


def _worker(board: Board, name: WorkerId) -> Worker:
    if (worker := board.workers.get(name)) is None:
        worker = board.workers[name] = Worker(name)
    return worker


def _registered(board: Board, event: WorkerRegistered, at: int, _number: int) -> None:
    worker = _worker(board, event.worker)
    worker.state, worker.since = "ready", at
    worker.session, worker.boot = event.session, event.boot
    worker.capacity, worker.version = event.capacity, event.version


def _worker_state(state: WorkerState) -> Callable[[Board, Any, int, int], None]:
    def change(board: Board, event: Any, at: int, _number: int) -> None:
        worker = _worker(board, event.worker)
        worker.state, worker.since = state, at

    return change


def _drained(board: Board, event: WorkerDrained, _at: int, _number: int) -> None:
    _worker(board, event.worker).drained = True


def _undrained(board: Board, event: WorkerUndrained, _at: int, _number: int) -> None:
    _worker(board, event.worker).drained = False


def _contested(board: Board, event: WorkerContested, at: int, _number: int) -> None:
    _worker(board, event.worker).contested_at = at


def _led(board: Board, event: WriterLed, at: int, _number: int) -> None:
    board.writer, board.writer_at = event.writer, at


def _unknown(board: Board, _event: Unknown, _at: int, _number: int) -> None:
    board.unknown += 1


_CHANGES: dict[type[Event] | type[Unknown], Callable[[Board, Any, int, int], None]] = {
    JobSubmitted: _submitted,
    JobHeld: _held,
    JobRunnable: _runnable,
    JobCancelled: _cancelled,
    JobFinished: _job_finished,
    TasksLeased: _leased,
    TasksStarted: _started,
    TasksFinished: _finished,
    TasksFailed: _failed,
    TasksRetried: _retried,
    TasksDue: _due,
    TasksReclaimed: _leased,
    WorkerRegistered: _registered,
    WorkerReturned: _worker_state("ready"),
    WorkerUnreachable: _worker_state("unreachable"),
    WorkerLost: _worker_state("lost"),
    WorkerStopped: _worker_state("stopped"),
    WorkerDrained: _drained,
    WorkerUndrained: _undrained,
    WorkerContested: _contested,
    WriterLed: _led,
    Unknown: _unknown,
}
"""What changes the board. `task.late` is not here: it changes nothing."""

assert TasksLate not in _CHANGES

BOARD = Projection("board", VERSION, Board, fold, pack, unpack)
