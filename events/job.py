"""Facts about jobs. A job is an array of `count` tasks (one, mostly); its tasks' facts are in `task.py`."""

from typing import ClassVar, Literal

import msgspec

from events.base import Digest, Event, JobId, Sealed, UserId
from events.units import HOUR_MS

Kind = Literal["process", "container", "noop", "shell", "python"]
JobEnd = Literal["succeeded", "failed", "cancelled"]


class Retries(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How many times a task is tried again, by the cause that ended its attempt; then its back-off."""

    exit: int = 0
    oom: int = 0
    timeout: int = 0
    lost: int = 5
    rejected: int = 3
    output_lost: int = 1
    backoff_ms: int = 1000


class Cost(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a job costs, fixed when it was handed in. Amounts in µCPT: `base` for each task that was run, `per_hour` for each
    hour of each; `hold` is set aside before anything runs. That is the most that it can cost when it has a time limit;
    without one it lasts for `each_ms` of every task, and is extended while the job runs, up to `most` (0: any amount).
    `prices`: the version of the price list.
    """

    base: int
    per_hour: int
    hold: int
    each_ms: int
    prices: str = ""
    most: int = 0


def price(cost: Cost, tasks: int, ms: int) -> int:
    """What so many tasks cost that took so many ms together, in µCPT: whole ones, rounded down."""
    return cost.base * tasks + cost.per_hour * ms // HOUR_MS


class JobEvent(Event):
    """Every job fact names its job first."""

    entity: ClassVar[str] = "job"
    job: JobId


class JobSubmitted(JobEvent, tag="job.submitted"):
    """A user handed in a job: an array of `count` tasks, numbered from 0. `needs`: see events.needs. Each task needs
    `gpus_milli` thousandths of a GPU, or so many thousands of whole ones, with `gpu_memory` bytes on each, of `gpu_model`
    (see events.hardware.slug; "": any).
    """

    owner: UserId
    digest: Digest
    text: Sealed
    kind: Kind = "process"
    count: int = 1
    priority: int = 5
    cpus_milli: int = 1000
    memory_bytes: int = 0
    time_limit_ms: int = 0
    lost_after_ms: int = 60_000
    retries: Retries = Retries()
    after: list[JobId] = []
    cost: Cost | None = None
    needs: list[str] = []
    gpus_milli: int = 0
    gpu_memory: int = 0
    gpu_model: str = ""


class JobHeld(JobEvent, tag="job.held"):
    """The job waits for something that is not its turn: the ledger's word on what it costs, other jobs, or a machine that
    is large enough.
    """

    reason: Literal["dependencies", "capacity", "funds"]
    detail: str = ""


class JobRunnable(JobEvent, tag="job.runnable"):
    """What held the job is gone; its tasks are queued."""


class JobMetered(JobEvent, tag="job.metered"):
    """What is held for the job is nearly used up, as it runs now: `used` µCPT of it, what its `running` tasks took so far
    included. `wanted` more would let it go on; without, it is used up at `ends_at` (ms; 0: by now, or by what ends next).
    Nothing is charged before an attempt has ended.
    """

    used: int
    wanted: int
    running: int = 0
    ends_at: int = 0


class JobFunded(JobEvent, tag="job.funded"):
    """More is held for the job: `total` µCPT since its beginning. It goes on."""

    total: int


class JobShort(JobEvent, tag="job.short"):
    """Its owner has no more for the job, `missing` µCPT: it is stopped at `stops_at` (ms), unless there is more by then."""

    missing: int
    stops_at: int


class JobCancelled(JobEvent, tag="job.cancelled"):
    """The job is to end: queued tasks are cancelled with this fact, running ones are told to stop."""

    reason: str = ""


class JobFinished(JobEvent, tag="job.finished"):
    """Every task has ended. Final."""

    state: JobEnd
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


AnyJobEvent = JobSubmitted | JobHeld | JobRunnable | JobMetered | JobFunded | JobShort | JobCancelled | JobFinished
