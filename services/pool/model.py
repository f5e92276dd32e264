"""The pool's model: what each command may lead to (`decide`) and what each event changes (`evolve`). Pure.

`decide` never changes the state; `evolve` never refuses. Time is an argument, in milliseconds.
"""

from bisect import insort
from collections.abc import Callable, Sequence
from typing import Any

from events.base import UserId, holds
from events.catalog import AnyEvent, Message, Unknown
from events.job import JobCancelled, JobFinished, JobFunded, JobHeld, JobMetered, JobRunnable, JobShort, JobSubmitted
from events.pool import WriterLed
from events.task import (
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
from services.hosting import NewerFormat, React
from services.pool import funds, gpus, job, plan, react, worker
from services.pool.commands import (
    Advance,
    CancelJob,
    Command,
    ConfigureWorker,
    DrainWorker,
    Greet,
    Heard,
    OwnCommand,
    Place,
    Reported,
    Silent,
    Submit,
)
from services.pool.state import Owned, Pool, ShapeKey, class_of

VERSION = 5
"""Of the snapshot: raise it when the state's shape or an `evolve` changes what a given log folds to."""

DECIDE: dict[type, Callable[[Pool, Any, int], Sequence[AnyEvent]]] = {
    Submit: lambda state, command, now: job.decide_submit(state, command),
    CancelJob: lambda state, command, now: job.decide_cancel(state, command),
    DrainWorker: lambda state, command, now: worker.decide_drain(state, command),
    ConfigureWorker: lambda state, command, now: worker.decide_configure(state, command),
    Greet: worker.decide_greet,
    Reported: worker.decide_report,
    Silent: worker.decide_silent,
    Heard: lambda state, command, now: worker.decide_heard(state, command),
    Place: lambda state, command, now: plan.place(state, command),
    Advance: plan.advance,
    React: react.decide_react,
}


def _nothing(state: Pool, event: TasksLate, at: int) -> None:
    """A late report changes nothing."""


def _led(state: Pool, event: WriterLed, at: int) -> None:
    state.writer = event.writer


EVOLVE: dict[type, Callable[[Pool, Any, int], None]] = {
    JobSubmitted: job.evolve_submitted,
    JobHeld: job.evolve_held,
    JobRunnable: job.evolve_runnable,
    JobMetered: funds.evolve_metered,
    JobFunded: funds.evolve_funded,
    JobShort: funds.evolve_short,
    JobCancelled: job.evolve_cancelled,
    JobFinished: job.evolve_finished,
    TasksLeased: job.evolve_leased,
    TasksStarted: job.evolve_started,
    TasksFinished: job.evolve_ended,
    TasksFailed: job.evolve_ended,
    TasksRetried: job.evolve_ended,
    TasksDue: job.evolve_due,
    TasksReclaimed: job.evolve_reclaimed,
    TasksLate: _nothing,
    WorkerRegistered: worker.evolve_registered,
    WorkerReported: worker.evolve_reported,
    WorkerReturned: worker.evolve_standing,
    WorkerUnreachable: worker.evolve_standing,
    WorkerLost: worker.evolve_standing,
    WorkerStopped: worker.evolve_standing,
    WorkerDrained: worker.evolve_drained,
    WorkerUndrained: worker.evolve_drained,
    WorkerConfigured: worker.evolve_configured,
    WorkerContested: worker.evolve_contested,
    WriterLed: _led,
}


def decide(state: Pool, command: Command | OwnCommand | React, now: int) -> Sequence[AnyEvent]:
    """The events that `command` leads to at `now`, none when there is nothing to do. Raises Refused."""
    return DECIDE[type(command)](state, command, now)


def evolve(state: Pool, event: AnyEvent | Unknown, at: int) -> None:
    """Fold one event into `state`, in place. Raises NewerFormat for one this version does not know."""
    apply = EVOLVE.get(type(event))
    if apply is None:
        raise NewerFormat(f"{event} is not known to this version; upgrade before it leads")
    apply(state, event, at)


def fold(state: Pool, message: Message) -> None:
    """Fold a message of the pool's subject. Raises NewerFormat."""
    for event in message.events():
        evolve(state, event, message.at)
    state.cursors.update(message.marks())


def check(state: Pool) -> None:
    """Assert every invariant of the state; for tests and audits."""
    leases = dict.fromkeys(state.leases, 0)
    for one in state.jobs.values():
        assert one.ended + len(one.active) + len(one.retry) + len(one.delayed) + (one.count - one.next) == one.count
        assert one.running <= one.active.keys(), one.id
        assert not (one.retry.keys() | one.delayed.keys()) & one.active.keys(), one.id
        assert not one.cancelled or not one.ready
        for number in one.active.values():
            leases[number] += 1
        queued = one.shape in state.shapes and one in state.shapes[one.shape].queues.get(one.priority, ())
        assert queued == bool(one.ready), f"{one.id} queued={queued} with {one.ready} ready tasks"
    for number, lease in state.leases.items():
        assert lease.left == leases[number] > 0, number
        assert number in state.workers[lease.worker].leases and number in state.jobs[lease.job].leases
    for machine in state.workers.values():
        held = [(state.leases[number].left, state.jobs[state.leases[number].job]) for number in machine.leases]
        assert machine.used_cpus == sum(left * one.cpus_milli for left, one in held)
        assert machine.used_memory == sum(left * one.memory_bytes for left, one in held)
        books: dict[str, gpus.Held] = {}
        for number in machine.leases:
            lease = state.leases[number]
            assert len(lease.gpus) == state.jobs[lease.job].gpu.devices, "as many GPUs as each task needs"
            gpus.hold(books, lease.gpus, state.jobs[lease.job].gpu, lease.left)
        assert machine.gpus == books, machine.id
        assert all(held.milli <= gpus.WHOLE for held in books.values()), "no GPU is given twice"
        assert list(machine.leases) == sorted(machine.leases), "orders are told by number"
        assert machine.state not in ("lost", "stopped") or not machine.leases, machine.id
    meters = {(one.meter.due, one.id) for one in state.jobs.values() if one.meter and one.meter.due}
    assert meters <= {*state.meters} and {*state.meters[:1]} <= meters, "each meter is looked at, the first one next"
    for one in state.jobs.values():
        if one.meter is not None:
            assert one.meter.since.keys() == one.running and one.meter.since_sum == sum(one.meter.since.values())
    for due, name, tasks in state.delays[:1]:
        assert job.due_tasks(state, due, name, tasks), "the first back-off is one that a task waits for"
    for one in state.jobs.values():
        for index, retry in one.delayed.items():
            assert any(d == retry.due and n == one.id and holds(tasks, index) for d, n, tasks in state.delays), one.id
    for shape in state.shapes.values():
        assert shape and all(queue for queue in shape.queues.values()), shape.key
        for queue in shape.queues.values():
            orders = [one.order for one in queue]
            assert orders == sorted(orders), "first come first"
    firsts: dict[ShapeKey, dict[int, list[tuple[int, ShapeKey]]]] = {}
    for key, one in state.shapes.items():
        for priority, queue in one.queues.items():
            insort(firsts.setdefault(class_of(key), {}).setdefault(priority, []), (queue.first, key))
    assert state.classes == firsts
    owned: dict[UserId, Owned] = {}
    for one in state.jobs.values():
        count = owned.setdefault(one.owner, Owned())
        count.open_jobs += 1
        count.queued_tasks += one.count - one.ended - len(one.active)
    assert state.owned == owned, "what each user has"
    assert state.text_bytes == sum(len(one.text.data) for one in state.jobs.values())
