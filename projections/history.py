"""What the tables in Postgres keep: facts as rows that are only ever added, one row a run of tasks, never one a task.

The fold needs no state but the batch itself, so that it can go on from any position: what an open job has running is
the board's to know. Within a batch, a lease that ends as it was given becomes one row that says both. Rows and
columns are those of `infra.tables`, in its order.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from events.base import Event, JobId, Runs, Sealed, tag_of
from events.catalog import EVENTS, Decision, Message
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable, JobSubmitted
from events.task import (
    Detail,
    LeaseEvent,
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
    WorkerConfigured,
    WorkerDrained,
    WorkerEvent,
    WorkerLost,
    WorkerRegistered,
    WorkerReturned,
    WorkerStopped,
    WorkerUndrained,
    WorkerUnreachable,
)
from projections.base import number_of, pairs, position_in
from projections.board import failed_reason, held_reason

VERSION = 3
RUN_TASKS_MAX = 4096
"""A row covers at most so many tasks, so that the rows that cover a task are found by their first one."""
DETAIL_TASKS_MAX = 64
"""A row with details covers at most so many tasks."""

Row = list[Any]

# Places in a row of `task_history`, for those that a later fact of the same batch changes.
FIRST, LAST, KIND, AT, LEASED_AT, STARTED_AT, NOT_BEFORE, END, CODE, REASON, DETAILS, NUMBER = (
    1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
)  # fmt: skip
# The same in a row of `jobs`.
JOB_STATE, JOB_REASON, JOB_SUCCEEDED, JOB_FINISHED_AT, JOB_POSITION = 2, 3, 9, 16, 18


class Update(msgspec.Struct, gc=False):
    """What changes in the row of a job that an earlier batch added. `reason` replaces; `first_reason` fills an empty one;
    an empty `state` leaves it and the counts as they are.
    """

    job: JobId
    state: str = ""
    reason: str | None = None
    first_reason: str = ""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    finished_at: int = 0
    position: int = 0


class Rows:
    """The rows of one batch of messages, and the position up to which they say everything."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.at = 0
        self.jobs: dict[JobId, Row] = {}
        self.updates: dict[JobId, Update] = {}
        self.job_history: list[Row] = []
        self.tasks: list[Row] = []
        self.results: list[Row] = []
        self.workers: list[Row] = []
        self.entries: list[Row] = []
        self._given: dict[int, Row] = {}

    @property
    def count(self) -> int:
        """How many rows there are to write."""
        return (
            len(self.jobs) + len(self.updates) + len(self.job_history)
            + len(self.tasks) + len(self.results) + len(self.workers) + len(self.entries)
        )  # fmt: skip

    def add(self, message: Message, position: int) -> None:
        """Take one message in. One at or below `position` changes nothing."""
        if position <= self.position:
            return
        number = number_of(position, 0)
        for decision in message.decisions:
            for event in decision.events:
                if (keep := _KEEP.get(type(event))) is not None:
                    keep(self, event, message.at, number, decision)
                number += 1
        self.position, self.at = position, max(message.at, self.at)

    def given(self, event: LeaseEvent) -> Row | None:
        """This batch's row that gave exactly these tasks under this lease, once."""
        row = self._given.pop(event.lease, None)
        if row is not None and len(event.tasks) == 2 and [row[0], row[FIRST], row[LAST]] == [event.job, *event.tasks]:
            return row
        return None

    def give(self, lease: int, row: Row) -> None:
        """Remember a row that a later fact of the same lease may complete."""
        self._given[lease] = row


def clean(text: str) -> str:
    """`text` as Postgres can hold it: without NUL."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


def _submitted(rows: Rows, event: JobSubmitted, at: int, number: int, decision: Decision) -> None:
    rows.jobs[event.job] = [
        event.job, event.owner, "queued", "", event.kind, event.count, event.priority, event.cpus_milli,
        event.memory_bytes, 0, 0, 0, event.text.key, event.text.data, event.after, at, 0, number,
        position_in(number), clean(decision.by), clean(decision.trace),
    ]  # fmt: skip


def _state(rows: Rows, job: JobId, state: str, reason: str | None, number: int) -> Update | None:
    """Set the state of a job's row; the Update to complete when the row is of an earlier batch."""
    if (row := rows.jobs.get(job)) is not None:
        row[JOB_STATE], row[JOB_POSITION] = state, position_in(number)
        if reason is not None:
            row[JOB_REASON] = reason
        return None
    update = rows.updates.get(job)
    if update is None:
        update = rows.updates[job] = Update(job)
    update.state, update.position = state, position_in(number)
    if reason is not None:
        update.reason, update.first_reason = reason, ""
    return update


def _fact(rows: Rows, event: Any, at: int, number: int, decision: Decision, reason: str) -> None:
    by, cause, trace = clean(decision.by), clean(decision.cause), clean(decision.trace)
    rows.job_history.append([event.job, tag_of(event), at, reason, by, cause, trace, number])


def _held(rows: Rows, event: JobHeld, at: int, number: int, decision: Decision) -> None:
    reason = clean(held_reason(event))
    _state(rows, event.job, "held", reason, number)
    _fact(rows, event, at, number, decision, reason)


def _runnable(rows: Rows, event: JobRunnable, at: int, number: int, decision: Decision) -> None:
    _state(rows, event.job, "queued", "", number)
    _fact(rows, event, at, number, decision, "")


def _cancelled(rows: Rows, event: JobCancelled, at: int, number: int, decision: Decision) -> None:
    reason = clean(event.reason) or "cancelled"
    _state(rows, event.job, "cancelling", reason, number)
    _fact(rows, event, at, number, decision, reason)


def _job_finished(rows: Rows, event: JobFinished, at: int, number: int, _decision: Decision) -> None:
    update = _state(rows, event.job, event.state, None, number)
    if update is None:
        row = rows.jobs[event.job]
        row[JOB_SUCCEEDED : JOB_SUCCEEDED + 3] = event.succeeded, event.failed, event.cancelled
        row[JOB_FINISHED_AT] = at
        return
    update.succeeded, update.failed, update.cancelled = event.succeeded, event.failed, event.cancelled
    update.finished_at = at


def _first_reason(rows: Rows, event: TasksFailed, number: int) -> None:
    """What failed first is the job's reason, when it has none yet."""
    if event.end == "cancelled":
        return
    reason = clean(failed_reason(event))
    if (row := rows.jobs.get(event.job)) is not None:
        if row[JOB_STATE] != "cancelling":
            row[JOB_REASON] = row[JOB_REASON] or reason
        return
    update = rows.updates.get(event.job)
    if update is None:
        update = rows.updates[event.job] = Update(event.job, position=position_in(number))
    if update.reason == "":
        update.reason = reason
    elif update.reason is None:
        update.first_reason = update.first_reason or reason


def _cut(runs: Runs, most: int) -> Iterator[tuple[int, int]]:
    for first, last in pairs(runs):
        while last - first >= most:
            yield first, first + most - 1
            first += most
        yield first, last


def _tasks(rows: Rows, event: LeaseEvent, at: int, number: int, _decision: Decision) -> None:
    """A fact that leaves the attempt open: leased, started, reclaimed; and a late one."""
    kind, job, lease, attempt, worker = _KINDS[type(event)], event.job, event.lease, event.attempt, event.worker
    if kind == "started" and (row := rows.given(event)) is not None:
        row[KIND], row[STARTED_AT], row[AT], row[NUMBER] = kind, at, at, number
        rows.give(lease, row)
        return
    leased_at = at if kind == "leased" else 0
    started_at = at if kind == "started" else 0
    for first, last in _cut(event.tasks, RUN_TASKS_MAX):
        row = [job, first, last, lease, attempt, worker, kind, at, leased_at, started_at, 0, "", 0, "", None, number]
        rows.tasks.append(row)
        if kind == "leased" and len(event.tasks) == 2:
            rows.give(lease, row)


def _ended(
    rows: Rows, event: TasksFinished | TasksFailed | TasksRetried, at: int, number: int, _decision: Decision
) -> None:
    """A fact that ends the attempt."""
    kind, details = _KINDS[type(event)], event.details
    not_before, end, code, reason = 0, "exit", 0, ""
    if not isinstance(event, TasksFinished):
        end, code, reason = event.end, event.code, clean(event.reason)
        if isinstance(event, TasksRetried):
            not_before = event.not_before
        else:
            _first_reason(rows, event, number)
    if details and not isinstance(event, TasksRetried):
        _results(rows, event.job, event.tasks, details)
    row = rows.given(event)
    if row is not None and (not details or len(details) <= DETAIL_TASKS_MAX):
        row[KIND], row[AT], row[NOT_BEFORE], row[NUMBER] = kind, at, not_before, number
        row[END], row[CODE], row[REASON] = end, code, reason
        row[DETAILS] = _json(details) if details else None
        return
    job, lease, attempt, worker = event.job, event.lease, event.attempt, event.worker
    told = 0
    for first, last in _cut(event.tasks, DETAIL_TASKS_MAX if details else RUN_TASKS_MAX):
        text = _json(details[told : told + last - first + 1]) if details else None
        told += last - first + 1
        rows.tasks.append(
            [job, first, last, lease, attempt, worker, kind, at, 0, 0, not_before, end, code, reason, text, number]
        )


def _due(rows: Rows, event: TasksDue, at: int, number: int, _decision: Decision) -> None:
    for first, last in _cut(event.tasks, RUN_TASKS_MAX):
        rows.tasks.append([event.job, first, last, 0, 0, "", "due", at, 0, 0, 0, "", 0, "", None, number])


def _results(rows: Rows, job: JobId, tasks: Runs, details: list[Detail]) -> None:
    at = 0
    for first, last in pairs(tasks):
        for index in range(first, last + 1):
            for file in details[at].results if at < len(details) else ():
                rows.results.append([job, index, file.n, clean(file.digest), file.size, file.files])
            at += 1


def _json(details: list[Detail]) -> str:
    text = _encode(details).decode()
    # Postgres' jsonb cannot hold NUL; no path on a machine has one.
    return text.replace("\\u0000", "\\ufffd") if "\\u0000" in text else text


def _worker(rows: Rows, event: WorkerEvent, at: int, number: int, decision: Decision) -> None:
    session, boot, cpus, memory, kinds, version = "", "", 0, 0, list[str](), ""
    by = decision.by
    if isinstance(event, WorkerRegistered):
        session, boot, version = event.session, event.boot, event.version
        capacity = event.capacity
        cpus, memory, kinds = capacity.cpus_milli, capacity.memory_bytes, [clean(kind) for kind in capacity.kinds]
    elif isinstance(event, WorkerDrained):
        by = by or event.by
    rows.workers.append(
        [event.worker, tag_of(event), at, clean(session), clean(boot), cpus, memory, kinds, clean(version), clean(by),
         number]
    )  # fmt: skip


def _entries(rows: Rows, event: Any, at: int, number: int, decision: Decision) -> None:
    """A fact that moves money: a row a posting."""
    memo: Sealed | None = getattr(event, "memo", None)
    key, data = (memo.key, memo.data) if memo is not None else ("", b"")
    id, tag, by = getattr(event, event.entity), tag_of(event), clean(decision.by)
    kind, cites = getattr(event, "kind", ""), clean(getattr(event, "cites", ""))
    for n, posting in enumerate(event.postings):
        debit, credit = clean(posting.debit), clean(posting.credit)
        rows.entries.append(
            [clean(id), n, tag, kind, debit, credit, posting.amount, at, cites, clean(key), data, by, number]
        )


_encode = msgspec.json.Encoder().encode

_KINDS: dict[type[Event], str] = {
    TasksLeased: "leased",
    TasksStarted: "started",
    TasksFinished: "finished",
    TasksFailed: "failed",
    TasksRetried: "retried",
    TasksReclaimed: "reclaimed",
    TasksLate: "late",
}

_KEEP: dict[type[Event], Callable[[Rows, Any, int, int, Decision], None]] = {
    JobSubmitted: _submitted,
    JobHeld: _held,
    JobRunnable: _runnable,
    JobCancelled: _cancelled,
    JobFinished: _job_finished,
    TasksLeased: _tasks,
    TasksStarted: _tasks,
    TasksReclaimed: _tasks,
    TasksLate: _tasks,
    TasksFinished: _ended,
    TasksFailed: _ended,
    TasksRetried: _ended,
    TasksDue: _due,
    WorkerRegistered: _worker,
    WorkerReturned: _worker,
    WorkerUnreachable: _worker,
    WorkerLost: _worker,
    WorkerStopped: _worker,
    WorkerDrained: _worker,
    WorkerUndrained: _worker,
    **{kind: _entries for kind in EVENTS if "postings" in kind.__struct_fields__},
    WorkerConfigured: _worker,
}
"""What leaves a row. Facts that are not here (a writer's, unknown ones) leave none."""
