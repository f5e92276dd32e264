"""What a pool's writer holds in memory: the fold of `evt.pool.<pool>`. Changed by `evolve` only.

Nothing here grows with the number of queued tasks: an array keeps a cursor (`next`), the tasks that wait for another
try, and the tasks that are with a worker. Ended jobs leave; the log, Postgres and the index of ids keep them.
"""

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from typing import TypeAlias

import msgspec

from events.base import Digest, JobId, Runs, Sealed, UserId, WorkerId
from events.catalog import Mark
from events.job import Kind, Retries
from events.needs import offers
from events.worker import Capacity
from services.pool.gpus import NO_GPU, GpuNeed, Held, can_ever
from services.pool.meter import Meter

SESSIONS_KEPT = 8
ASKS_KEPT = 32
ShapeKey: TypeAlias = tuple[str, int, int, GpuNeed]
"""Kind and needs (see events.needs), thousandths of CPUs, bytes of memory, GPUs: what decides which machine can hold a task."""


class Lease(msgspec.Struct, gc=False):
    """One attempt at some tasks of a job by a worker, each on these GPUs; `left` of them have not ended. `at`: since when (ms);
    `counted_ms`: how much of it counted for pay by now.
    """

    number: int
    job: JobId
    worker: WorkerId
    attempt: int
    left: int
    at: int = 0
    counted_ms: int = 0
    gpus: list[str] = []


class Retry(msgspec.Struct, gc=False):
    """A task that waits for another try: the attempt it had last, with whom ("": it never started); `due` in ms or 0. `lease`: under which
    that worker may take it back, 0 when it may not.
    """

    attempt: int
    lease: int
    worker: WorkerId
    due: int = 0
    since: int = 0
    """Since when (ms) that worker had it, if it may take it back."""
    gpus: list[str] = []  # those that it takes back with that lease


class Job(msgspec.Struct, gc=False):
    """An open job."""

    id: JobId
    owner: UserId
    digest: Digest
    text: Sealed
    kind: Kind
    count: int
    priority: int
    cpus_milli: int
    memory_bytes: int
    time_limit_ms: int
    lost_after_ms: int
    retries: Retries
    order: int
    waits_for: list[JobId] = []
    held: str = ""
    cancelled: bool = False
    next: int = 0
    succeeded: int = 0
    failed: int = 0
    dropped: int = 0
    retry: dict[int, Retry] = {}
    delayed: dict[int, Retry] = {}
    active: dict[int, int] = {}
    running: set[int] = set()
    leases: dict[int, None] = {}
    tries: dict[int, dict[str, int]] = {}
    told: dict[WorkerId, int] = {}
    meter: Meter | None = None
    """Of a job that costs something."""
    what: str = ""
    gpu: GpuNeed = NO_GPU

    @property
    def ended(self) -> int:
        """How many tasks have ended for good."""
        return self.succeeded + self.failed + self.dropped

    @property
    def ready(self) -> int:
        """How many tasks could be leased now."""
        return 0 if self.held or self.cancelled else self.count - self.next + len(self.retry)

    @property
    def shape(self) -> ShapeKey:
        """What a machine must have for one of these tasks."""
        return (self.what, self.cpus_milli, self.memory_bytes, self.gpu)


class Worker(msgspec.Struct, gc=False):
    """A machine. `cancels`: order number -> the job that it is to end. `reported`: its session's last report. `asked`: the
    ids of the last requests that drained or undrained it.
    """

    id: WorkerId
    session: str
    boot: str
    capacity: Capacity
    state: str = "ready"
    drained: bool = False
    drain_order: int = 0
    reported: int = 0
    used_cpus: int = 0
    used_memory: int = 0
    leases: dict[int, None] = {}
    cancels: dict[int, JobId] = {}
    past: list[str] = []
    since_boot_ms: int = 0
    asked: list[str] = []
    configured: tuple[int, int] = (0, 0)  # the order that says how often (ms) it measures, and how often
    gpus: dict[str, Held] = {}  # what its tasks have of each, by UUID
    contested_at: int = 0
    """When (ms) it was last said that another machine has its key."""

    @property
    def known(self) -> bool:
        """Whether the pool may still count on this machine."""
        return self.state in ("ready", "unreachable")

    @property
    def takes(self) -> bool:
        """Whether it may be given work now."""
        return self.state == "ready" and not self.drained

    def can_ever(self, shape: ShapeKey) -> bool:
        """Whether a task of this shape fits when the machine is empty."""
        kind, cpus, memory, gpu = shape
        has = self.capacity
        fits = offers(has, kind) and cpus <= has.cpus_milli and memory <= has.memory_bytes
        return fits and (not gpu[0] or can_ever(has.gpus, gpu))


def class_of(shape: ShapeKey) -> ShapeKey:
    """The least shape of this one's class: what it needs rounded down to powers of two. What it is for: of 10,000
    different shapes those that a machine has no room for are passed over by the class, not one by one.
    """
    kind, cpus, memory, gpu = shape
    least = gpu.least() if gpu[0] else gpu
    return kind, cpus and 1 << cpus.bit_length() - 1, memory and 1 << memory.bit_length() - 1, least


_order = attrgetter("order")


class Queue:
    """Queued jobs, first come first. One that comes back (a retry, a release) takes the place it had."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[JobId, Job] = OrderedDict()
        self._back: list[Job] = []  # by order; each is older than some job in `_jobs`
        self.noted = 0  # the order of its first job as `Pool.classes` has it; 0: it is not there

    def add(self, job: Job) -> None:
        """Put the job in its place, if it is not there."""
        if job in self:
            return
        last = next(reversed(self._jobs.values()), None)
        if last is None or last.order < job.order:
            self._jobs[job.id] = job
        else:
            insort(self._back, job, key=_order)

    def remove(self, job: Job) -> bool:
        """Take the job out; whether it was there."""
        if self._jobs.pop(job.id, None) is not None:
            return True
        found = job in self
        if found:
            del self._back[bisect_left(self._back, job.order, key=_order)]
        return found

    @property
    def first(self) -> int:
        """The order of the first job; 0: there is none."""
        order = self._back[0].order if self._back else 0
        for job in self._jobs.values():
            return min(order, job.order) if order else job.order
        return order

    def __contains__(self, job: Job) -> bool:
        at = bisect_left(self._back, job.order, key=_order)
        return job.id in self._jobs or (at < len(self._back) and self._back[at] is job)

    def __bool__(self) -> bool:
        return bool(self._jobs or self._back)

    def __iter__(self) -> Iterator[Job]:
        if not self._back:
            return iter(self._jobs.values())
        return heapq.merge(self._back, self._jobs.values(), key=_order)


class Shape:
    """The queued jobs that need the same of a machine, by priority, first come first."""

    def __init__(self, key: ShapeKey) -> None:
        self.key = key
        self.queues: dict[int, Queue] = {}
        self.stuck = False  # every idle worker has been tried since this shape's queue was last empty

    def __bool__(self) -> bool:
        return bool(self.queues)


class Owned(msgspec.Struct, gc=False):
    """What one user has here: open jobs, and tasks of theirs that have not ended and are with no worker."""

    open_jobs: int = 0
    queued_tasks: int = 0


class Pool:
    """The whole state. `number` counts leases and orders, `order` places in the queue; neither ever goes back."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.writer = ""
        self.number = 0
        self.order = 0
        self.jobs: dict[JobId, Job] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.leases: dict[int, Lease] = {}
        self.text_bytes = 0
        # Of each user with an open job.
        self.owned: dict[UserId, Owned] = {}
        # Jobs whose last dependency succeeded (""), or that can never run because one did not (why).
        self.releasable: dict[JobId, str] = {}
        # A heap of back-offs: (due in ms, job, its tasks).
        self.delays: list[tuple[int, JobId, Runs]] = []
        # A heap: when (ms) a job's meter is to be looked at.
        self.meters: list[tuple[int, JobId]] = []
        # How far other subjects were consumed.
        self.cursors: dict[str, Mark] = {}
        # Below: derived, rebuilt by `load`.
        self.dependents: dict[JobId, list[JobId]] = {}
        self.shapes: dict[ShapeKey, Shape] = {}
        # By class and priority, ascending: the order of the first queued job of each shape.
        self.classes: dict[ShapeKey, dict[int, list[tuple[int, ShapeKey]]]] = {}
        self.fresh: set[ShapeKey] = set()
        self.freed: set[WorkerId] = set()
        self.unplaced: dict[ShapeKey, dict[JobId, None]] = {}  # held since no known machine could ever take them
        self.reach: dict[ShapeKey, str] = {}  # what `reach.unplaceable` found, until a worker changes

    def enqueue(self, job: Job) -> None:
        """Put the job where its tasks can be leased, when it has any to lease and is not there already."""
        if not job.ready:
            return
        shape = self.shapes.get(job.shape)
        if shape is None:
            shape = self.shapes[job.shape] = Shape(job.shape)
        queue = shape.queues.get(job.priority)
        if queue is None:
            queue = shape.queues[job.priority] = Queue()
        queue.add(job)
        if not queue.noted or job.order < queue.noted:
            self._note_first(queue, job)
        if not shape.stuck:
            self.fresh.add(job.shape)

    def dequeue(self, job: Job) -> None:
        """Take the job out of its queue."""
        shape = self.shapes.get(job.shape)
        queue = shape.queues.get(job.priority) if shape else None
        if shape is None or queue is None:
            return
        if not queue.remove(job):
            return
        if queue.noted == job.order:
            self._note_first(queue, job)
        if not queue:
            del shape.queues[job.priority]
            if not shape:
                del self.shapes[job.shape]
                self.fresh.discard(job.shape)

    def _note_first(self, queue: Queue, job: Job) -> None:
        """Note the order of the first job in `queue`, which is another one since `job` came or went."""
        key = class_of(job.shape)
        firsts = self.classes.setdefault(key, {}).setdefault(job.priority, [])
        if queue.noted:
            del firsts[bisect_left(firsts, (queue.noted, job.shape))]
        queue.noted = queue.first
        if queue.noted:
            insort(firsts, (queue.noted, job.shape))
        elif not firsts:
            del self.classes[key][job.priority]
            if not self.classes[key]:
                del self.classes[key]

    def own(self, owner: UserId, open_jobs: int, queued_tasks: int) -> None:
        """Count so many more open jobs and queued tasks of `owner`."""
        owned = self.owned.get(owner)
        if owned is None:
            owned = self.owned[owner] = Owned()
        owned.open_jobs += open_jobs
        owned.queued_tasks += queued_tasks
        if not owned.open_jobs:
            del self.owned[owner]

    def unplace(self, job: Job) -> None:
        """Note that no known machine could ever take the job."""
        self.unplaced.setdefault(job.shape, {})[job.id] = None

    def release(self, job: Job) -> None:
        """Forget what the job waited for: it is queued, or over."""
        self.releasable.pop(job.id, None)
        same = self.unplaced.get(job.shape)
        if same is not None and job.id in same:
            del same[job.id]
            if not same:
                del self.unplaced[job.shape]

    def left(self, worker: Worker) -> None:
        """The worker takes nothing now: what was kept for another machine may go to those that are idle."""
        if not worker.takes:
            self.fresh.update(self.shapes)


class _Saved(msgspec.Struct):
    pool: str
    writer: str
    number: int
    order: int
    text_bytes: int
    owned: dict[UserId, Owned]
    jobs: list[Job]
    workers: list[Worker]
    leases: list[Lease]
    releasable: dict[JobId, str]
    delays: list[tuple[int, JobId, Runs]]
    cursors: dict[str, Mark]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Saved).decode


def save(state: Pool) -> bytes:
    """The state as bytes: a snapshot's body."""
    return _encode(
        _Saved(
            state.pool,
            state.writer,
            state.number,
            state.order,
            state.text_bytes,
            state.owned,
            list(state.jobs.values()),
            list(state.workers.values()),
            list(state.leases.values()),
            state.releasable,
            sorted(state.delays),
            state.cursors,
        )
    )


def load(data: bytes) -> Pool:
    """The state that `save` wrote, with everything derived built again. Raises msgspec.DecodeError."""
    saved = _decode(data)
    state = Pool(saved.pool)
    state.writer, state.number, state.order, state.text_bytes = (
        saved.writer,
        saved.number,
        saved.order,
        saved.text_bytes,
    )
    state.jobs = {job.id: job for job in saved.jobs}
    state.workers = {worker.id: worker for worker in saved.workers}
    state.leases = {lease.number: lease for lease in saved.leases}
    state.releasable, state.delays, state.owned = saved.releasable, saved.delays, saved.owned
    state.cursors = saved.cursors
    state.meters = sorted((job.meter.due, job.id) for job in saved.jobs if job.meter and job.meter.due)
    for job in sorted(saved.jobs, key=lambda job: job.order):
        for other in job.waits_for:
            state.dependents.setdefault(other, []).append(job.id)
        if job.held == "capacity":
            state.unplace(job)
        state.enqueue(job)
    return state
