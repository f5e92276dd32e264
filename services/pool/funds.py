"""The pool's part in money: what counts of an attempt, when more must be held, what the ledger's word leads to. Pure.

The pool counts, the ledger pays. A job that costs something is held for `funds` until the ledger says that what it may
cost stands apart; when that is nearly used up the pool says so (`job.metered`), and goes by what the ledger answers.
"""

import heapq
from collections.abc import Sequence

from events.base import WorkerId, expand
from events.job import JobFunded, JobMetered, JobShort
from events.task import AttemptEnd, Counted, Detail, TasksFailed, TasksFinished, TasksRetried, TasksStarted
from services.pool.gpus import WHOLE
from services.pool.state import Job, Lease, Pool

COUNTS: frozenset[AttemptEnd] = frozenset({"exit", "oom", "timeout", "cancelled"})
"""These ends are the user's. The others, lost, rejected, output_lost and returned, are the platform's or the machine's
fault, and free.
"""


def slots(state: Pool, worker: WorkerId, job: Job) -> int:
    """How many tasks of this job the machine runs at once."""
    has = state.workers[worker].capacity
    most = has.cpus_milli // job.cpus_milli if job.cpus_milli else has.cpus_milli // 1000
    if job.memory_bytes:
        most = min(most, has.memory_bytes // job.memory_bytes)
    if job.gpu.milli:
        most = min(most, len(has.gpus) * WHOLE // job.gpu.milli)
    return max(1, most)


def counted(
    state: Pool,
    job: Job,
    lease: Lease,
    before_ms: int,
    tasks: int,
    end: AttemptEnd,
    details: Sequence[Detail],
    now: int,
) -> Counted | None:
    """What counts of so many attempts that end now, `before_ms` of the same lease having counted before. None: nothing.

    Of each task its reported time, at most the time since the lease and the job's time limit; of all of them together at
    most what the machine can have run at once since the lease.
    """
    if job.meter is None or end not in COUNTS:
        return None
    held_ms = max(0, now - lease.at)
    most_ms = min(held_ms, job.time_limit_ms or held_ms)
    places = slots(state, lease.worker, job)
    reported_ms = sum(min(max(0, detail.wall_ms), most_ms) for detail in details)
    ms = max(0, min(reported_ms, places * held_ms - before_ms))
    if end == "cancelled":  # some of them had not begun
        tasks = sum(detail.wall_ms > 0 for detail in details)
    return Counted(tasks, ms, places) if tasks or ms else None


class Counting:
    """Counts what ends in one command, over several facts about the same leases."""

    def __init__(self, state: Pool, now: int) -> None:
        self._state, self._now = state, now
        self._before_ms: dict[int, int] = {}

    def of(self, job: Job, lease: Lease, tasks: int, end: AttemptEnd, details: Sequence[Detail]) -> Counted | None:
        """What counts of so many more attempts under `lease`; see `counted`."""
        if job.meter is None:
            return None
        before_ms = self._before_ms.get(lease.number, lease.counted_ms)
        found = counted(self._state, job, lease, before_ms, tasks, end, details, self._now)
        if found is not None:
            self._before_ms[lease.number] = before_ms + found.ms
        return found


def look(state: Pool, job: Job, at: int) -> None:
    """Note anew when the job's meter is to be looked at."""
    meter = job.meter
    if meter is None:
        return
    due = 0 if job.cancelled else meter.next_look(at)
    if due != meter.due:
        meter.due = due
        if due:
            heapq.heappush(state.meters, (due, job.id))
    trim(state)


def trim(state: Pool) -> None:
    """Drop what is not due any more from the top of the heap."""
    while state.meters and not _is_due(state, *state.meters[0]):
        heapq.heappop(state.meters)


def _is_due(state: Pool, due: int, name: str) -> bool:
    job = state.jobs.get(name)
    return job is not None and job.meter is not None and job.meter.due == due


def decide_metered(state: Pool, now: int, most: int) -> list[JobMetered]:
    """The first job whose hold is nearly used up by now."""
    if most <= 0 or not state.meters or state.meters[0][0] > now:
        return []
    job = state.jobs[state.meters[0][1]]
    meter = job.meter
    assert meter is not None
    wanted = meter.wanted(now, job.count, job.count - job.ended)
    return [JobMetered(job.id, meter.used(now), wanted, len(meter.since), meter.ends_at())]


def evolve_metered(state: Pool, event: JobMetered, at: int) -> None:
    job = state.jobs[event.job]
    if job.meter is not None:
        job.meter.asked = True
        look(state, job, at)


def evolve_funded(state: Pool, event: JobFunded, at: int) -> None:
    job = state.jobs[event.job]
    if job.meter is not None:
        job.meter.total, job.meter.asked, job.meter.stops_at = event.total, False, 0
        look(state, job, at)


def evolve_short(state: Pool, event: JobShort, at: int) -> None:
    job = state.jobs[event.job]
    if job.meter is not None:
        job.meter.asked, job.meter.stops_at = False, event.stops_at
        look(state, job, at)


def evolve_running(state: Pool, job: Job, event: TasksStarted, at: int) -> None:
    """Tasks run."""
    if job.meter is not None:
        for index in expand(event.tasks):
            job.meter.start(index, at)
        look(state, job, at)


def evolve_counted(
    state: Pool, job: Job, lease: Lease, event: TasksFinished | TasksFailed | TasksRetried, at: int
) -> None:
    """Attempts ended."""
    meter = job.meter
    assert meter is not None
    for index in expand(event.tasks):
        meter.end(index)
    if event.counted is not None:
        meter.tasks += event.counted.tasks
        meter.ms += event.counted.ms
        lease.counted_ms += event.counted.ms
    look(state, job, at)
