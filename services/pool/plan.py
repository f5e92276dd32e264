"""Who gets what: which queued tasks a worker is given, and what else is due. Pure.

The cost of giving a worker tasks grows with what it is given and with the number of classes of shapes queued, never
with the number of queued tasks or of idle workers. Which workers to try is the service's to say (`Pool.fresh`,
`Pool.freed`): one whose capacity changed, or, when a shape has new work, those that were idle.
"""

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from events.base import Runs, runs_of
from events.job import JobHeld, JobRunnable
from events.needs import offers
from events.task import TasksDue, TasksLeased
from services.pool import funds
from services.pool.commands import Advance, Place
from services.pool.gpus import Devices
from services.pool.job import BOUND_BYTES, FACTS_BYTES_MAX, JobFact, cancel, due_tasks
from services.pool.reach import another, unplaceable
from services.pool.state import Job, Pool, Shape, ShapeKey, Worker

TASKS_PER_PLACE_MAX = 8192
LEASES_PER_PLACE_MAX = 512
ADVANCE_MAX = 500


class Room:
    """What a worker can still take."""

    def __init__(self, worker: Worker, room: int, ahead: int, gpus: Sequence[int] = ()) -> None:
        self._capacity, times = worker.capacity, 1 + max(0, ahead)
        self.cpus = worker.capacity.cpus_milli * times - worker.used_cpus
        self.memory = worker.capacity.memory_bytes * times - worker.used_memory
        self.tasks = TASKS_PER_PLACE_MAX if room < 0 else min(room, TASKS_PER_PLACE_MAX)
        self._worker, self._told = worker, gpus
        self._devices: Devices | None = None

    @property
    def devices(self) -> Devices:
        """Its GPUs. Nothing is given ahead of a free one: who has one is worth a round trip."""
        if self._devices is None:
            self._devices = Devices(self._capacity.gpus, self._worker.gpus, self._told)
        return self._devices

    def takes(self, shape: ShapeKey) -> bool:
        """Whether a task of this shape goes in."""
        kind, cpus, memory, gpu = shape
        most = self._capacity
        return (
            self.tasks > 0
            and (not cpus or cpus <= self.cpus)
            and (not memory or memory <= self.memory)
            and cpus <= most.cpus_milli
            and memory <= most.memory_bytes
            and offers(most, kind)
            and (not gpu[0] or (bool(most.gpus) and self.devices.fits(gpu) > 0))
        )

    def fits(self, job: Job) -> int:
        """How many tasks of this job go in."""
        cpus, memory, count = job.cpus_milli, job.memory_bytes, self.tasks
        if cpus:
            count = min(count, self.cpus // cpus)
        if memory:
            count = min(count, self.memory // memory)
        if job.gpu[0]:
            count = min(count, self.devices.fits(job.gpu))
        return max(0, count)

    def take(self, job: Job, count: int) -> None:
        """Note that `count` tasks of `job` are given."""
        self.tasks -= count
        self.cpus -= count * job.cpus_milli
        self.memory -= count * job.memory_bytes


def is_free(worker: Worker, ahead: int) -> bool:
    """Whether the worker has CPUs left: new work is looked for on its behalf."""
    return worker.takes and Room(worker, -1, ahead).cpus > 0


def may_take(state: Pool, worker: Worker, room: Room) -> bool:
    """Whether a look at the queue may find something for the worker. Tasks that need no CPU fit where none is left, too."""
    return worker.takes and any(map(room.takes, state.classes))


def fitting(state: Pool, room: Room) -> Iterator[ShapeKey]:
    """The queued shapes of which a task goes into `room`; one that is queued with several priorities comes so often."""
    for least, priorities in state.classes.items():
        if room.takes(least):
            for firsts in priorities.values():
                yield from (key for _, key in firsts if room.takes(key))


def place(state: Pool, command: Place) -> list[TasksLeased]:
    """Leases for one worker: by priority, then first come first, skipping what does not fit."""
    worker = state.workers.get(command.worker)
    if worker is None or not worker.takes:
        return []
    room = Room(worker, command.room, command.ahead, command.gpus)
    facts: list[TasksLeased] = []
    number = state.number
    for job in queued(state, room):
        count = min(room.fits(job), job.ready)
        for tasks, attempt in _pick(state, job, worker, count):
            room.take(job, len(tasks))
            if job.gpu[0]:
                for gpus, runs in _dealt(room, job, tasks):
                    number += 1
                    facts.append(TasksLeased(job.id, runs, number, worker.id, attempt, gpus))
                continue
            number += 1
            runs = [tasks[0], tasks[-1]] if isinstance(tasks, range) else runs_of(tasks)
            facts.append(TasksLeased(job.id, runs, number, worker.id, attempt))
        if len(facts) >= LEASES_PER_PLACE_MAX:
            break
    return facts


def _dealt(room: Room, job: Job, tasks: range | list[int]) -> Iterator[tuple[list[str], Runs]]:
    """GPUs, and which of the tasks go on them."""
    at = 0
    for gpus, count in room.devices.deal(job.gpu, len(tasks)):
        yield gpus, runs_of(tasks[at : at + count])
        at += count


def queued(state: Pool, room: Room) -> Iterator[Job]:
    """The queued jobs of which a task goes into `room`, in the order in which they are served; `room` may shrink meanwhile.

    A shape is left as soon as it does not fit any more: how many of its jobs wait costs nothing. Of the shapes of a
    class those are walked over that do not fit; a class of which none can fit is not looked at.
    """
    classes = _open(state.classes, room)
    for priority in range(10, 0, -1):
        heads: list[_Head] = []
        for least, firsts in classes.items():
            if priority in firsts:
                _push(heads, _firsts(state, priority, least, firsts[priority], room), True)
        served = False
        while heads:
            _, job, walk, first = heads[0]
            fits = room.takes(job.shape)
            if fits:
                served = True
                yield job
            heapq.heappop(heads)
            if fits and first:
                queue = iter(state.shapes[job.shape].queues[priority])
                next(queue)
                _push(heads, queue, False)
            if fits or first:
                _push(heads, walk, first)
        if served and not (classes := _open(classes, room)):
            return


_Firsts: TypeAlias = dict[int, list[tuple[int, ShapeKey]]]


def _open(classes: dict[ShapeKey, _Firsts], room: Room) -> dict[ShapeKey, _Firsts]:
    return {least: firsts for least, firsts in classes.items() if room.takes(least)}


_Head: TypeAlias = tuple[int, Job, Iterator[Job], bool]
"""A job, by its order, and the walk that it comes from: over the first jobs of a class's shapes, or over a shape's jobs."""


def _push(heads: list[_Head], walk: Iterator[Job], first: bool) -> None:
    if (job := next(walk, None)) is not None:
        heapq.heappush(heads, (job.order, job, walk, first))


def _firsts(
    state: Pool, priority: int, least: ShapeKey, firsts: list[tuple[int, ShapeKey]], room: Room
) -> Iterator[Job]:
    for _, key in firsts:
        if room.takes(key):
            yield next(iter(state.shapes[key].queues[priority]))
        elif not room.takes(least):
            return


def _pick(state: Pool, job: Job, worker: Worker, count: int) -> Iterator[tuple[range | list[int], int]]:
    """Up to `count` ready tasks of `job` as (tasks, attempt): those to be tried again first, then fresh ones.

    A task that this worker had last goes to another machine, if there is one.
    """
    if job.retry:
        by_attempt: dict[int, list[int]] = {}
        elsewhere = None
        for index, retry in job.retry.items():
            if count <= 0:
                break
            if retry.worker == worker.id:
                if elsewhere is None:
                    elsewhere = another(state, worker.id, job.shape)
                if elsewhere:
                    continue
            by_attempt.setdefault(retry.attempt + 1, []).append(index)
            count -= 1
        for attempt, tasks in sorted(by_attempt.items()):
            yield sorted(tasks), attempt
    fresh = min(count, job.count - job.next)
    if fresh > 0:
        yield range(job.next, job.next + fresh), 1


def advance(state: Pool, command: Advance, now: int) -> list[JobFact | TasksDue]:
    """What is due, at most ADVANCE_MAX facts of it; ask again until nothing happens."""
    facts: list[JobFact | TasksDue] = []
    for name, why in state.releasable.items():
        if len(facts) >= ADVANCE_MAX:
            return facts
        job = state.jobs[name]
        if why:
            facts += cancel(job, why)
        elif short := unplaceable(state, job.shape):
            facts.append(JobHeld(name, "capacity", short))
        else:
            facts.append(JobRunnable(name))
    room = FACTS_BYTES_MAX
    for due, name, tasks in _due(state, now):
        if len(facts) >= ADVANCE_MAX or room <= 0:
            return facts
        if waiting := due_tasks(state, due, name, tasks):
            facts.append(TasksDue(name, waiting))
            room -= len(waiting) * BOUND_BYTES
    facts += funds.decide_metered(state, now, ADVANCE_MAX - len(facts))
    if command.capacity:
        facts += _capacity(state, ADVANCE_MAX - len(facts))
    return facts


def _due(state: Pool, now: int) -> Iterator[tuple[int, str, list[int]]]:
    """The entries of the heap of back-offs that are over, without taking them off."""
    heap, places = state.delays, [0]
    while places:
        place_ = places.pop()
        if place_ < len(heap) and heap[place_][0] <= now:
            yield heap[place_]
            places += (2 * place_ + 1, 2 * place_ + 2)


def _capacity(state: Pool, most: int) -> list[JobFact]:
    """Hold queued jobs that no known machine could ever take, and queue held ones that one now can."""
    facts: list[JobFact] = []
    for shape in state.shapes.values():
        if short := unplaceable(state, shape.key):
            facts += [JobHeld(job.id, "capacity", short) for job in _idle_jobs(shape, most - len(facts))]
    for key, jobs in state.unplaced.items():
        if not unplaceable(state, key):
            facts += map(JobRunnable, islice(jobs, most - len(facts)))
    return facts


def _idle_jobs(shape: Shape, most: int) -> list[Job]:
    """Up to `most` queued jobs without a task at a worker."""
    found: list[Job] = []
    for queue in shape.queues.values():
        for job in queue:
            if len(found) >= most:
                return found
            if not job.active:
                found.append(job)
    return found
