"""Where the tasks of a job are, derived when asked for from the rows of `task_history` that cover them.

Tasks without rows wait; what waiting means (held, queued, cancelled with their job) is the job's state to say.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from events.base import JobId
from projections.rows import JobState, TaskRow, TaskState

WAITING: dict[JobState, TaskState] = {"held": "held", "queued": "queued", "running": "queued"}
"""What a waiting task is by its job's state; in any other state of the job it is cancelled."""


class Fact(NamedTuple):
    """What the fold needs of a row of `task_history`."""

    first: int
    last: int
    lease: int
    attempt: int
    worker: str
    kind: str
    at: int
    leased_at: int
    started_at: int
    end: Any
    code: int
    reason: str
    number: int


class View(msgspec.Struct, gc=False):
    """A task as its facts so far leave it. `source` names the row with its details: (number, first), (0, 0) for none."""

    state: TaskState | str = "waiting"
    attempt: int = 0
    lease: int = 0
    worker: str = ""
    end: Any = ""
    code: int = 0
    reason: str = ""
    leased_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    source: tuple[int, int] = (0, 0)

    def row(self, job: JobId, index: int) -> TaskRow:
        """The task as readers get it, without details. Only for a view whose state was settled."""
        return TaskRow(
            job, index, self.state, self.attempt, self.lease, self.worker, self.end, self.code, self.reason,  # pyright: ignore[reportArgumentType]
            self.leased_at, self.started_at, self.ended_at,
        )  # fmt: skip


_ENDS: dict[str, TaskState | str] = {"finished": "succeeded", "failed": "failed", "retried": "waiting"}


def change(view: View, fact: Fact) -> None:
    """Fold one fact into the view of a task that it covers."""
    kind = fact.kind
    if kind in ("due", "late"):
        return
    if fact.lease != view.lease:
        view.lease, view.attempt, view.worker = fact.lease, fact.attempt, fact.worker
        view.leased_at = view.started_at = 0
    view.leased_at = fact.leased_at or view.leased_at
    view.started_at = fact.started_at or view.started_at
    if kind not in _ENDS:
        view.state = "running" if kind == "started" else "leased"
        view.end, view.code, view.reason, view.ended_at, view.source = "", 0, "", 0, (0, 0)
        return
    view.state = "cancelled" if kind == "failed" and fact.end == "cancelled" else _ENDS[kind]
    view.end, view.code, view.reason, view.ended_at = fact.end, fact.code, fact.reason, fact.at
    view.source = (fact.number, fact.first)


def fold_runs(facts: Sequence[Fact], low: int, high: int, job_state: JobState) -> Iterator[tuple[int, int, View]]:
    """(first, last, view) of each stretch of tasks from `low` to `high` that the same facts cover, ascending.

    `facts` are all those that cover any of these tasks, in any order.
    """
    waiting = WAITING.get(job_state, "cancelled")
    opens = sorted(facts, key=attrgetter("first"))
    covering: list[Fact] = []
    at = low
    next_open = 0
    while at <= high:
        while next_open < len(opens) and opens[next_open].first <= at:
            covering.append(opens[next_open])
            next_open += 1
        covering = [fact for fact in covering if fact.last >= at]
        end = min((fact.last for fact in covering), default=high)
        if next_open < len(opens):
            end = min(end, opens[next_open].first - 1)
        end = min(end, high)
        view = View()
        for fact in sorted(covering, key=attrgetter("number")):
            change(view, fact)
        if view.state == "waiting":
            view.state = waiting
        yield at, end, view
        at = end + 1


def fold_tasks(facts: Sequence[Fact], low: int, high: int, job: JobId, job_state: JobState) -> list[TaskRow]:
    """The tasks of `job` numbered `low` to `high`, without details."""
    rows: list[TaskRow] = []
    for first, last, view in fold_runs(facts, low, high, job_state):
        rows += [view.row(job, index) for index in range(first, last + 1)]
    return rows
