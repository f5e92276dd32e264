"""What readers get: one row a job, a task, a result, a worker. Times in ms since 1970 (0: not yet), sizes in bytes."""

from typing import Literal, TypeAlias

import msgspec

from events.base import Digest, JobId, Sealed, UserId, WorkerId
from events.job import Kind
from events.task import AttemptEnd, Detail
from events.worker import Capacity

JobState: TypeAlias = Literal["held", "queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
TaskState: TypeAlias = Literal["held", "queued", "leased", "running", "succeeded", "failed", "cancelled"]
WorkerState: TypeAlias = Literal["ready", "unreachable", "lost", "stopped"]

OPEN_STATES: tuple[JobState, ...] = ("held", "queued", "running", "cancelling")
ENDED_STATES: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")
TASK_STATES: tuple[TaskState, ...] = ("held", "queued", "leased", "running", "succeeded", "failed", "cancelled")


class JobRow(msgspec.Struct, frozen=True, gc=False):
    """A job and its counts: queued + leased + running + succeeded + failed + cancelled = count.

    `reason` says why it is held, cancelled, or what failed first. `position` is that of the last fact about it,
    `number` orders jobs by submission and is what cursors hold.
    """

    job: JobId
    owner: UserId
    state: JobState
    reason: str
    kind: Kind
    count: int
    priority: int
    cpus_milli: int
    memory_bytes: int
    queued: int
    leased: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    text: Sealed
    after: list[JobId]
    submitted_at: int
    finished_at: int
    position: int
    number: int


class TaskRow(msgspec.Struct, frozen=True, gc=False):
    """A task and its latest attempt (0: none yet). `end`, `code`, `reason` say how that attempt ended, if it did."""

    job: JobId
    index: int
    state: TaskState
    attempt: int = 0
    lease: int = 0
    worker: WorkerId = ""
    end: AttemptEnd | Literal[""] = ""
    code: int = 0
    reason: str = ""
    leased_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    detail: Detail | None = None


class ResultRow(msgspec.Struct, frozen=True, gc=False):
    """A file that a task left: which of the job's declared results it is, and its blob; a list of so many `files` when
    that is not -1.
    """

    job: JobId
    index: int
    n: int
    digest: Digest
    size: int
    files: int = -1


class WorkerRow(msgspec.Struct, frozen=True, gc=False):
    """A worker. `leased`: tasks it has now; `finished`, `failed`: attempts of its that succeeded, or ended otherwise
    (cancelled and returned ones are in neither). `since`: when it came into this state. `contested_at`: when another
    machine with its key was refused; 0: never.
    """

    worker: WorkerId
    state: WorkerState
    drained: bool
    session: str
    boot: str
    capacity: Capacity
    version: str
    leased: int
    finished: int
    failed: int
    since: int
    contested_at: int = 0


class Totals(msgspec.Struct, frozen=True, gc=False):
    """How many jobs and workers are in each state (ended jobs: ever), tasks likewise, and who leads since when."""

    jobs: dict[str, int]
    tasks: dict[str, int]
    workers: dict[str, int]
    unknown: int
    writer: str
    writer_at: int
