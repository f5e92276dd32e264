"""The rules of workers: sessions, reports, silence and draining. Pure.

A worker has one session at a time; the newest supersedes. A report names leases; what it says of a task counts only
while that lease is the task's current one, or while the task, given up as lost, waits in the queue for its next try
(it is then taken back). Everything else is late: recorded, without effect.
"""

from typing import TypeAlias

from events.base import JobId, Runs, WorkerId, check_runs, expand, holds, runs_of, size_of
from events.job import JobFinished
from events.protocol import Ended, Hello, Report, Started
from events.spec import COUNT_MAX
from events.task import Detail, TasksLate, TasksReclaimed, TasksStarted
from events.worker import (
    WorkerConfigured,
    WorkerContested,
    WorkerDrained,
    WorkerLost,
    WorkerRegistered,
    WorkerReported,
    WorkerReturned,
    WorkerStopped,
    WorkerUndrained,
    WorkerUnreachable,
)
from services.hosting import Refused
from services.pool.commands import ConfigureWorker, DrainWorker, Greet, Heard, Reported, Silent
from services.pool.gpus import Held, hold, may_hold
from services.pool.job import BOUND_BYTES, FACT_BYTES, FACTS_BYTES_MAX, Ends, TaskFact
from services.pool.state import ASKS_KEPT, SESSIONS_KEPT, Job, Lease, Pool, Worker

UNREACHABLE_MS = 15_000
LOST_MS = 60_000
REPORTED_TASKS_MAX = 1_000_000
SUPERSEDED = "a newer agent uses this worker's identity; stop one of the two"
TWO_MACHINES = (
    "another machine is at work with this worker's key; if this is a copy of its folder, give it one of its own "
    f"(`hivectl worker join`); if that one has gone, this one is let in within {UNREACHABLE_MS // 1000} s"
)
CONTESTED_EACH_MS = 60_000
"""How often it is said of a worker that another machine has its key, at most."""

WorkerFact: TypeAlias = (
    WorkerRegistered
    | WorkerReported
    | WorkerReturned
    | WorkerUnreachable
    | WorkerLost
    | WorkerStopped
    | WorkerDrained
    | WorkerUndrained
    | WorkerConfigured
    | WorkerContested
)
Fact: TypeAlias = WorkerFact | TaskFact | TasksLate | JobFinished


def decide_greet(state: Pool, command: Greet, now: int) -> list[Fact]:
    """A session opens (an older one ends with it), or a lost worker is back; or it does not, for it is contested."""
    hello = command.hello
    worker = state.workers.get(command.worker)
    registered = WorkerRegistered(
        command.worker, command.session, hello.boot, hello.capacity, hello.version, hello.since_boot_ms
    )
    if worker is None:
        return [registered]
    if is_superseded(worker, command.session, hello):
        raise Refused("superseded", "session", SUPERSEDED)
    if is_contested(worker, command.session, hello):
        lately = worker.contested_at and now - worker.contested_at < CONTESTED_EACH_MS
        return [] if lately else [WorkerContested(worker.id, hello.boot)]
    if worker.session != command.session:
        kept = {held.lease: held.tasks for held in hello.holding if _sound(state, held.job, held.tasks)}
        ends = Ends(state, now)
        for number in worker.leases:
            if ends.bytes >= FACTS_BYTES_MAX:
                return [*ends.finish()]  # the session opens when it says hello again and the rest is given up, too
            _give_up(state, ends, number, kept.get(number, []), "the worker's agent was restarted")
        return [registered, *ends.finish(), *_reclaim_all(state, worker, hello)]
    facts: list[Fact] = []
    if worker.state != "ready":
        facts.append(WorkerReturned(worker.id))
    facts += _reclaim_all(state, worker, hello)
    if worker.capacity != hello.capacity:
        facts.append(registered)
    return facts


def is_superseded(worker: Worker, session: str, hello: Hello | None = None) -> bool:
    """Whether a newer session than this one was opened: it was the worker's before, or its hello comes late, after
    that of an agent which started later in the same boot.
    """
    if session == worker.session or hello is None or hello.boot != worker.boot:
        return session in worker.past
    return session in worker.past or 0 < hello.since_boot_ms < worker.since_boot_ms


def is_contested(worker: Worker, session: str, hello: Hello) -> bool:
    """Whether this hello is another machine's than that of the session which is open and was heard lately: whichever of
    the two is the owner's, the one at work stays. A machine that just was started again waits until its own is silent.
    """
    other = session != worker.session and bool(hello.boot) and bool(worker.boot) and hello.boot != worker.boot
    return other and worker.state == "ready"


def _sound(state: Pool, job: JobId, tasks: Runs) -> bool:
    return job in state.jobs and check_runs(tasks, state.jobs[job].count) is None


def _give_up(state: Pool, ends: Ends, number: int, keep: Runs, reason: str) -> None:
    lease = state.leases[number]
    job = state.jobs[lease.job]
    gone = [index for index, holder in job.active.items() if holder == number and not holds(keep, index)]
    if gone:
        ends.add(job, lease, sorted(gone), "lost", 0, reason, [])


def _reclaim_all(state: Pool, worker: Worker, hello: Hello) -> list[TasksReclaimed]:
    """Take back what the worker holds and nobody else was given; what does not fit in the message is run again."""
    facts: list[TasksReclaimed] = []
    seen: set[int] = set()
    back = {uuid: Held(held.milli, held.memory) for uuid, held in worker.gpus.items()}
    room = FACTS_BYTES_MAX
    for held in hello.holding:
        if held.lease in seen or room <= 0 or not _sound(state, held.job, held.tasks):
            continue
        seen.add(held.lease)
        job = state.jobs[held.job]
        waiting = sorted(
            index for index in job.retry if holds(held.tasks, index) and _mine(job, index, held.lease, worker)
        )
        had = job.retry[waiting[0]].gpus if waiting else []
        if not may_hold(hello.capacity.gpus, back, had, job.gpu, len(waiting)):
            continue  # somebody else's task is on that GPU by now
        hold(back, had, job.gpu, len(waiting))
        if waiting:
            facts.append(_reclaim(job, waiting, held.lease, worker))
            room -= FACT_BYTES + len(facts[-1].tasks) * BOUND_BYTES
    return facts


def _reclaim(job: Job, waiting: list[int], number: int, worker: Worker) -> TasksReclaimed:
    """Take back `waiting`, which wait for their next try since this very lease was given up."""
    first = job.retry[waiting[0]]
    return TasksReclaimed(job.id, runs_of(waiting), number, worker.id, first.attempt, first.gpus)


def decide_report(state: Pool, command: Reported, now: int) -> list[Fact]:
    """What a worker says happened; nothing when this report was recorded before."""
    report = command.report
    worker = state.workers.get(command.worker)
    if worker is None or worker.session != report.session:
        if worker is not None and is_superseded(worker, report.session):
            raise Refused("superseded", "session", SUPERSEDED)
        raise Refused("unknown_session", "session", "this session is not open; poll with a hello first")
    if report.sequence <= worker.reported:
        return []
    _check_items(report)
    ends = Ends(state, now)
    facts: list[Fact] = [WorkerReported(worker.id, report.sequence, command.digest)]
    for item in report.items:
        facts += _item(state, worker, ends, item)
    if report.bye:
        _stop(state, worker, ends)
        return [*facts, *ends.finish(), WorkerStopped(worker.id)]
    return [*facts, *ends.finish()]


def _check_items(report: Report) -> None:
    total = 0
    for at, item in enumerate(report.items):
        if why := check_runs(item.tasks, COUNT_MAX):
            raise Refused("malformed", f"items[{at}].tasks", why)
        total += size_of(item.tasks)
    if total > REPORTED_TASKS_MAX:
        detail = f"{total} tasks in one report; the limit is {REPORTED_TASKS_MAX}: send several reports"
        raise Refused("malformed", "items", detail)


def _item(state: Pool, worker: Worker, ends: Ends, item: Started | Ended) -> list[Fact]:
    job = state.jobs.get(item.job)
    if job is None or item.tasks[-1] >= job.count:
        return [TasksLate(item.job, item.tasks, item.lease, worker.id)]
    lease = state.leases.get(item.lease)
    if lease is not None and (lease.worker != worker.id or lease.job != job.id):
        return [TasksLate(item.job, item.tasks, item.lease, worker.id)]
    active, number = job.active, item.lease
    tasks = list(expand(item.tasks))
    current = [index for index in tasks if active.get(index) == number]
    facts: list[Fact] = []
    if isinstance(item, Started):
        fresh = [index for index in current if index not in job.running]
        return [TasksStarted(job.id, runs_of(fresh), number, worker.id, lease.attempt)] if fresh and lease else []
    current = ends.take(number, current)
    if len(current) < len(tasks):
        rest = [index for index in tasks if active.get(index) != number]
        mine = ends.take(number, [index for index in rest if _mine(job, index, number, worker)])
        if mine:
            back = _reclaim(job, mine, number, worker)
            ends.facts.append(back)
            since = job.retry[mine[0]].since
            lease = lease or Lease(number, job.id, worker.id, back.attempt, 0, since, gpus=back.gpus)
            current = sorted(current + mine)
        late = [index for index in rest if not _mine(job, index, number, worker)]
        if late:
            facts.append(TasksLate(job.id, runs_of(late), number, worker.id))
    if current and lease is not None:
        ends.add(job, lease, current, item.end, item.code, item.reason, _details(item, tasks, current))
    return facts


def _mine(job: Job, index: int, number: int, worker: Worker) -> bool:
    retry = job.retry.get(index)
    return retry is not None and retry.lease == number != 0 and retry.worker == worker.id


def _details(item: Ended, tasks: list[int], current: list[int]) -> list[Detail]:
    if len(item.details) != len(tasks):
        return []
    if len(current) == len(tasks):
        return item.details
    by_index = dict(zip(tasks, item.details, strict=True))
    return [by_index[index] for index in current]


def _stop(state: Pool, worker: Worker, ends: Ends) -> None:
    """Give up what the report of a leaving worker did not mention; all of it, as a worker leaves with little."""
    for number in worker.leases:
        lease = state.leases[number]
        active = state.jobs[lease.job].active
        left = ends.take(number, sorted(index for index, holder in active.items() if holder == number))
        if left:
            ends.add(state.jobs[lease.job], lease, left, "lost", 0, "the worker's agent was stopped", [])


def decide_silent(state: Pool, command: Silent, now: int) -> list[Fact]:
    """Nothing was heard of a worker for `for_ms`: unreachable, then its tasks are given up job by job, then lost."""
    worker = state.workers.get(command.worker)
    if worker is None or not worker.known:
        return []
    facts: list[Fact] = []
    if worker.state == "ready" and command.for_ms >= UNREACHABLE_MS:
        facts.append(WorkerUnreachable(worker.id))
    ends = Ends(state, now)
    given_up = 0
    for number in worker.leases:
        if ends.bytes >= FACTS_BYTES_MAX:
            break
        if state.jobs[state.leases[number].job].lost_after_ms <= command.for_ms:
            _give_up(state, ends, number, [], f"nothing was heard of the worker for {command.for_ms // 1000} s")
            given_up += 1
    facts += ends.finish()
    if command.for_ms >= LOST_MS and given_up == len(worker.leases):
        facts.append(WorkerLost(worker.id))
    return facts


def decide_heard(state: Pool, command: Heard) -> list[Fact]:
    """An unreachable worker spoke again in its session. A lost one must say hello first."""
    worker = state.workers.get(command.worker)
    return [WorkerReturned(worker.id)] if worker is not None and worker.state == "unreachable" else []


def decide_drain(state: Pool, command: DrainWorker) -> list[Fact]:
    """Give a worker nothing new, or work again; nothing when this very request was done before."""
    worker = state.workers.get(command.worker)
    if worker is None:
        raise Refused("unknown_worker", "worker", f"there is no worker {command.worker!r}")
    if worker.drained == command.on or (command.ask and command.ask in worker.asked):
        return []
    return [WorkerDrained(worker.id, ask=command.ask) if command.on else WorkerUndrained(worker.id, command.ask)]


def decide_configure(state: Pool, command: ConfigureWorker) -> list[Fact]:
    """Have a worker measure its machine so often; nothing when it does so already, or when this request was done."""
    worker = state.workers.get(command.worker)
    if worker is None:
        raise Refused("unknown_worker", "worker", f"there is no worker {command.worker!r}")
    if worker.configured[1] == command.heartbeat_ms or (command.ask and command.ask in worker.asked):
        return []
    return [WorkerConfigured(worker.id, command.heartbeat_ms, command.ask)]


def stale_leases(state: Pool, worker: WorkerId, hello: Hello) -> list[tuple[str, int]]:
    """Of what a worker says it holds, the (job, lease) pairs that are no longer its own: it is to end them."""
    return [
        (held.job, held.lease)
        for held in hello.holding
        if held.lease not in state.leases or state.leases[held.lease].worker != worker
    ]


def evolve_registered(state: Pool, event: WorkerRegistered, at: int) -> None:
    worker = state.workers.get(event.worker)
    if worker is None:
        worker = state.workers[event.worker] = Worker(event.worker, event.session, event.boot, event.capacity)
    else:
        if worker.session != event.session:
            worker.past = [*worker.past, worker.session][-SESSIONS_KEPT:]
            worker.reported = 0
        worker.session, worker.boot, worker.capacity = event.session, event.boot, event.capacity
        worker.state = "ready"
    worker.since_boot_ms = event.since_boot_ms
    state.reach.clear()
    state.freed.add(event.worker)


def evolve_reported(state: Pool, event: WorkerReported, at: int) -> None:
    state.workers[event.worker].reported = event.sequence


def evolve_standing(
    state: Pool, event: WorkerReturned | WorkerUnreachable | WorkerLost | WorkerStopped, at: int
) -> None:
    worker = state.workers[event.worker]
    names = {WorkerReturned: "ready", WorkerUnreachable: "unreachable", WorkerLost: "lost", WorkerStopped: "stopped"}
    worker.state = names[type(event)]
    state.reach.clear()
    state.freed.add(worker.id)
    state.left(worker)


def evolve_contested(state: Pool, event: WorkerContested, at: int) -> None:
    state.workers[event.worker].contested_at = at


def evolve_configured(state: Pool, event: WorkerConfigured, at: int) -> None:
    worker = state.workers[event.worker]
    if event.ask:
        worker.asked = [*worker.asked, event.ask][-ASKS_KEPT:]
    state.number += 1
    worker.configured = (state.number, event.heartbeat_ms)
    state.freed.add(event.worker)


def evolve_drained(state: Pool, event: WorkerDrained | WorkerUndrained, at: int) -> None:
    worker = state.workers[event.worker]
    worker.drained = isinstance(event, WorkerDrained)
    if event.ask:
        worker.asked = [*worker.asked, event.ask][-ASKS_KEPT:]
    state.number += 1
    worker.drain_order = state.number
    state.freed.add(worker.id)
    state.left(worker)
