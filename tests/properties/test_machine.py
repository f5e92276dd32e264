"""The worker's machine against a platform that loses answers, repeats orders and cancels, and an agent that is killed.

After every step: what runs fits the machine, nothing was started twice in a session, every task that was taken in is
either held or in exactly one recorded end, and reports come in order.
"""

from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from events.base import expand, runs_of
from events.protocol import Cancel, Ended, Hello, Order, Orders, Report, Run, Started
from events.spec import Input, TaskText
from events.task import Detail
from events.worker import Capacity
from worker.machine import needs_preparing, step
from worker.messages import (
    Adopted,
    Answered,
    Began,
    Done,
    End,
    Forget,
    Freed,
    Kill,
    Ordered,
    Quit,
    Save,
    Saved,
    Send,
    Slept,
    Start,
    Stimulus,
    Stop,
    Tick,
)
from worker.state import State, holding, next_poll

JOBS = ("j1", "j2")
COUNT = 6
CPUS = 2000
MEMORY = 100
HELLO = Hello("boot", Capacity(CPUS, MEMORY), "1", "nonce")
PLAIN = TaskText(command=["true"])
WITH_INPUTS = TaskText(command=["true"], inputs=[Input("a", job="j9")])

Task = tuple[int, int]


class Machine(RuleBasedStateMachine):
    """One worker, its disk, and a platform that remembers what it said."""

    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.sessions = 0
        self.number = 0
        self.disk: dict[int, list[Ended]] = {}
        self.orders: list[Order] = []
        self.recorded: dict[Task, Ended] = {}
        self.leased: set[Task] = set()
        self.given_up: set[Task] = set()
        self.keeper: dict[Task, Run] = {}
        """What runs, or whose end is not on disk yet: it outlives the agent."""
        self.ended: dict[Task, End] = {}
        """How those ended that have."""
        self.taken_before: set[int] = set()
        """Orders that earlier sessions took in."""
        self._agent()

    def _agent(self) -> None:
        self.sessions += 1
        self.state = State(f"s{self.sessions}", HELLO, dict(self.disk))
        self.processes: dict[Task, Run] = {}
        self.settling: set[Task] = set()
        self.run_before: set[Task] = set()
        self.killed: set[Task] = set()
        self.save: Save | None = None
        self.sent: Report | None = None
        self.sequence = 0
        self.quit = False
        self.taken: set[int] = set()

    def _tell(self, stimulus: Stimulus) -> None:
        if self.quit:
            return
        for one in step(self.state, stimulus):
            if isinstance(one, Start):
                key = (one.order.number, one.index)
                assert key not in self.run_before, "run twice in a session"
                assert key not in self.recorded, "run after its end was recorded"
                assert not any(key[0] == e.lease and key[1] in expand(e.tasks) for b in self.disk.values() for e in b)
                self.run_before.add(key)
                self.processes[key] = one.order
                if not needs_preparing(one.order):
                    self.keeper[key] = one.order
            elif isinstance(one, Kill):
                assert (one.lease, one.index) in self.processes or (one.lease, one.index) in self.settling
                assert (one.lease, one.index) not in self.killed, "killed twice"
                self.killed.add((one.lease, one.index))
            elif isinstance(one, Save):
                assert self.save is None, "one save at a time"
                self.save = one
            elif isinstance(one, Send):
                assert self.sent is None, "one report at a time"
                assert one.report.sequence == self.sequence + 1
                self.sequence += 1
                self._check_report(one.report)
                self.sent = one.report
            elif isinstance(one, Forget):
                for batch in one.batches:
                    self.disk.pop(batch, None)
            elif isinstance(one, Quit):
                self.quit = True
                assert self.state.idle()

    def _check_report(self, report: Report) -> None:
        on_disk = {(e.lease, i) for batch in self.disk.values() for e in batch for i in expand(e.tasks)}
        for item in report.items:
            for index in expand(item.tasks):
                if isinstance(item, Started):
                    assert (item.lease, index) in self.run_before
                elif item.details:
                    assert (item.lease, index) in on_disk, "reported before it was saved"

    # The platform

    @rule(
        job=st.sampled_from(JOBS),
        tasks=st.sets(st.integers(0, COUNT - 1), min_size=1),
        cpus=st.sampled_from((0, 500, 1000, 2000, 3000)),
        memory=st.sampled_from((0, 40, 100)),
        kind=st.sampled_from(("process", "process", "noop")),
        text=st.sampled_from((PLAIN, WITH_INPUTS)),
    )
    def lease(self, job: str, tasks: set[int], cpus: int, memory: int, kind: Any, text: TaskText) -> None:
        self.number += 1
        self.orders.append(Run(self.number, job, runs_of(sorted(tasks)), 1, kind, COUNT, text, cpus, memory))
        self.leased |= {(self.number, index) for index in tasks}

    @rule(job=st.sampled_from(JOBS))
    def cancel(self, job: str) -> None:
        self.number += 1
        self.orders.append(Cancel(self.number, job))

    @rule(repeat=st.booleans(), resync=st.booleans())
    def poll(self, repeat: bool, resync: bool) -> None:
        """An answer arrives; `repeat`: one that was sent before, which a lost answer makes likely."""
        poll = next_poll(self.state, self.now)
        if poll.hello is not None:
            self._greet(poll.hello)
        last = 0 if repeat else poll.last
        orders = [said for order in self.orders if order.number > last and (said := self._said(order))]
        if resync and poll.hello is None:
            self._tell(Ordered(Orders(resync=True), self.now))
        elif not self.quit:
            self.taken |= {order.number for order in orders}
            self._tell(Ordered(Orders(orders), self.now, poll.hello is not None))

    def _greet(self, hello: Hello) -> None:
        """What a new session does not hold is lost: given to others under another number."""
        held = {(one.lease, index) for one in hello.holding for index in expand(one.tasks)}
        self.given_up |= {
            key
            for key in self.leased - held - self.recorded.keys()
            if key[0] in self.taken_before and key[0] not in self.taken
        }

    def _said(self, order: Order) -> Order | None:
        """An order as the platform says it now: only for what is still leased under it."""
        if not isinstance(order, Run):
            return order
        keys = [(order.number, index) for index in expand(order.tasks)]
        left = [key[1] for key in keys if key not in self.recorded and key not in self.given_up]
        return msgspec.structs.replace(order, tasks=runs_of(left)) if left else None

    @precondition(lambda self: self.sent is not None)
    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        """The report is recorded; its answer may be lost, then the same comes again."""
        assert self.sent is not None
        for item in self.sent.items:
            if isinstance(item, Ended):
                assert not item.details or len(item.details) == len(list(expand(item.tasks)))
                for index in expand(item.tasks):
                    key = (item.lease, index)
                    before = self.recorded.get(key)
                    assert before is None or before.end == item.end, "two different ends"
                    self.recorded[key] = Ended(item.lease, item.job, [index, index], item.end)
        if not lost:
            sent, self.sent = self.sent, None
            self._tell(Answered(sent.sequence, self.now))

    # The machine's shell

    def _some(self, data: st.DataObject, keys: Any) -> Task:
        return data.draw(st.sampled_from(sorted(keys)))

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), later=st.booleans(), code=st.sampled_from((0, 0, 1)))
    def ends(self, data: st.DataObject, later: bool, code: int) -> None:
        key = self._some(data, self.processes)
        order = self.processes.pop(key)
        if needs_preparing(order) and code:
            self.keeper.pop(key, None)
            self._tell(Done([End(*key, "rejected", 0, "no input")], self.now))
            return
        self.keeper[key] = order
        end = "cancelled" if key in self.killed and not later else "exit"
        self.ended[key] = End(*key, end, code, detail=Detail(wall_ms=code))
        self._ends(key, later)

    def _ends(self, key: Task, later: bool) -> None:
        if later:
            self.settling.add(key)
            self._tell(Freed(*key, self.now))
        else:
            self._tell(Done([self.ended[key]], self.now))

    @precondition(lambda self: self.settling)
    @rule(data=st.data())
    def settles(self, data: st.DataObject) -> None:
        key = self._some(data, self.settling)
        self.settling.discard(key)
        self._tell(Done([self.ended[key]], self.now))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        key = self._some(data, self.processes)
        self.keeper[key] = self.processes[key]
        self._tell(Began(*key, self.now))

    @precondition(lambda self: self.save is not None)
    @rule()
    def saves(self) -> None:
        assert self.save is not None
        save, self.save = self.save, None
        self.disk[save.batch] = save.items
        for ended in save.items:
            for index in expand(ended.tasks):
                self.keeper.pop((ended.lease, index), None)
        self._tell(Saved(save.batch, self.now))

    @rule(ms=st.sampled_from((1, 30, 60, 700, 2100)))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self._tell(Tick(self.now))

    @rule(kill=st.booleans())
    def stop(self, kill: bool) -> None:
        self._tell(Stop(self.now, kill))

    @rule(ms=st.sampled_from((-10_000, 100, 7000)), jump=st.sampled_from((0, -3000, 100_000)))
    def sleeps(self, ms: int, jump: int) -> None:
        """The machine was suspended, or its clock is another one afterwards."""
        self.now = max(0, self.now + jump)
        self._tell(Slept(ms, self.now))

    @rule(saved=st.booleans(), rebooted=st.booleans(), later=st.booleans())
    def killed_and_started_again(self, saved: bool, rebooted: bool, later: bool) -> None:
        """What was being saved may be on disk or not; what ran goes on, unless the machine was."""
        if saved and self.save is not None:
            self.disk[self.save.batch] = self.save.items
        self.taken_before |= self.taken
        self._agent()
        if rebooted:
            self.keeper, self.ended = {}, {}
            return
        self._tell(Adopted([(order, index, self.now) for (_, index), order in self.keeper.items()], self.now))
        for key, order in list(self.keeper.items()):
            if key not in self.state.running:
                del self.keeper[key]  # its end is on disk
                continue
            self.run_before.add(key)
            self.processes[key] = order
            if key in self.ended:
                del self.processes[key]
                self._ends(key, later)

    # What always holds

    @invariant()
    def fits(self) -> None:
        if not hasattr(self, "state"):
            return
        orders = [attempt.order for attempt in self.state.running.values()]
        assert sum(order.cpus_milli for order in orders) == self.state.used_cpus <= CPUS
        assert sum(order.memory_bytes for order in orders) == self.state.used_memory <= MEMORY
        assert self.state.running.keys() == self.processes.keys()
        assert self.state.settling.keys() == self.settling

    @invariant()
    def nothing_is_forgotten(self) -> None:
        if not hasattr(self, "state") or self.quit:
            return
        held = {(one.lease, index) for one in holding(self.state) for index in expand(one.tasks)}
        for order in self.orders:
            if isinstance(order, Run) and order.number in self.taken:
                for index in expand(order.tasks):
                    key = (order.number, index)
                    if key in self.given_up:
                        continue
                    assert key in held or key in self.recorded, f"{key} was taken in and is nowhere"
        total = sum(len(list(expand(one.tasks))) for one in holding(self.state))
        assert total == len(held), "held twice"


TestMachine = Machine.TestCase
