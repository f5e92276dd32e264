"""The rules of jobs and their tasks: what may be submitted and cancelled, what an attempt's end leads to. Pure."""

import heapq

from events.base import JobId, Runs, WorkerId, expand, runs_of, size_of
from events.job import JobCancelled, JobFinished, JobFunded, JobHeld, JobMetered, JobRunnable, JobShort, JobSubmitted
from events.needs import wanted
from events.task import (
    AttemptEnd,
    Detail,
    TasksDue,
    TasksFailed,
    TasksFinished,
    TasksLeased,
    TasksReclaimed,
    TasksRetried,
    TasksStarted,
)
from services.hosting import Refused
from services.pool import funds, gpus, quota
from services.pool.commands import CancelJob, Submit
from services.pool.meter import Meter
from services.pool.reach import another, unplaceable
from services.pool.state import Job, Lease, Pool, Retry

JOBS_MAX = 1_000_000
TEXT_BYTES_MAX = 1024**3
BACKOFF_MS_MAX = 60_000
DELAYED_ENDS = ("exit", "oom", "timeout")
FACT_BYTES, BOUND_BYTES = 256, 9
"""At most so much does a fact about tasks take in a message, and each bound of its runs."""
FACTS_BYTES_MAX = 256 * 1024
"""What one command of the pool's own leads to stays below this, and so fits in a message; the rest comes next time."""

JobFact = JobSubmitted | JobHeld | JobRunnable | JobMetered | JobFunded | JobShort | JobCancelled | JobFinished
TaskFact = TasksLeased | TasksStarted | TasksFinished | TasksFailed | TasksRetried | TasksDue | TasksReclaimed


def decide_submit(state: Pool, command: Submit) -> list[JobFact]:
    """Take a job in; nothing when it is there already, or was."""
    fact = command.fact
    known = state.jobs.get(fact.job)
    digest = known.digest if known else command.known[fact.job].digest if fact.job in command.known else None
    if digest is not None:
        if digest == fact.digest:
            return []
        raise Refused("different_body", "", f"job {fact.job} exists with another body; use another Idempotency-Key")
    if len(state.jobs) >= JOBS_MAX or state.text_bytes + len(fact.text.data) > TEXT_BYTES_MAX:
        raise Refused("pool_full", "", f"the pool holds {len(state.jobs)} open jobs; try again when some have ended")
    quota.check(state, command)
    waits = False
    for at, other in enumerate(fact.after):
        past = command.known.get(other)
        if other in state.jobs:
            waits = True
        elif past is None:
            raise Refused("unknown_job", f"after[{at}]", f"there is no job {other!r}; submit it first")
        elif past.state != "succeeded":
            ended = f"job {other} ended as {past.state}" if past.state else f"job {other} is not open here"
            raise Refused("dependency_failed", f"after[{at}]", f"{ended}; it cannot be waited for")
    if fact.cost is not None:
        return [fact, JobHeld(fact.job, "funds")]
    if waits:
        return [fact, JobHeld(fact.job, "dependencies")]
    shape = (wanted(fact.kind, fact.needs), fact.cpus_milli, fact.memory_bytes, gpus.need_of(fact))
    if why := unplaceable(state, shape):
        return [fact, JobHeld(fact.job, "capacity", why)]
    return [fact]


def decide_cancel(state: Pool, command: CancelJob) -> list[JobFact]:
    """End a job: queued tasks now, running ones when their workers say so."""
    job = state.jobs.get(command.job)
    if job is None:
        past = command.known.get(command.job)
        if past is None:
            raise Refused("unknown_job", "job", f"there is no job {command.job!r}")
        if past.state == "cancelled":
            return []
        raise Refused("job_ended", "job", f"job {command.job} has ended as {past.state}; nothing is left to cancel")
    return cancel(job)


def cancel(job: Job, reason: str = "") -> list[JobFact]:
    """The facts that cancel `job`."""
    if job.cancelled:
        return []
    facts: list[JobFact] = [JobCancelled(job.id, reason)]
    if not job.active:
        dropped = job.count - job.succeeded - job.failed
        facts.append(JobFinished(job.id, "cancelled", job.succeeded, job.failed, dropped))
    return facts


class Ends:
    """Collects what the ends of attempts lead to, over several items of one report, until `facts` are asked for."""

    def __init__(self, state: Pool, now: int) -> None:
        self._state, self._now = state, now
        self.facts: list[TaskFact | JobFinished] = []
        self.bytes = 0
        self._ended: dict[JobId, list[int]] = {}
        self._counting = funds.Counting(state, now)
        self._taken: dict[int, set[int]] = {}

    def take(self, lease: int, tasks: list[int]) -> list[int]:
        """Those of `tasks` that were not taken before for this lease: a report may not end a task twice."""
        taken = self._taken.get(lease)
        if taken is None:
            self._taken[lease] = set(tasks)
            return tasks
        fresh = [index for index in tasks if index not in taken]
        taken.update(fresh)
        return fresh

    def add(
        self, job: Job, lease: Lease, tasks: list[int], end: AttemptEnd, code: int, reason: str, details: list[Detail]
    ) -> None:
        """The attempts under `lease` at these current tasks ended."""
        if end == "cancelled" and not job.cancelled:
            end = "lost"  # nobody asked for it
        ended = self._ended.setdefault(job.id, [0, 0, 0])
        if end == "exit" and code == 0:
            ended[0] += len(tasks)
            counted = self._counting.of(job, lease, len(tasks), end, details)
            self.facts.append(
                TasksFinished(job.id, runs_of(tasks), lease.number, lease.worker, lease.attempt, details, counted)
            )
            return
        groups: dict[int, list[int]] = {}
        for at, index in enumerate(tasks):
            groups.setdefault(self._retry_at(job, index, end, lease.worker), []).append(at)
        for when, places in groups.items():
            some = runs_of(tasks[at] for at in places)
            self.bytes += FACT_BYTES + len(some) * BOUND_BYTES
            their = [details[at] for at in places] if details else []
            counted = self._counting.of(job, lease, len(places), end, their)
            if when >= 0:
                self.facts.append(
                    TasksRetried(
                        job.id, some, lease.number, lease.worker, lease.attempt, end, code, reason, when, their, counted
                    )
                )
                continue
            final: AttemptEnd = "cancelled" if job.cancelled else end
            ended[2 if job.cancelled else 1] += len(places)
            self.facts.append(
                TasksFailed(
                    job.id, some, lease.number, lease.worker, lease.attempt, final, code, reason, their, counted
                )
            )

    def _retry_at(self, job: Job, index: int, end: AttemptEnd, worker: WorkerId) -> int:
        """When (ms, 0: at once) the task is tried again, or -1."""
        if job.cancelled:
            return -1
        if end == "returned":
            return 0
        tried = job.tries.get(index, {}).get(end, 0)
        if tried >= getattr(job.retries, end):
            return -1
        if end == "rejected" and not another(self._state, worker, job.shape):
            return -1
        if end not in DELAYED_ENDS or not job.retries.backoff_ms:
            return 0
        return self._now + min(job.retries.backoff_ms << min(tried, 16), BACKOFF_MS_MAX)

    def finish(self) -> list[TaskFact | JobFinished]:
        """All the facts, with a JobFinished for each job whose last task has ended."""
        for name, (succeeded, failed, dropped) in self._ended.items():
            job = self._state.jobs[name]
            succeeded, failed, dropped = job.succeeded + succeeded, job.failed + failed, job.dropped + dropped
            if succeeded + failed + dropped == job.count:
                end = "cancelled" if dropped else "failed" if failed else "succeeded"
                self.facts.append(JobFinished(name, end, succeeded, failed, dropped))
        return self.facts


def evolve_submitted(state: Pool, event: JobSubmitted, at: int) -> None:
    state.order += 1
    job = Job(
        event.job,
        event.owner,
        event.digest,
        event.text,
        event.kind,
        event.count,
        event.priority,
        event.cpus_milli,
        event.memory_bytes,
        event.time_limit_ms,
        event.lost_after_ms,
        event.retries,
        state.order,
        what=wanted(event.kind, event.needs),
        gpu=gpus.need_of(event),
    )
    job.waits_for = [other for other in event.after if other in state.jobs]
    for other in job.waits_for:
        state.dependents.setdefault(other, []).append(job.id)
    state.jobs[job.id] = job
    state.text_bytes += len(event.text.data)
    state.own(job.owner, 1, job.count)
    if job.waits_for:
        job.held = "dependencies"
    if event.cost is not None:
        job.meter = Meter(event.cost, event.cost.hold)
    state.enqueue(job)


def evolve_held(state: Pool, event: JobHeld, at: int) -> None:
    job = state.jobs[event.job]
    job.held = event.reason
    state.release(job)
    if event.reason == "capacity":
        state.unplace(job)
    state.dequeue(job)


def evolve_runnable(state: Pool, event: JobRunnable, at: int) -> None:
    job = state.jobs[event.job]
    job.held = ""
    state.release(job)
    state.enqueue(job)


def evolve_cancelled(state: Pool, event: JobCancelled, at: int) -> None:
    job = state.jobs[event.job]
    state.dequeue(job)
    state.release(job)
    job.cancelled = True
    dropped = job.count - job.ended - len(job.active)
    job.dropped += dropped
    state.own(job.owner, 0, -dropped)
    job.next = job.count
    job.retry.clear()
    job.delayed.clear()
    trim_delays(state)
    for number in job.leases:
        tell_cancel(state, job, state.leases[number].worker)
    funds.look(state, job, at)


def tell_cancel(state: Pool, job: Job, worker: WorkerId) -> None:
    """Number an order for `worker` to end `job`, once."""
    if worker not in job.told:
        state.number += 1
        job.told[worker] = state.number
        state.workers[worker].cancels[state.number] = job.id
        state.freed.add(worker)  # its poll is answered now, not when it has waited for long enough


def evolve_finished(state: Pool, event: JobFinished, at: int) -> None:
    job = state.jobs.pop(event.job)
    assert not job.active and not job.leases, f"{job.id} finished with {len(job.active)} attempts open"
    state.dequeue(job)
    state.release(job)
    state.text_bytes -= len(job.text.data)
    state.own(job.owner, -1, 0)
    if job.meter is not None:
        funds.trim(state)
    for worker, number in job.told.items():
        state.workers[worker].cancels.pop(number, None)
    for name in state.dependents.pop(job.id, ()):
        dependent = state.jobs.get(name)
        if dependent is None or job.id not in dependent.waits_for or dependent.cancelled:
            continue
        dependent.waits_for.remove(job.id)
        if event.state != "succeeded":
            state.releasable[name] = f"job {job.id}, which it depends on, ended as {event.state}"
        elif not dependent.waits_for and dependent.held != "funds":
            state.releasable.setdefault(name, "")


def evolve_leased(state: Pool, event: TasksLeased, at: int) -> None:
    job, worker = state.jobs[event.job], state.workers[event.worker]
    state.number = max(state.number, event.lease)
    count = size_of(event.tasks)
    for index in range(0, len(event.tasks), 2):
        first, last = event.tasks[index], event.tasks[index + 1]
        if first == job.next:
            job.next = last + 1
        else:
            for number in range(first, last + 1):
                del job.retry[number]
        job.active.update(dict.fromkeys(range(first, last + 1), event.lease))
    _open_lease(state, job, Lease(event.lease, job.id, worker.id, event.attempt, count, at, gpus=event.gpus))
    state.own(job.owner, 0, -count)
    if not job.ready:
        state.dequeue(job)


def _open_lease(state: Pool, job: Job, lease: Lease) -> None:
    worker = state.workers[lease.worker]
    state.leases[lease.number] = lease
    worker.leases[lease.number] = None
    job.leases[lease.number] = None
    worker.used_cpus += lease.left * job.cpus_milli
    worker.used_memory += lease.left * job.memory_bytes
    if lease.gpus:
        gpus.hold(worker.gpus, lease.gpus, job.gpu, lease.left)


def evolve_started(state: Pool, event: TasksStarted, at: int) -> None:
    job = state.jobs[event.job]
    job.running.update(expand(event.tasks))
    if job.meter is not None:
        funds.evolve_running(state, job, event, at)


def evolve_ended(state: Pool, event: TasksFinished | TasksFailed | TasksRetried, at: int) -> None:
    job, lease = state.jobs[event.job], state.leases[event.lease]
    active, running, count = job.active, job.running, 0
    for index in expand(event.tasks):
        assert active.pop(index) == lease.number, f"task {index} of {job.id} was not under lease {lease.number}"
        count += 1
    if running:
        running.difference_update(expand(event.tasks))
    worker = state.workers[lease.worker]
    worker.used_cpus -= count * job.cpus_milli
    worker.used_memory -= count * job.memory_bytes
    if lease.gpus:
        gpus.hold(worker.gpus, lease.gpus, job.gpu, -count)
    state.freed.add(worker.id)
    lease.left -= count
    if job.meter is not None:
        funds.evolve_counted(state, job, lease, event, at)
    if not lease.left:
        del state.leases[lease.number], worker.leases[lease.number], job.leases[lease.number]
    if isinstance(event, TasksRetried):
        _requeue(state, job, lease, event)
        state.own(job.owner, 0, count)
        return
    if job.tries:
        for index in expand(event.tasks):
            job.tries.pop(index, None)
    if isinstance(event, TasksFinished):
        job.succeeded += count
    elif job.cancelled:
        job.dropped += count
    else:
        job.failed += count


def _requeue(state: Pool, job: Job, lease: Lease, event: TasksRetried) -> None:
    # Only an attempt that was given up unheard may be taken back: of the others the worker itself said how they ended.
    given_up = lease.number if event.end == "lost" else 0
    # A worker that gave a task back never started it: nothing speaks against trying it there.
    had = "" if event.end == "returned" else lease.worker
    since, gpus_back = (lease.at, lease.gpus) if given_up else (0, list[str]())
    retry = Retry(lease.attempt, given_up, had, event.not_before, since, gpus_back)
    for index in expand(event.tasks):
        (job.delayed if event.not_before else job.retry)[index] = retry
        if event.end != "returned":
            tries = job.tries.setdefault(index, {})
            tries[event.end] = tries.get(event.end, 0) + 1
    if event.not_before:
        heapq.heappush(state.delays, (event.not_before, job.id, event.tasks))
    state.enqueue(job)


def due_tasks(state: Pool, due: int, job: JobId, tasks: Runs) -> Runs:
    """Those of a back-off's tasks that still wait for it."""
    delayed = state.jobs[job].delayed if job in state.jobs else {}
    return runs_of(index for index in expand(tasks) if index in delayed and delayed[index].due == due)


def trim_delays(state: Pool) -> None:
    """Drop back-offs that no task waits for any more from the top of the heap."""
    while state.delays and not due_tasks(state, *state.delays[0]):
        heapq.heappop(state.delays)


def evolve_due(state: Pool, event: TasksDue, at: int) -> None:
    job = state.jobs[event.job]
    for index in expand(event.tasks):
        job.retry[index] = job.delayed.pop(index)
    trim_delays(state)
    state.enqueue(job)


def evolve_reclaimed(state: Pool, event: TasksReclaimed, at: int) -> None:
    job = state.jobs[event.job]
    count, since = 0, at
    for index in expand(event.tasks):
        since = job.retry.pop(index).since
        job.active[index] = event.lease
        count += 1
    state.own(job.owner, 0, -count)
    lease, worker = state.leases.get(event.lease), state.workers[event.worker]
    if lease is None:
        _open_lease(state, job, Lease(event.lease, job.id, event.worker, event.attempt, count, since, gpus=event.gpus))
        worker.leases = dict.fromkeys(sorted(worker.leases))  # told by number (see orders.py)
    else:
        lease.left += count
        worker.used_cpus += count * job.cpus_milli
        worker.used_memory += count * job.memory_bytes
        gpus.hold(worker.gpus, lease.gpus, job.gpu, count)
    if not job.ready:
        state.dequeue(job)
