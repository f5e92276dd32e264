"""What the API says, as types: answers, bodies and problems. Times in ms since 1970 (0: not yet), sizes in bytes.

Positions are opaque texts: give one back as `min_position` or `from`.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from events.base import Digest
from events.inputs import Input, Param
from events.job import Kind
from events.limits import Network, Pull
from events.protocol import HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN
from events.spec import SecretUse, StopSignal
from events.task import AttemptEnd, Detail
from projections.levels import LevelName
from projections.rows import JobState, TaskState, WorkerState
from web.usage_schema import GpuView, InventoryView, UsageView

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
JobIdText: TypeAlias = Annotated[str, Meta(description="Id of a job", examples=["jq3v5mnbd2krw7aef"])]
Position: TypeAlias = Annotated[str, Meta(description="A place in the log, opaque", examples=["1.42"])]
Moment: TypeAlias = Annotated[int, Meta(description="Milliseconds since 1970; 0: not yet", examples=[1790000000000])]
DigestText: TypeAlias = Annotated[str, Meta(description="SHA-256, 64 hexadecimal digits", examples=["0" * 64])]


class Submitted(msgspec.Struct, frozen=True, gc=False):
    """A job that was taken in. `existing`: it had been before, by a request with the same Idempotency-Key, or by an
    earlier try of this one whose answer was lost on its way; it may have ended since.
    """

    job: JobIdText
    existing: bool = False


class SubmitAnswer(msgspec.Struct, frozen=True, gc=False):
    """One entry for each job of the request, in order; all of it is on disk at `position`. What happens to the new
    ones happens after `start`.
    """

    jobs: list[Submitted]
    position: Position
    start: Position = ""


class JobOutcome(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What became of one job of a request of which some were refused."""

    accepted: bool
    job: JobIdText = ""
    existing: bool = False
    code: str = ""
    field: str = ""
    detail: str = ""


class Problem(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """RFC 9457. `field`: where in the request; `remedy`: what to do; `trace`: where to look in the server's log;
    `jobs`: what became of each job, when some of a request were accepted; `now`: the time here in unix ms, where it
    matters.
    """

    type: Annotated[str, Meta(examples=["urn:hive:problem:bad-field"])]
    title: str
    status: int
    detail: str
    field: Annotated[str, Meta(examples=["jobs[2].memory"])] = ""
    remedy: str = ""
    trace: str = ""
    jobs: list[JobOutcome] = []
    now: int = 0


class JobCost(msgspec.Struct, frozen=True, gc=False):
    """What a job costs. `charged`: paid by now for attempts that ended; `accruing`: what those that run come to by now.
    `stops_at`: when it is stopped, its owner having no more; 0: it is not.
    """

    base: int
    per_hour: int
    held: int
    charged: int
    accruing: int
    prices: str
    stops_at: Moment = 0


class Job(msgspec.Struct, frozen=True, gc=False):
    """A job. queued + leased + running + succeeded + failed + cancelled = count; `reason`: why it is held or cancelled,
    or what failed first. `cpus` is of each task, as is `memory`. `env`, `cwd`, `inputs`, `each`, `results`, `secrets` (names alone) and what
    follows them are only shown for a single job. `erased`: what its user typed was destroyed.
    `cost`: of a single job that is not over, where jobs cost anything.
    """

    job: JobIdText
    state: JobState
    reason: str
    kind: Kind
    count: int
    queued: int
    leased: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    name: str
    labels: dict[str, str]
    command: list[str]
    image: str
    priority: int
    cpus: float
    memory: int
    after: list[str]
    owner: str
    submitted_at: Moment
    finished_at: Moment
    position: Position
    env: dict[str, str] = {}
    cwd: str = ""
    inputs: list[Input] = []
    each: Digest = ""
    results: list[str] = []
    erased: bool = False
    secrets: list[SecretUse] = []
    params: dict[str, Param] = {}
    commands: list[str] = []
    entry: str = ""
    pull: Pull = ""
    network: Network = ""
    hosts: list[str] = []
    disk: int = 0
    pids: int = 0
    swap: int = 0
    gpus: float = 0.0
    gpu_memory: int = 0
    gpu_model: str = ""
    cost: JobCost | None = None
    stop_signal: StopSignal = "TERM"
    grace: float = 5.0


class JobsAnswer(msgspec.Struct, frozen=True, gc=False):
    """Newest first. `next`: the cursor of the next page, null on the last one. With filters a page may be short, even
    empty, and still not be the last.
    """

    jobs: list[Job]
    next: str | None
    position: Position


class Task(msgspec.Struct, frozen=True, gc=False):
    """A task and its latest attempt (0: none yet), which ended with `end` ("": it did not), `code` and `reason`.
    `lease` names the attempt in the whole pool. `progress`: how far it says that it has come, in percent (-1: it did not
    say); `saying`: the same in its own words, while it runs.
    """

    index: int
    state: TaskState
    attempt: int
    lease: int
    worker: str
    end: AttemptEnd | Literal[""]
    code: int
    reason: str
    leased_at: Moment
    started_at: Moment
    ended_at: Moment
    detail: Detail | None = None
    progress: int = -1
    saying: str = ""


class TasksAnswer(msgspec.Struct, frozen=True, gc=False):
    """In order of their numbers. `next`: give it as `after` for the next page; null on the last one."""

    tasks: list[Task]
    next: int | None
    position: Position


class Result(msgspec.Struct, frozen=True, gc=False):
    """A file that a task left: its path in the task's folder and its blob. `expired`: the blob is not kept any more."""

    index: int
    path: str
    digest: DigestText
    size: int
    expired: bool = False


class ResultsAnswer(msgspec.Struct, frozen=True, gc=False):
    """In order of task and path. `next`: give it as `after` for the next page; null on the last one."""

    results: list[Result]
    next: str | None
    position: Position


class Done(msgspec.Struct, frozen=True, gc=False):
    """It is so, and on disk at `position`. `existing`: there was nothing to do."""

    existing: bool
    position: Position


class WorkerView(msgspec.Struct, frozen=True, gc=False):
    """A worker. `features`: how it holds tasks to their limits and what they may ask for, `process:disk` say. `leased`: tasks
    it has now; `finished`, `failed`: attempts that succeeded there, or ended otherwise. `enrolled`: it was taken in and
    never connected yet. Name, labels, warning, usage and inventory are shown to its owner, and to who looks after workers.
    `level`: by its machine hours, see docs/rewards.md.
    """

    worker: str
    state: WorkerState | Literal["enrolled"]
    drained: bool
    cpus: float
    memory: int
    kinds: list[str]
    version: str
    leased: int
    finished: int
    failed: int
    since: Moment
    name: str = ""
    owner: str = ""
    banned: bool = False
    warning: str = ""
    features: list[str] = []
    gpus: list[GpuView] = []
    usage: UsageView | None = None
    inventory: InventoryView | None = None
    labels: dict[str, str] = {}
    level: LevelName = ""


class WorkersAnswer(msgspec.Struct, frozen=True, gc=False):
    """Every worker that was taken in."""

    workers: list[WorkerView]
    position: Position


class EnrolBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A machine's public NATS key; the secret half never leaves it."""

    public_key: Annotated[str, Meta(max_length=100, description="The worker's public nkey, beginning with U")]
    name: Annotated[str, Meta(max_length=200)] = ""


class RenameBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A name for people."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class EnrolAnswer(msgspec.Struct, frozen=True, gc=False):
    """Who the worker is, and where to connect. `nats_ca`: the certificate (PEM) of the authority that NATS' own rests on,
    "" for the one that the API's does.
    """

    worker: str
    pool: str
    nats_url: str
    nats_ca: str = ""


class ConfigureBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`heartbeat`: every so many seconds the worker measures its machine and says so."""

    heartbeat: Annotated[float, Meta(ge=HEARTBEAT_MS_MIN / 1000, le=HEARTBEAT_MS_MAX / 1000)]


class DrainBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`on`: nothing new is given to the worker."""

    on: bool = True


class DigestsBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Blobs by digest."""

    digests: Annotated[list[Digest], Meta(max_length=50_000)]


class MissingAnswer(msgspec.Struct, frozen=True, gc=False):
    """Those that are not here and are to be uploaded."""

    missing: list[Digest]


class ExpireBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`dry_run`: only say what would be deleted."""

    dry_run: bool = True


class Expired(msgspec.Struct, frozen=True, gc=False):
    """What was deleted, or would be: blobs that nothing needs as of `position` and nobody wanted since `before`, their
    `size` in bytes together, and the output of so many jobs. `keep_days`: of the settings, 0: for ever. `some`: a few
    digests.
    """

    dry_run: bool
    keep_days: int
    before: Moment
    blobs: int
    size: int
    outputs: int
    needed: int
    some: list[str]
    position: Position


class BlobAnswer(msgspec.Struct, frozen=True, gc=False):
    """A blob that is stored."""

    digest: DigestText
    size: int


class Status(msgspec.Struct, frozen=True, gc=False):
    """The hive at a glance: jobs, tasks and workers by state; `lag`: how many positions the tables are behind;
    `database` and `disk`: "ok", or what is the matter.
    """

    pool: str
    version: str
    position: Position
    jobs: dict[str, int]
    tasks: dict[str, int]
    workers: dict[str, int]
    lag: int
    database: str
    disk: str


class Health(msgspec.Struct, frozen=True, gc=False):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An event: the `n`-th of the message at `position`, decided at `at` because `by` asked."""

    position: Position
    n: int
    at: Moment
    by: str
    cause: str
    trace: str
    event: msgspec.Raw


class Printed(msgspec.Struct, frozen=True, gc=False):
    """A piece of output. `data` in base64. `mark` is said by Hive itself; `emit` is a line of JSON that the task told of
    itself: its progress, structured results, artifacts.
    """

    stream: Literal["stdout", "stderr", "mark", "emit"]
    at: int
    data: str


class Emitted(msgspec.Struct, frozen=True, gc=False):
    """A structured result of a task, under the name that it gave it."""

    name: str
    json: Any


class Began(msgspec.Struct, frozen=True, gc=False):
    """What follows is of this attempt."""

    lease: int
    attempt: int
    worker: str


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The task has ended so. While the database is away nobody may know more than that it has: `ended`, with no end."""

    state: str
    end: str
    code: int
    reason: str
