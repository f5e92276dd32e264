"""The pool under any commands in any order: its invariants, its books, replay, any cut, idempotence, agreement.

Ids come from tiny pools, so that commands collide; what is drawn are commands, never states.
"""

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from events import catalog
from events.base import Runs, runs_of
from events.catalog import AnyEvent, Decision, Message
from events.job import Retries
from events.protocol import Ended, Held, Hello, Report, ReportItem, Started
from events.task import TasksLeased
from events.worker import Capacity
from projections.board import BOARD
from services.hosting import Refused
from services.pool import model
from services.pool.commands import Advance, CancelJob, DrainWorker, Greet, Heard, Past, Place, Reported, Silent, Submit
from services.pool.state import Pool, load, save
from tests.pool_ledger import FINAL, Ledger
from tests.pool_strategies import CAPACITIES, ENDS, GPU_NEEDS, JOBS, RETRIES, TASKS, WORKERS
from tests.pool_support import GIB, T0, fact, normal


class Pools(RuleBasedStateMachine):
    """A pool, its log, the books and the board beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.now = Pool("p"), T0
        self.log: list[bytes] = []
        self.ledger, self.board = Ledger(), BOARD.initial()
        self.last: Any = None
        self.reports: list[Reported] = []

    # What is asked

    def ask(self, command: Any) -> list[AnyEvent]:
        """Decide, fold, and tell everyone who listens."""
        self.last = command
        events = self.decide(command)
        if events:
            data = catalog.encode(Message(f"m{len(self.log)}", self.now, "w", [Decision(events)]))
            message = catalog.decode(data)
            assert message.decisions[0].events == events, "not what was encoded"
            assert len(data) < catalog.MESSAGE_BYTES_MAX
            self.log.append(data)
            for event in events:
                model.evolve(self.state, event, self.now)
            self.ledger.take(message)
            BOARD.apply(self.board, message, len(self.log))
        return events

    def decide(self, command: Any) -> list[AnyEvent]:
        before = save(self.state)
        try:
            return list(model.decide(self.state, command, self.now))
        except Refused:
            return []
        finally:
            assert save(self.state) == before, "decide changed the state"

    def known(self) -> dict[str, Past]:
        """What the index of ids would say."""
        return {name: Past(job.fact.digest, job.state) for name, job in self.ledger.jobs.items()}

    @rule(
        job=JOBS,
        count=st.sampled_from([1, 2, 6]),
        digest=st.sampled_from(["d", "d", "e"]),
        after=st.lists(JOBS, max_size=2),
        cpus=st.sampled_from([0, 500, 1000, 4000, 9000]),
        memory=st.sampled_from([0, 0, GIB]),
        priority=st.sampled_from([1, 5, 10]),
        kind=st.sampled_from(["process", "noop"]),
        lost_after=st.sampled_from([15_000, 60_000, 100_000]),
        retries=RETRIES,
        owner=st.sampled_from(["u1", "u1", "u2"]),
        most=st.sampled_from([(0, 0), (0, 0), (0, 0), (2, 0), (0, 7)]),
        gpu=GPU_NEEDS,
    )
    def submit(
        self, job: str, count: int, digest: str, after: list[str], cpus: int, memory: int, priority: int, kind: Any,
        lost_after: int, retries: Retries, owner: str, most: tuple[int, int],
        gpu: tuple[int, int, str],
    ) -> None:  # fmt: skip
        known = {name: past for name, past in self.known().items() if name not in self.state.jobs}
        new = fact(
            job, count, digest=digest, after=after, cpus_milli=cpus, memory_bytes=memory, priority=priority, kind=kind,
            lost_after_ms=lost_after, retries=retries, owner=owner, gpus_milli=gpu[0], gpu_memory=gpu[1],
            gpu_model=gpu[2],
        )  # fmt: skip
        if self.ask(Submit(new, known, *most)):
            jobs, tasks = self.ledger.owned(owner)
            assert not most[0] or jobs <= most[0]
            assert not most[1] or tasks <= most[1]

    @initialize(
        one=CAPACITIES,
        two=CAPACITIES,
        count=st.integers(1, 6),
        retries=RETRIES,
        cpus=st.sampled_from([500, 1000]),
        gpu=GPU_NEEDS,
    )
    def begin(
        self, one: Capacity, two: Capacity, count: int, retries: Retries, cpus: int, gpu: tuple[int, int, str]
    ) -> None:
        """Most stories need two machines and something to do."""
        self.ask(Greet("w1", "s0", Hello("b", one, "1", "n")))
        self.ask(Greet("w2", "s0", Hello("b", two, "1", "n")))
        self.ask(Submit(fact("j0", count, retries=retries, cpus_milli=cpus, gpus_milli=gpu[0], gpu_memory=gpu[1])))
        self.ask(Submit(fact("j1", count, retries=retries, kind="noop", after=["j0"])))

    @precondition(lambda self: len(self.state.jobs) > 1)
    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        self.ask(CancelJob(job, self.known()))

    @rule(worker=WORKERS, on=st.sampled_from([False, False, True]), ask=st.sampled_from(["", "a1", "a2"]))
    def drain(self, worker: str, on: bool, ask: str) -> None:
        self.ask(DrainWorker(worker, on, ask))

    @rule(
        worker=WORKERS,
        step=st.sampled_from([0, 0, 0, 1, 1, -1]),
        capacity=st.none() | CAPACITIES,
        keep=st.integers(0, 63),
        data=st.data(),
    )
    def greet(self, worker: str, step: int, capacity: Capacity | None, keep: int, data: st.DataObject) -> None:
        """A hello, of the same session, the next or the one before. It holds some of the leases that the worker ever
        had, of some of them only some tasks.
        """
        before = self.state.workers[worker]
        session = f"s{int(before.session[1:]) + step}"
        capacity = capacity or before.capacity
        leases = [lease for lease in self.ledger.leases.values() if lease.worker == worker][-6:]
        holding = [
            Held(lease.lease, lease.job, data.draw(st.just(lease.tasks) | TASKS))
            for at, lease in enumerate(leases)
            if keep >> at & 1
        ]
        self.ask(Greet(worker, session, Hello("b", capacity, "1", "n", holding)))

    @rule(
        worker=WORKERS,
        room=st.sampled_from([-1, -1, 0, 1]),
        ahead=st.integers(0, 2),
        told=st.sampled_from([[], [], [4096, 2048], [0]]),
    )
    def place(self, worker: str, room: int, ahead: int, told: list[int]) -> None:
        self.place_one(worker, room, ahead, told)

    def place_one(self, worker: str, room: int, ahead: int, told: list[int] | None = None) -> None:
        events = self.ask(Place(worker, room, ahead, told or []))
        if events:
            capacity = self.ledger.machines[worker].capacity
            cpus, memory = self.ledger.used(worker)
            leases = [event for event in events if isinstance(event, TasksLeased)]
            if any(self.state.jobs[lease.job].cpus_milli for lease in leases):
                assert cpus <= capacity.cpus_milli * (1 + ahead)
            if any(self.state.jobs[lease.job].memory_bytes for lease in leases):
                assert memory <= capacity.memory_bytes * (1 + ahead)

    @precondition(lambda self: any(job.ready for job in self.state.jobs.values()))
    @rule(ahead=st.integers(0, 1))
    def place_all(self, ahead: int) -> None:
        """A pass over every machine."""
        for worker in ("w1", "w2"):
            self.place_one(worker, -1, ahead)

    @precondition(lambda self: self.state.leases)
    @rule(worker=WORKERS, ms=st.sampled_from([15_000, 60_000]), new=st.booleans(), placed=st.booleans())
    def blink(self, worker: str, ms: int, new: bool, placed: bool) -> None:
        """A worker is silent for a while, comes back with all it had, perhaps after the other one got work."""
        had = [
            Held(
                number,
                lease.job,
                runs_of(sorted(i for i, n in self.state.jobs[lease.job].active.items() if n == number)),
            )
            for number, lease in self.state.leases.items()
            if lease.worker == worker
        ]
        machine = self.state.workers[worker]
        self.ask(Silent(worker, ms))
        if placed:
            self.place_one("w2" if worker == "w1" else "w1", 1, 0)
        session = f"s{int(machine.session[1:]) + new}"
        self.ask(Greet(worker, session, Hello("b", machine.capacity, "1", "n", had)))

    @precondition(lambda self: self.ledger.leases)
    @rule(
        worker=WORKERS,
        sequence=st.sampled_from([0, 1, 1, 1, 1, 3]),
        older=st.sampled_from([0] * 9 + [1]),
        many=st.integers(1, 3),
        bye=st.sampled_from([False] * 9 + [True]),
        data=st.data(),
    )
    def report(self, worker: str, sequence: int, older: int, many: int, bye: bool, data: st.DataObject) -> None:
        """What a worker could say: of leases that were, current or not, its own or not; mostly in its session."""
        machine = self.state.workers[worker]
        items = [self.item(data) for _ in range(many)]
        session, number = f"s{int(machine.session[1:]) - older}", machine.reported + sequence
        command = Reported(worker, Report(session, number, items, bye))
        self.reports.append(command)
        self.ask(command)

    @precondition(lambda self: self.state.leases)
    @rule(which=st.integers(0, 100))
    def start(self, which: int) -> None:
        """A worker says that what it was given runs."""
        lease = list(self.state.leases.values())[which % len(self.state.leases)]
        machine, given = self.state.workers[lease.worker], self.ledger.leases[lease.number]
        item = Started(lease.number, lease.job, given.tasks)
        self.ask(Reported(lease.worker, Report(machine.session, machine.reported + 1, [item])))

    @precondition(lambda self: self.state.leases)
    @rule(which=st.integers(0, 100), tasks=st.none() | TASKS, end=ENDS, code=st.sampled_from([0, 0, 1]))
    def work(self, which: int, tasks: Runs | None, end: Any, code: int) -> None:
        """An honest report of a current lease by its worker."""
        lease = list(self.state.leases.values())[which % len(self.state.leases)]
        machine = self.state.workers[lease.worker]
        all_tasks = runs_of(sorted(i for i, n in self.state.jobs[lease.job].active.items() if n == lease.number))
        item = Ended(lease.number, lease.job, tasks or all_tasks, end, code)
        command = Reported(lease.worker, Report(machine.session, machine.reported + 1, [item]))
        self.reports.append(command)
        self.ask(command)

    def item(self, data: st.DataObject) -> Started | Ended:
        leases = list(self.ledger.leases.values())
        lease = leases[-1 - data.draw(st.integers(0, min(len(leases), 8) - 1))]
        tasks: Runs = data.draw(st.just(lease.tasks) | TASKS)
        if data.draw(st.integers(0, 3)) == 0:
            return Started(lease.lease, lease.job, tasks)
        return Ended(lease.lease, lease.job, tasks, data.draw(ENDS), data.draw(st.sampled_from([0, 0, 1])))

    @precondition(lambda self: self.state.leases)
    @rule(worker=WORKERS, ms=st.sampled_from([1000, 15_000, 15_000, 60_000, 100_000]))
    def silent(self, worker: str, ms: int) -> None:
        self.ask(Silent(worker, ms))

    @precondition(lambda self: any(machine.state != "ready" for machine in self.state.workers.values()))
    @rule(worker=WORKERS)
    def heard(self, worker: str) -> None:
        self.ask(Heard(worker))

    @rule(capacity=st.booleans())
    def advance(self, capacity: bool) -> None:
        for _ in range(50):
            if not self.ask(Advance(capacity)):
                return
        raise AssertionError("it never comes to an end")

    @rule(ms=st.sampled_from([1, 999, 1000, 60_000]))
    def wait(self, ms: int) -> None:
        self.now += ms

    # What must hold

    @rule()
    def restart(self) -> None:
        """Replay: the log folds to the live state, and life goes on from there."""
        again = self.folded(self.log)
        assert normal(again) == normal(self.state)
        self.state = again

    @rule(cut=st.integers(0, 10_000))
    def snapshot(self, cut: int) -> None:
        """Any cut: a prefix through the snapshot's form, then the rest, is the whole."""
        cut %= len(self.log) + 1
        again = load(save(self.folded(self.log[:cut])))
        again = self.folded(self.log[cut:], again)
        assert normal(again) == normal(self.state)
        self.state = again

    def folded(self, log: list[bytes], state: Pool | None = None) -> Pool:
        state = state or Pool("p")
        for data in log:
            model.fold(state, catalog.decode(data))
        return state

    @precondition(lambda self: self.last is not None)
    @rule()
    def redeliver(self) -> None:
        """Idempotence: a command that comes twice adds nothing (one for so many more tasks is meant anew, and so is
        one to do what is due by now).
        """
        again = self.last
        if not (isinstance(again, Advance) or (isinstance(again, Place) and again.room >= 0)):
            if isinstance(again, Submit | CancelJob):
                again = msgspec.structs.replace(again, known=self.known())
            assert self.decide(again) == []

    @precondition(lambda self: self.reports)
    @rule(which=st.integers(0, 10_000))
    def redeliver_report(self, which: int) -> None:
        """A report that was recorded adds nothing, ever."""
        command = self.reports[which % len(self.reports)]
        machine = self.state.workers[command.worker]
        if command.report.session == machine.session and command.report.sequence <= machine.reported:
            assert self.decide(command) == []

    @precondition(lambda self: self.ledger.leases)
    @rule(which=st.integers(0, 10_000), end=ENDS, code=st.integers(0, 1))
    def report_of_the_past(self, which: int, end: Any, code: int) -> None:
        """Final is final: what is said of an attempt that is neither current nor to be taken back changes nothing."""
        lease = list(self.ledger.leases.values())[which % len(self.ledger.leases)]
        machine = self.state.workers[lease.worker]
        tasks = self.ledger.jobs[lease.job].tasks
        past = [
            index
            for index in range(lease.tasks[0], lease.tasks[-1] + 1)
            if tasks[index].state in FINAL or tasks[index].lease != lease.lease
        ]
        if not past:
            return
        before = normal(self.state)
        items: list[ReportItem] = [Ended(lease.lease, lease.job, runs_of(past), end, code)]
        events = self.ask(Reported(lease.worker, Report(machine.session, machine.reported + 1, items)))
        assert {type(event).__name__ for event in events} == {"WorkerReported", "TasksLate"}
        for old in before["saved"]:
            if isinstance(old, tuple) and old[0] == "jobs":
                assert old in normal(self.state)["saved"]

    @invariant()
    def sound(self) -> None:
        model.check(self.state)

    @invariant()
    def books_agree(self) -> None:
        """Agreement: the model, the books and the board count the same."""
        open_jobs = {name for name, job in self.ledger.jobs.items() if not job.state}
        assert self.state.jobs.keys() == open_jobs == self.board.open.keys()
        assert not self.board.strays
        for name, job in self.state.jobs.items():
            books, shown = self.ledger.jobs[name], self.board.open[name]
            assert len(job.active) == books.count("leased") == shown.leased + shown.running
            assert len(job.running) == sum(task.running for task in books.tasks) == shown.running
            assert job.succeeded == books.count("succeeded") == shown.succeeded
            assert job.failed == books.count("failed") == shown.failed
            assert job.dropped == books.count("cancelled") == shown.cancelled
            waiting = len(job.retry) + len(job.delayed) + job.count - job.next
            assert waiting == books.count("queued") == shown.queued()
        for name, machine in self.state.workers.items():
            assert (machine.used_cpus, machine.used_memory) == self.ledger.used(name)
            books = self.ledger.used_gpus(name)
            assert {uuid: (held.milli, held.memory) for uuid, held in machine.gpus.items()} == books
            assert all(milli <= 1000 and memory <= 4 * GIB for milli, memory in books.values()), "given twice"
            assert self.board.workers[name].leased == len(self.ledger.held_by(name))
            assert self.board.workers[name].state == machine.state

    def teardown(self) -> None:
        assert normal(self.folded(self.log)) == normal(self.state)


TestPools = Pools.TestCase
