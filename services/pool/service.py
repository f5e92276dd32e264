"""The pool's service: what comes in over NATS becomes commands for the writer; what it folded becomes answers.

Every control plane subscribes and parks polls; only the one that leads decides and answers. Nothing is answered before
the writer says that what the answer rests on is in the log (see `services.writer`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from events import protocol
from events.base import JobId, WorkerId
from events.catalog import AnyEvent, pool_subject, position_text
from events.job import JobFinished, JobSubmitted
from events.pool import WriterLed
from events.protocol import POLL_S_MAX, Cancel, Denied, Orders, Output, Piece, Poll, Recorded, Report
from events.task import TasksLeased
from events.worker import WorkerLost, WorkerRegistered, WorkerStopped
from infra.index import Index
from infra.link import Link, LinkDown
from infra.outputs import Outputs
from services.pool import commands, model, plan
from services.pool.commands import (
    Accepted,
    Advance,
    Answer,
    Busy,
    CancelJob,
    Greet,
    Heard,
    Outcome,
    Past,
    Place,
    Refused,
    RefusedAnswer,
    Reported,
    Silent,
    Submit,
    command_subject,
    pack,
)
from services.pool.liveness import Liveness
from services.pool.orders import OrderBook
from services.pool.output import OutputDesk
from services.pool.state import Pool, ShapeKey
from services.pool.worker import stale_leases
from services.writer import Item, Log, Snapshots, Turn, Writer

TICK_S = 0.25
INDEX_NOTES_MAX = 2000
INDEX_LAG_MAX = 2000
RESERVED_ORDER = 0

_log = structlog.get_logger()


class PoolModel:
    """The pool's rules as the writer hosts them."""

    refused: type[Exception] = Refused

    def __init__(self, pool: str, version: str) -> None:
        self.subject, self._pool, self._version = pool_subject(pool), pool, version

    def initial(self) -> Pool:
        return Pool(self._pool)

    def decide(self, state: Pool, command: Any, now: int) -> Sequence[AnyEvent]:
        return model.decide(state, command, now)

    def evolve(self, state: Pool, event: Any, at: int) -> None:
        model.evolve(state, event, at)

    def led(self, writer: str) -> AnyEvent:
        return WriterLed(self._pool, writer, self._version)


class Parked:
    """A poll that waits for its answer."""

    __slots__ = ("poll", "reply", "since")

    def __init__(self, reply: str, poll: Poll, since: float) -> None:
        self.reply, self.poll, self.since = reply, poll, since


class PoolService:
    """Hosts the pool's writer. `await run()` until cancelled."""

    def __init__(
        self,
        link: Link,
        log: Log,
        pool: str,
        *,
        book: OrderBook,
        index: Index,
        outputs: Outputs,
        snapshots: Snapshots[Pool],
        turn: Turn,
        name: str,
        version: str,
        clock: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._pool, self._book, self._index = link, pool, book, index
        self.writer: Writer[Pool] = Writer(log, PoolModel(pool, version), self, turn, snapshots, name, clock)
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._monotonic = monotonic
        self._liveness = Liveness(monotonic)
        self._desk = OutputDesk(outputs, self._send, self._is_current, self._when_certain)
        self._parked: dict[WorkerId, Parked] = {}
        self._due: dict[WorkerId, None] = {}
        self._idle: dict[WorkerId, None] = {}
        self._capacity = False
        self._notes = 0
        self.on_committed: Callable[[int], None] = lambda position: None

    async def run(self) -> None:
        """Serve until cancelled. Raises NewerFormat when the log was written by a newer version."""
        base = f"req.{self._pool}.*"
        subscriptions = [
            await self._link.subscribe(command_subject(self._pool), self._asked),
            await self._link.subscribe(f"{base}.next", self._polled),
            await self._link.subscribe(f"{base}.report", self._reported),
            await self._link.subscribe(f"{base}.output", self._output),
            await self._link.subscribe(f"hb.{self._pool}.*", self._heartbeat),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writer.run())
                group.create_task(self._tick())
                group.create_task(self._desk.run())
        finally:
            for subscription in subscriptions:
                subscription.close()
            self._index.discard()

    # What comes in

    def _asked(self, subject: str, reply: str, data: bytes) -> None:
        try:
            ask = commands.ask_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, pack(Busy("malformed", str(error))))
            return
        item = Item(ask.commands, partial(self._answer, reply), ask.by, ask.cause, ask.trace)
        if not self.writer.offer(item):
            self._send(reply, pack(Busy("queue_full", "too many commands wait; try again in a moment")))

    def _answer(self, reply: str, outcomes: list[Any], position: int) -> None:
        answers = [_outcome(outcome) for outcome in outcomes]
        self._send(reply, pack(Answer(position, answers)))

    def _polled(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        try:
            poll = protocol.poll_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        self._liveness.heard(worker)
        machine, parked = self.writer.state.workers.get(worker), Parked(reply, poll, self._monotonic())
        before = self._parked.get(worker)
        if before is not None and before.poll.session == poll.session and before.poll.sequence > poll.sequence:
            return  # overtaken on its way
        if self.writer.leads and poll.hello is None and machine is not None and machine.session != poll.session:
            # Not parked: an agent that was superseded must not push aside the one that took its place.
            self.writer.offer(Item((), partial(self._resync, worker, parked)))
            return
        self._parked[worker] = parked
        self._idle.pop(worker, None)
        if self.writer.leads:
            self._arrived(worker, parked)

    def _arrived(self, worker: WorkerId, parked: Parked) -> None:
        poll = parked.poll
        if poll.hello is None:
            self._due[worker] = None
            self.writer.poke()
            return
        greet = Greet(worker, poll.session, poll.hello)
        self.writer.offer(Item([greet], partial(self._greeted, worker, parked), f"worker:{worker}"))

    def _greeted(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        hello, machine = parked.poll.hello, self.writer.state.workers.get(worker)
        if isinstance(outcomes[0], Refused):
            self._reply_poll(worker, parked, protocol.pack(Denied(outcomes[0].code, outcomes[0].detail)))
            return
        if machine is None or machine.session != parked.poll.session:
            self._resync(worker, parked, outcomes, position)  # more is to be given up first, or superseded meanwhile
            return
        # What the agent holds and should not have is told with every hello, and needs no number.
        assert hello is not None
        stale = [Cancel(RESERVED_ORDER, job, lease) for job, lease in stale_leases(self.writer.state, worker, hello)]
        orders = self._book.orders(self.writer.state, worker, parked.poll.last, position, self._clock())
        self._reply_poll(worker, parked, protocol.pack(Orders([*stale, *orders])))

    def _reported(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        try:
            report: Report = protocol.report_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        self._liveness.heard(worker)
        item = Item([Reported(worker, report)], partial(self._recorded, reply), f"worker:{worker}")
        self.writer.offer(item)

    def _recorded(self, reply: str, outcomes: list[Any], position: int) -> None:
        refused = outcomes[0]
        answer = Denied(refused.code, refused.detail) if isinstance(refused, Refused) else None
        self._send(reply, protocol.pack(answer or Recorded(position_text(position))))

    def _output(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        try:
            output: Output = protocol.output_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        self._liveness.heard(worker)
        if self.writer.leads:
            self._desk.take(worker, reply, output)

    def _is_current(self, worker: WorkerId, piece: Piece) -> bool:
        lease, job = self.writer.state.leases.get(piece.lease), self.writer.state.jobs.get(piece.job)
        if lease is None or job is None or lease.worker != worker or lease.job != piece.job:
            return False
        return job.active.get(piece.index) == piece.lease

    def _when_certain(self, then: Callable[[], None]) -> None:
        """Call `then` once the state is known to be what the log says."""
        self.writer.offer(Item((), lambda outcomes, position: then()))

    def _heartbeat(self, subject: str, reply: str, data: bytes) -> None:
        self._liveness.heard(subject.split(".")[2])

    # What goes out

    def _send(self, reply: str, data: bytes) -> None:
        if not reply:
            return
        try:
            self._link.send(reply, data)
        except LinkDown:
            return  # whoever asked asks again

    def _reply_poll(self, worker: WorkerId, parked: Parked, data: bytes) -> None:
        if self._parked.get(worker) is parked:
            del self._parked[worker]
            self._idle.pop(worker, None)
        self._send(parked.reply, data)

    def _tell(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        orders = self._book.orders(self.writer.state, worker, parked.poll.last, position, self._clock())
        self._reply_poll(worker, parked, protocol.pack(Orders(orders)))

    def _tell_nothing(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        machine = self.writer.state.workers.get(worker)
        if machine is not None and machine.session == parked.poll.session:
            self._tell(worker, parked, outcomes, position)
        else:
            self._resync(worker, parked, outcomes, position)

    def _resync(self, worker: WorkerId, parked: Parked, outcomes: list[Any], position: int) -> None:
        machine = self.writer.state.workers.get(worker)
        if machine is not None and parked.poll.session in machine.past:
            detail = "a newer agent uses this worker's identity; stop one of the two"
            self._reply_poll(worker, parked, protocol.pack(Denied("superseded", detail)))
        else:
            self._reply_poll(worker, parked, protocol.pack(Orders([], resync=True)))

    # What the writer asks of its host

    def behind(self, last: int) -> int:
        if self._index.position > last:
            self._index.clear()
        return self._index.position

    def prepare(self, item: Item) -> None:
        jobs = self.writer.state.jobs
        wanted: set[JobId] = set()
        for command in item.commands:
            if isinstance(command, Submit):
                wanted.update((command.fact.job, *command.fact.after))
            elif isinstance(command, CancelJob):
                wanted.add(command.job)
        wanted -= jobs.keys()
        if not wanted:
            return
        found = {name: Past(known.digest, known.state) for name, known in self._index.lookup(wanted).items()}
        item.commands = [_informed(command, found) for command in item.commands]

    def closing(self, now: int) -> Iterator[Item]:
        state = self.writer.state
        while self._capacity or state.releasable or (state.delays and state.delays[0][0] <= now):
            item = Item([Advance(self._capacity)], by="scheduler")
            yield item
            if item.outcomes[0] is not None:
                self._capacity = False
                break
        for worker in state.freed:
            if worker in self._parked:
                self._due[worker] = None
        state.freed.clear()
        while self._due:
            worker = next(iter(self._due))
            del self._due[worker]
            if worker not in self._parked:
                continue
            try:
                yield from self._serve(worker)
            except GeneratorExit:  # the message is full: this worker is the next message's first
                self._due[worker] = None
                raise
        if state.fresh:
            for worker in list(self._idle):
                if not state.fresh:
                    break
                yield from self._serve(worker)
            for key in state.fresh:
                state.shapes[key].stuck = not any(self._could_take(worker, key) for worker in self._idle)
            state.fresh.clear()

    def _serve(self, worker: WorkerId) -> Iterator[Item]:
        """Give a parked worker what there is for it, or leave it parked."""
        parked, state = self._parked[worker], self.writer.state
        poll, machine = parked.poll, state.workers.get(worker)
        if machine is None or machine.session != poll.session or machine.state in ("lost", "stopped"):
            if poll.hello is None:
                yield Item((), partial(self._resync, worker, parked))
            return
        if machine.state == "unreachable":
            yield Item([Heard(worker)], by="scheduler")
            yield Item((), partial(self._resync, worker, parked))
            return
        if poll.room and plan.has_room(machine, poll.ahead):
            yield Item([Place(worker, poll.room, poll.ahead)], by="scheduler")
        if self._book.pending(state, worker, poll.last):
            self._idle.pop(worker, None)
            yield Item((), partial(self._tell, worker, parked))
        elif poll.room and plan.has_room(machine, poll.ahead):
            self._idle[worker] = None
        else:
            self._idle.pop(worker, None)

    def _could_take(self, worker: WorkerId, shape: ShapeKey) -> bool:
        """Whether an idle worker has room for the shape: it left what only another machine may have."""
        poll, machine = self._parked[worker].poll, self.writer.state.workers[worker]
        return (
            machine.takes and machine.can_ever(shape) and plan.Room(machine, poll.room, poll.ahead).fits(*shape[1:]) > 0
        )

    def folded(self, event: AnyEvent, at: int) -> None:
        if isinstance(event, TasksLeased):
            if self.writer.leads:
                self._book.leased[event.lease] = event.tasks
        elif isinstance(event, JobSubmitted):
            self._index.note(event.job, event.digest, "")
            self._notes += 1
        elif isinstance(event, JobFinished):
            self._index.note(event.job, "", event.state)
            self._book.forget(event.job)
            self._notes += 1
        elif isinstance(event, (WorkerRegistered, WorkerLost, WorkerStopped)):
            self._capacity = True

    def committed(self, position: int) -> None:
        # Here and nowhere else: only now is everything that was noted also in the log.
        if self._notes >= INDEX_NOTES_MAX or position - self._index.position >= INDEX_LAG_MAX:
            self._index.commit(position)
            self._notes = 0
        self.on_committed(position)

    def leading(self) -> None:
        self._liveness.restart(worker.id for worker in self.writer.state.workers.values() if worker.known)
        self._capacity = True
        self._book.leased.clear()
        for worker, parked in self._parked.items():
            self._arrived(worker, parked)
        self._send(f"push.{self._pool}.all.poll", b"")

    def reset(self) -> None:
        self._index.discard()
        self._notes = 0
        self._due.clear()
        self._idle.clear()

    # What time brings

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._liveness.advance(self._link.connected)
            state, leads = self.writer.state, self.writer.leads
            expired = [name for name, p in self._parked.items() if self._monotonic() - p.since > POLL_S_MAX]
            if not leads:
                for worker in expired:
                    del self._parked[worker]
                continue
            for worker in expired:
                parked = self._parked[worker]
                parked.since = self._monotonic()
                self.writer.offer(Item((), partial(self._tell_nothing, worker, parked)))
            for worker, silent_ms in self._liveness.silent(state.workers.values()):
                self.writer.offer(Item([Silent(worker, silent_ms)], by="scheduler"))
            for worker in self._liveness.returned(state.workers.values()):
                if worker in self._parked:  # one that does not poll gets nothing anyway
                    self._due[worker] = None
                    self.writer.poke()
            if state.delays and state.delays[0][0] <= self._clock():
                self.writer.poke()


def _outcome(outcome: Any) -> Outcome:
    if isinstance(outcome, Refused):
        return RefusedAnswer(outcome.code, outcome.field, outcome.detail)
    return Accepted(existing=outcome is False)


def _informed(command: Any, found: dict[JobId, Past]) -> Any:
    if isinstance(command, Submit):
        names = (command.fact.job, *command.fact.after)
        return Submit(command.fact, {name: found[name] for name in names if name in found})
    if isinstance(command, CancelJob):
        return CancelJob(command.job, command.reason, found)
    return command
