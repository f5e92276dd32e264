"""The machine time of an attempt: what counts of it, and how it used what it reserved. Pure.

Times in milliseconds of the pool's clock, machine time in microseconds of the whole machine.
"""

import msgspec

from events.base import WorkerId, size_of
from events.catalog import AnyEvent
from events.ledger import StandingChanged, Term, Work
from events.task import Detail, TasksFailed, TasksFinished, TasksRetried
from events.worker import (
    WorkerLost,
    WorkerRegistered,
    WorkerReturned,
    WorkerStopped,
    WorkerUnreachable,
)
from projections.levels import WHOLE, Standing, State

US_PER_MS = 1000

STANDING_FACTS = (WorkerRegistered, WorkerReturned, WorkerUnreachable, WorkerLost, WorkerStopped)
"""The pool's facts that `standing_of` is to be asked about."""
EndFact = TasksFinished | TasksFailed | TasksRetried


def standing_of(standing: Standing | None, event: AnyEvent, at: int, position: int) -> list[StandingChanged]:
    """The ledger's fact about a worker that follows from the pool's at `position`, recorded at `at`; none when it says
    nothing new.
    """
    match event:
        case WorkerRegistered():
            has = event.capacity
            said = StandingChanged(event.worker, "ready", at, has.cpus_milli, has.memory_bytes, len(has.gpus), position)
        case WorkerReturned():
            said = _now(standing, event.worker, "ready", at, position)
        case WorkerUnreachable():
            said = _now(standing, event.worker, "silent", at, position)
        case WorkerLost() | WorkerStopped():
            said = _now(standing, event.worker, "gone", at, position)
        case _:
            return []
    return [] if standing is not None and _facts(standing) == _facts(said) else [said]


def _now(standing: Standing | None, worker: WorkerId, state: State, at: int, position: int) -> StandingChanged:
    if standing is None:
        return StandingChanged(worker, state, at, evidence=position)
    return StandingChanged(worker, state, at, standing.cpus_milli, standing.memory_bytes, standing.gpus, position)


def _facts(of: Standing | StandingChanged) -> tuple[str, int, int, int]:
    return of.state, of.cpus_milli, of.memory_bytes, of.gpus


def room_us(standing: Standing, at: int) -> int:
    """How much machine time can be credited at `at` before it would be more than the clock has."""
    worked = standing.worked_ms + (at - standing.since if standing.state != "gone" and at > standing.since else 0)
    return max(worked * US_PER_MS - standing.credited_us, 0)


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """What one task of a job has to itself."""

    cpus_milli: int
    memory_bytes: int = 0
    gpus_milli: int = 0


class Basis(msgspec.Struct, frozen=True, gc=False):
    """What the work of an attempt is computed from, beside its reports: how many ms count for all its tasks together, what
    one of them reserved, what the machine has, and how much machine time there was to credit.
    """

    counted_ms: int
    reserved: Reserved
    cpus_milli: int
    memory_bytes: int
    gpus: int
    room_us: int

    def terms(self) -> list[Term]:
        """The same as terms; `basis_of` takes them back."""
        given = [
            Term("time that counts", self.counted_ms, "ms"),
            Term("room", self.room_us, "µs"),
            Term("reserved CPUs", self.reserved.cpus_milli, "milli", "reservation"),
            Term("machine's CPUs", self.cpus_milli, "milli", "report"),
        ]
        if self.reserved.memory_bytes:
            given.append(Term("reserved memory", self.reserved.memory_bytes, "bytes", "reservation"))
            given.append(Term("machine's memory", self.memory_bytes, "bytes", "report"))
        if self.reserved.gpus_milli:
            given.append(Term("reserved GPUs", self.reserved.gpus_milli, "milli", "reservation"))
            given.append(Term("machine's GPUs", self.gpus * WHOLE, "milli", "report"))
        return given


def basis_now(standing: Standing, counted_ms: int, reserved: Reserved, at: int) -> Basis:
    """The basis of an attempt that ends at `at`."""
    return Basis(counted_ms, reserved, standing.cpus_milli, standing.memory_bytes, standing.gpus, room_us(standing, at))


def basis_of(terms: list[Term]) -> Basis:
    """The basis that these terms tell."""
    said = {term.name: term.value for term in terms}

    def value(name: str) -> int:
        return said.get(name, 0)

    reserved = Reserved(value("reserved CPUs"), value("reserved memory"), value("reserved GPUs"))
    gpus = value("machine's GPUs") // WHOLE
    return Basis(
        value("time that counts"), reserved, value("machine's CPUs"), value("machine's memory"), gpus, value("room")
    )


def machine_us(basis: Basis, ms: int) -> int:
    """The machine time of `ms` of a task: by the largest share that it reserves of what the worker has, at most all."""
    pairs = (
        (basis.reserved.cpus_milli, basis.cpus_milli),
        (basis.reserved.memory_bytes, basis.memory_bytes),
        (basis.reserved.gpus_milli, basis.gpus * WHOLE),
    )
    return max(ms * US_PER_MS * min(some, all_of_it) // all_of_it if all_of_it else 0 for some, all_of_it in pairs)


def work_of(basis: Basis, event: EndFact) -> list[Work]:
    """The work that an attempt's end is credited.

    Of each task counts what its report says, scaled down when all of them would be more; without reports all count alike.
    """
    room, counted_ms, reserved = basis.room_us, basis.counted_ms, basis.reserved
    count = size_of(event.tasks)
    done = isinstance(event, TasksFinished)
    if len(event.details) != count:
        each = min(machine_us(basis, counted_ms // count), room // count)
        return [_work(Detail(), 0, reserved, each, count, done)]
    told = sum(detail.wall_ms for detail in event.details)
    works: list[Work] = []
    for detail in event.details:
        ms = detail.wall_ms if told <= counted_ms else detail.wall_ms * counted_ms // told
        us = min(machine_us(basis, ms), room)
        room -= us
        work = _work(detail, ms, reserved, us, 1, done)
        if works and msgspec.structs.replace(works[-1], tasks=1) == work:
            works[-1] = msgspec.structs.replace(works[-1], tasks=works[-1].tasks + 1)
        else:
            works.append(work)
    return works


def _work(detail: Detail, ms: int, reserved: Reserved, us: int, tasks: int, done: bool) -> Work:
    return Work(
        us,
        tasks,
        done,
        _share(detail.cpu_ms * WHOLE, ms * reserved.cpus_milli) if reserved.cpus_milli else -1,
        _share(detail.memory_avg, reserved.memory_bytes) if reserved.memory_bytes else -1,
        min(max(detail.gpu_avg, 0), WHOLE) if reserved.gpus_milli else -1,
    )


def _share(used: int, reserved: int) -> int:
    """How much of it was used, in thousandths, at most all."""
    return min(max(used, 0) * WHOLE // reserved, WHOLE) if reserved > 0 else 0
