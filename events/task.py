"""Facts about tasks: many tasks of one job and one lease a fact, their numbers as runs.

A lease is one attempt at some tasks of one job by one worker. Its number is unique in the pool and never reused:
a report that names another lease than the task's current one is late and changes nothing.
"""

from typing import ClassVar, Literal

import msgspec

from events.base import Digest, Event, JobId, Runs, WorkerId

AttemptEnd = Literal["exit", "oom", "timeout", "lost", "cancelled", "rejected", "output_lost", "returned"]
"""How an attempt ended; `returned` is a worker giving back a task that it never started."""


class FileRef(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A file that a task left: which of the job's declared results it is (users' names are sealed), its digest, and its
    length in bytes. With `files` it is the list of so many files (see `events.inputs.File`), `size` bytes together;
    number `len(results)` are those that the task itself named while it ran.
    """

    n: int
    digest: Digest
    size: int
    files: int = -1


class Detail(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one attempt used and left. Times in milliseconds, sizes in bytes; `out` is the digest of its output. Averages are
    over the whole run, 0 when not measured: `memory_avg` of what was resident, `gpu_avg` of the use of all GPUs that it
    reserved, in thousandths. `progress`: the last percentage that it told of (-1: none); `emitted`: the blob
    of the structured results that it told of, a JSON list ("": none).
    """

    started_at: int = 0
    wall_ms: int = 0
    cpu_ms: int = 0
    memory_peak: int = 0
    out_size: int = 0
    out: Digest = ""
    results: list[FileRef] = []
    memory_avg: int = 0
    gpu_avg: int = 0
    progress: int = -1
    emitted: Digest = ""


class Counted(msgspec.Struct, frozen=True, gc=False):
    """What counts of ended attempts at tasks of a job that costs something (see docs/prices.md): for how many `tasks` the
    base price, and how many `ms` of all of them together. That is what the worker reported and no more than the pool's
    own clock allows, for a machine that runs `slots` such tasks at once.
    """

    tasks: int
    ms: int
    slots: int = 1


class TaskEvent(Event):
    """Every task fact names its job first, then which tasks."""

    entity: ClassVar[str] = "task"
    job: JobId
    tasks: Runs


class LeaseEvent(TaskEvent):
    """A fact about an attempt names the lease, the worker, and which attempt it is, from 1."""

    lease: int
    worker: WorkerId
    attempt: int = 1


class TasksLeased(LeaseEvent, tag="task.leased"):
    """The tasks were given to a worker, each of them on these `gpus` of its machine (UUIDs)."""

    gpus: list[str] = []


class TasksStarted(LeaseEvent, tag="task.started"):
    """The worker began to run them. A task too short to be seen running has no such fact."""


class TasksFinished(LeaseEvent, tag="task.finished"):
    """The tasks succeeded: exit code 0. `details` has one entry a task, in order, or none."""

    details: list[Detail] = []
    counted: Counted | None = None


class TasksFailed(LeaseEvent, tag="task.failed"):
    """The attempt ended otherwise, and the tasks are not tried again. Final."""

    end: AttemptEnd = "exit"
    code: int = 0
    reason: str = ""
    details: list[Detail] = []
    counted: Counted | None = None


class TasksRetried(LeaseEvent, tag="task.retried"):
    """The attempt ended otherwise; the tasks are queued again, at `not_before` (ms) when that is not 0."""

    end: AttemptEnd = "exit"
    code: int = 0
    reason: str = ""
    not_before: int = 0
    details: list[Detail] = []
    counted: Counted | None = None


class TasksDue(TaskEvent, tag="task.due"):
    """The back-off of these tasks is over; they are queued."""


class TasksReclaimed(LeaseEvent, tag="task.reclaimed"):
    """A worker thought lost came back with these attempts before they were given to another: it keeps them, and the
    `gpus` that they are on.
    """

    gpus: list[str] = []


class TasksLate(LeaseEvent, tag="task.late"):
    """A report for an attempt that is not current. Recorded; it changes nothing."""


AnyTaskEvent = (
    TasksLeased | TasksStarted | TasksFinished | TasksFailed | TasksRetried | TasksDue | TasksReclaimed | TasksLate
)
