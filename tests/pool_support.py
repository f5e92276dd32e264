"""For tests of the pool's rules: a pool whose history is told by commands, checked after each, and facts made short."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from events import catalog
from events.base import Runs, Sealed
from events.catalog import AnyEvent, Decision, Message
from events.hardware import Gpu
from events.job import JobSubmitted, Retries
from events.protocol import Ended, Held, Hello, Report, ReportItem, Started
from events.task import TasksLeased
from events.worker import Capacity
from services.hosting import React, Refused
from services.pool import model
from services.pool.commands import (
    Advance,
    CancelJob,
    Command,
    DrainWorker,
    Greet,
    OwnCommand,
    Past,
    Place,
    Reported,
    Silent,
    Submit,
)
from services.pool.state import Pool, save

GIB = 2**30
T0 = 1_700_000_000_000
SECOND = 1000
TEXT = Sealed("k1", b"sealed")


def fact(job: str = "j1", count: int = 1, *, digest: str = "d", owner: str = "u1", **more: Any) -> JobSubmitted:
    """A submission as a fact."""
    return JobSubmitted(job, owner, digest, TEXT, count=count, **more)


def submit(job: str = "j1", count: int = 1, *, known: dict[str, Past] | None = None, **more: Any) -> Submit:
    """The command that hands in a job."""
    return Submit(fact(job, count, **more), known or {})


def greet(
    worker: str = "w1",
    session: str = "s1",
    *,
    cpus: float = 4,
    memory: int = 8 * GIB,
    kinds: tuple[str, ...] = ("process", "noop"),
    features: tuple[str, ...] = (),
    holding: Sequence[tuple[int, str, Runs]] = (),
    since_boot_ms: int = 0,
    gpus: Sequence[Gpu] = (),
) -> Greet:
    """The command that a worker's hello is."""
    capacity = Capacity(int(cpus * 1000), memory, kinds, features, tuple(gpus))
    held = [Held(*one) for one in holding]
    return Greet(worker, session, Hello("boot", capacity, "1", "nonce", held, since_boot_ms))


def gpus(count: int, gib: int = 80, name: str = "NVIDIA A100-SXM4-80GB", *, part: bool = False) -> list[Gpu]:
    """GPUs of a machine: GPU-0, GPU-1, ..."""
    return [Gpu(f"GPU-{at}", name, gib * GIB, part) for at in range(count)]


def place(worker: str = "w1", room: int = -1, ahead: int = 0, told: Sequence[int] = ()) -> Place:
    """The command that gives a worker tasks. `told`: GiB of each GPU that are usable."""
    return Place(worker, room, ahead, [gib * 1024 for gib in told])


def ended(lease: int, job: str, tasks: Runs, end: Any = "exit", code: int = 0, **more: Any) -> Ended:
    """An item of a report: these attempts are over."""
    return Ended(lease, job, tasks, end, code, **more)


def started(lease: int, job: str, tasks: Runs) -> Started:
    """An item of a report: these attempts run."""
    return Started(lease, job, tasks)


def report(sequence: int, *items: ReportItem, worker: str = "w1", session: str = "s1", bye: bool = False) -> Reported:
    """The command that a worker's report is."""
    return Reported(worker, Report(session, sequence, list(items), bye))


def normal(state: Pool) -> Any:
    """Everything about a pool that may differ between two folds, in a form that can be compared."""
    shapes = {
        key: {priority: [job.id for job in queue] for priority, queue in shape.queues.items()}
        for key, shape in state.shapes.items()
    }
    return {
        # Every dict as its items: the order counts. Sets are sorted.
        "saved": _plain(msgspec.msgpack.decode(save(state))),
        "running": {job.id: sorted(job.running) for job in state.jobs.values()},
        "shapes": shapes,
        "unplaced": sorted(name for jobs in state.unplaced.values() for name in jobs),
        "waits": {job.id: job.waits_for for job in state.jobs.values()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, sorted(item) if key == "running" else _plain(item)) for key, item in value.items()]
    return [_plain(item) for item in value] if isinstance(value, list) else value


class Story:
    """`given` facts, `when` a command is decided, `then` these facts; every invariant is checked after each."""

    def __init__(self, *events: AnyEvent) -> None:
        self.state, self.now, self.events = Pool("p"), T0, list[AnyEvent]()
        self.checks = True  # each costs as much as the state is large
        self.given(*events)

    def given(self, *events: AnyEvent) -> "Story":
        """Fold facts."""
        for event in events:
            model.evolve(self.state, event, self.now)
        self.events += events
        if self.checks:
            model.check(self.state)
        return self

    def when(self, command: Command | OwnCommand | React) -> list[AnyEvent]:
        """Decide, and fold what it leads to. Deciding changes nothing."""
        before = save(self.state) if self.checks else b""
        events = list(model.decide(self.state, command, self.now))
        assert not self.checks or save(self.state) == before, "decide changed the state"
        stored = catalog.decode(catalog.encode(Message("m", self.now, "w", [Decision(events)])))
        assert stored.decisions[0].events == events
        self.given(*events)
        return events

    def refuses(self, command: Command | OwnCommand) -> Refused:
        """Decide something that is refused."""
        before = save(self.state)
        with pytest.raises(Refused) as caught:
            model.decide(self.state, command, self.now)
        assert save(self.state) == before
        return caught.value

    def large(self) -> "Story":
        """From now on the state is large: check less often, and by hand."""
        self.checks = False
        return self

    def after(self, seconds: float) -> "Story":
        """Let time pass."""
        self.now += int(seconds * SECOND)
        return self

    # The commands that most stories are made of

    def worker(self, name: str = "w1", session: str = "s1", **more: Any) -> "Story":
        self.when(greet(name, session, **more))
        return self

    def job(self, job: str = "j1", count: int = 1, **more: Any) -> "Story":
        self.when(submit(job, count, **more))
        return self

    def leases(self, worker: str = "w1", room: int = -1, ahead: int = 0) -> list[tuple[str, Runs, int, int]]:
        """Place: (job, tasks, lease, attempt) of each lease."""
        events = self.when(place(worker, room, ahead))
        return [(e.job, e.tasks, e.lease, e.attempt) for e in events if isinstance(e, TasksLeased)]

    def lease(self, worker: str = "w1", room: int = -1, ahead: int = 0) -> int:
        """Place, which must lead to one lease: its number."""
        ((_, _, number, _),) = self.leases(worker, room, ahead)
        return number

    def silence(self, seconds: float, worker: str = "w1") -> list[AnyEvent]:
        """The worker was not heard for so long."""
        return self.when(Silent(worker, int(seconds * SECOND)))

    def advance(self, *, capacity: bool = False) -> list[AnyEvent]:
        """Do what is due, until nothing happens."""
        events: list[AnyEvent] = []
        while more := self.when(Advance(capacity)):
            events += more
        return events

    def cancel(self, job: str = "j1") -> list[AnyEvent]:
        return self.when(CancelJob(job))

    def drain(self, on: bool, worker: str = "w1") -> list[AnyEvent]:
        return self.when(DrainWorker(worker, on))


def tags(events: Sequence[AnyEvent]) -> list[str]:
    """What happened, by name."""
    return [type(event).__name__ for event in events]


ONCE = Retries(lost=0, rejected=0, output_lost=0)
