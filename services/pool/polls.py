"""Polls that wait for orders: which workers to look at, and what they are told.

A worker is `due` when it has just polled or its capacity changed, and `idle` when it was looked at and nothing fitted;
when a shape has new work, the idle ones are looked at, once.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from events.base import WorkerId
from events.protocol import POLL_S_MAX, Cancel, Denied, Orders, Poll
from services.hosting import Item, Refused
from services.pool import plan
from services.pool.commands import Greet, Heard, Place
from services.pool.orders import OrderBook
from services.pool.state import Pool, ShapeKey, Worker
from services.pool.worker import SUPERSEDED, TWO_MACHINES, is_contested, is_superseded, stale_leases
from services.writer import Writer

LOOKS_MAX = 1000
"""At so many shapes (or classes of them), each for one worker, one pass looks for those that are due, and as often for
those that are idle: some milliseconds.
"""
UNNUMBERED = 0
"""The number of an order that rides on every answer to a hello and is carried out each time."""


class Parked:
    """A poll that waits for its answer."""

    __slots__ = ("poll", "reply", "since")

    def __init__(self, reply: str, poll: Poll, since: float) -> None:
        self.reply, self.poll, self.since = reply, poll, since


class PollDesk:
    """The parked polls of one pool. Every control plane parks them; the one that leads answers, with `say(worker, reply,
    poll, answer)`.
    """

    def __init__(
        self,
        writer: Writer[Pool],
        book: OrderBook,
        say: Callable[[WorkerId, str, Poll, Orders | Denied], None],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._writer, self._book, self._say = writer, book, say
        self._clock, self._monotonic = clock, monotonic
        self._parked: dict[WorkerId, Parked] = {}
        self._due: OrderedDict[WorkerId, None] = OrderedDict()  # a dict is slow at giving its first away
        self._idle: dict[WorkerId, None] = {}
        # Shapes with new work that idle ones are looked at for, those still to be looked at, and the shapes of which
        # one of them left what it could take (to another machine).
        self._sought: set[ShapeKey] = set()
        self._looking: deque[WorkerId] = deque()
        self._round = False  # whether all idle ones are to be looked at (again)
        self._spared: set[ShapeKey] = set()

    def take(self, worker: WorkerId, parked: Parked) -> None:
        """Park a poll that just came, in the place of the worker's earlier one."""
        poll, machine = parked.poll, self._writer.state.workers.get(worker)
        before = self._parked.get(worker)
        if before is not None and before.poll.session == poll.session and before.poll.sequence > poll.sequence:
            return  # overtaken on its way
        if self._writer.leads and machine is not None and _is_other(machine, poll):
            # Not parked: an agent that was superseded must not push aside the one that took its place.
            self._writer.offer(Item((), partial(self._resync, worker, parked)))
            return
        if (
            self._writer.leads
            and machine is not None
            and poll.hello
            and is_contested(machine, poll.session, poll.hello)
        ):
            self._arrived(worker, parked)  # not parked either
            return
        self._parked[worker] = parked
        self._idle.pop(worker, None)
        if self._writer.leads:
            self._arrived(worker, parked)

    def lead(self) -> None:
        """This control plane leads from now on: look at everything that was parked before."""
        for worker, parked in self._parked.items():
            self._arrived(worker, parked)

    def again(self, worker: WorkerId) -> None:
        """Look at this worker again, if it polls."""
        if worker in self._parked:
            self._due[worker] = None
            self._writer.poke()

    def reset(self) -> None:
        """Forget what was concluded from a state that is void."""
        self._due.clear()
        self._idle.clear()
        self._sought.clear()
        self._looking.clear()
        self._spared.clear()
        self._round = False

    def expire(self) -> None:
        """Answer the polls that waited for long enough, or forget them where another control plane leads."""
        now = self._monotonic()
        for worker in [name for name, parked in self._parked.items() if now - parked.since > POLL_S_MAX]:
            parked = self._parked[worker]
            if not self._writer.leads:
                del self._parked[worker]
                continue
            parked.since = now
            self._writer.offer(Item((), partial(self._tell_nothing, worker, parked)))

    def serve(self) -> Iterator[Item]:
        """What to ask the writer for the workers that are due, then for the idle ones if a shape has new work."""
        state = self._writer.state
        for worker in state.freed:
            if worker in self._parked:
                self._due[worker] = None
        state.freed.clear()
        looks = 0
        while self._due:
            if looks >= LOOKS_MAX:
                self._writer.poke()
                break
            worker, _ = self._due.popitem(last=False)
            if worker not in self._parked:
                continue
            looks += 1 + len(state.classes)
            try:
                yield from self._serve(worker)
            except GeneratorExit:  # the message is full: this worker is the next message's first
                self._due[worker] = None
                self._due.move_to_end(worker, last=False)
                raise
        yield from self._offer()

    def _offer(self) -> Iterator[Item]:
        """Look at the idle ones for the shapes with new work, LOOKS_MAX in a pass; the rest are the next pass's."""
        state, looks = self._writer.state, 0
        if state.fresh:
            self._sought |= state.fresh
            state.fresh.clear()
            self._round = True
        self._sought &= state.shapes.keys()
        while self._sought and (self._looking or self._round):
            if not self._looking:
                needs_cpus = all(cpus for _, cpus, _, _ in self._sought)
                self._looking.extend(self._idle if needs_cpus else self._parked)
                self._round = False
                continue
            if looks >= LOOKS_MAX:
                self._writer.poke()
                return
            worker = self._looking.popleft()
            looks += min(len(self._sought), len(state.classes))
            if not self._could_take(worker):
                continue
            try:
                yield from self._serve(worker)
            except GeneratorExit:
                self._looking.appendleft(worker)
                raise
            self._sought &= state.shapes.keys()
        for key in self._sought:
            state.shapes[key].stuck = key not in self._spared
        self._sought.clear()
        self._looking.clear()
        self._spared.clear()
        self._round = False

    def _serve(self, worker: WorkerId) -> Iterator[Item]:
        """Give a parked worker what there is for it, or leave it parked."""
        parked, state = self._parked[worker], self._writer.state
        poll, machine = parked.poll, state.workers.get(worker)
        if machine is None or machine.session != poll.session or machine.state in ("lost", "stopped"):
            if poll.hello is None:
                yield Item((), partial(self._resync, worker, parked))
            return
        if machine.state == "unreachable":
            yield Item([Heard(worker)], by="scheduler")
            yield Item((), partial(self._resync, worker, parked))
            return
        if plan.may_take(state, machine, _room(machine, poll)):
            yield Item([Place(worker, poll.room, poll.ahead, poll.gpus)], by="scheduler")
        if self._book.pending(state, worker, poll.last):
            self._idle.pop(worker, None)
            yield Item((), partial(self._tell, worker, parked))
        elif poll.room and plan.is_free(machine, poll.ahead):
            self._idle[worker] = None
            self._spare(_room(machine, poll))
        else:
            self._idle.pop(worker, None)

    def _spare(self, room: plan.Room) -> None:
        """What an idle worker with this room could take, and left to another machine, was not tried in vain: new work may
        be for it.
        """
        for key in plan.fitting(self._writer.state, room):
            shape = self._writer.state.shapes[key]
            if shape.stuck or key in self._sought:
                shape.stuck = False
                self._spared.add(key)

    def _could_take(self, worker: WorkerId) -> bool:
        """Whether a parked worker has room for a shape with new work."""
        state, parked = self._writer.state, self._parked.get(worker)
        machine = state.workers.get(worker)
        if parked is None or machine is None or not machine.takes:
            return False
        room = _room(machine, parked.poll)
        if len(self._sought) > len(state.classes):
            return next(plan.fitting(state, room), None) is not None
        return any(map(room.takes, self._sought))

    def _arrived(self, worker: WorkerId, parked: Parked) -> None:
        poll = parked.poll
        if poll.hello is None:
            self._due[worker] = None
            self._writer.poke()
            return
        greet = Greet(worker, poll.session, poll.hello)
        self._writer.offer(Item([greet], partial(self._greeted, worker, parked), f"worker:{worker}"))

    def _greeted(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        hello, machine = parked.poll.hello, self._writer.state.workers.get(worker)
        if isinstance(outcomes[0], Refused):
            self._reply_poll(worker, parked, Denied(outcomes[0].code, outcomes[0].detail))
            return
        assert hello is not None
        if machine is not None and is_contested(machine, parked.poll.session, hello):
            self._reply_poll(worker, parked, Denied("two_machines", TWO_MACHINES))
            return
        if machine is None or machine.session != parked.poll.session:
            self._resync(worker, parked, outcomes, position)  # more is to be given up first, or superseded meanwhile
            return
        # What the agent holds and should not have is told with every hello, and needs no number.
        stale = [Cancel(UNNUMBERED, job, lease) for job, lease in stale_leases(self._writer.state, worker, hello)]
        orders = self._book.orders(self._writer.state, worker, parked.poll.last, position, self._clock())
        self._reply_poll(worker, parked, Orders([*stale, *orders]))

    def _reply_poll(self, worker: WorkerId, parked: Parked, answer: Orders | Denied) -> None:
        if self._parked.get(worker) is parked:
            del self._parked[worker]
            self._idle.pop(worker, None)
        self._say(worker, parked.reply, parked.poll, answer)

    def _tell(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        orders = self._book.orders(self._writer.state, worker, parked.poll.last, position, self._clock())
        self._reply_poll(worker, parked, Orders(orders))

    def _tell_nothing(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        machine = self._writer.state.workers.get(worker)
        if machine is not None and machine.session == parked.poll.session:
            self._tell(worker, parked, outcomes, position)
        else:
            self._resync(worker, parked, outcomes, position)

    def _resync(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        machine = self._writer.state.workers.get(worker)
        if machine is not None and is_superseded(machine, parked.poll.session, parked.poll.hello):
            self._reply_poll(worker, parked, Denied("superseded", SUPERSEDED))
        else:
            self._reply_poll(worker, parked, Orders([], resync=True))


def _room(machine: Worker, poll: Poll) -> plan.Room:
    return plan.Room(machine, poll.room, poll.ahead, poll.gpus)


def _is_other(machine: Worker, poll: Poll) -> bool:
    """Whether the poll is of a session that is not open and is not to be opened."""
    if poll.hello is None:
        return machine.session != poll.session
    return is_superseded(machine, poll.session, poll.hello)
