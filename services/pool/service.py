"""The pool's service: what comes in over NATS becomes commands for the writer; what it folded becomes answers.

Every control plane subscribes and parks polls; only the one that leads decides and answers. Nothing is answered before
the writer says that what the answer rests on is in the log (see `services.writer`).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from events import protocol
from events.base import JobId, WorkerId
from events.catalog import LEDGER_SUBJECT, AnyEvent, Mark, pool_subject, position_text
from events.job import JobFinished, JobSubmitted
from events.log import Log
from events.pool import WriterLed
from events.protocol import Asked, Denied, Output, Piece, Poll, Progress, Recorded, Report, Said, Verb
from events.task import TasksLeased
from events.worker import WorkerLost, WorkerRegistered, WorkerStopped
from infra.index import Index
from infra.link import Link, LinkDown
from infra.outputs import Outputs
from infra.report_archive import Record, ReportArchive
from infra.signing import Signed, split
from services.asking import AskDesk
from services.hosting import Item, Refused, Snapshots, Turn
from services.pool import commands, model, react
from services.pool.admission import Admission, Kind
from services.pool.client import ask_of, service_of
from services.pool.commands import Advance, CancelJob, ConfigureWorker, DrainWorker, Past, Reported, Silent, Submit
from services.pool.liveness import Liveness
from services.pool.orders import OrderBook
from services.pool.output import OutputDesk
from services.pool.polls import Parked, PollDesk
from services.pool.state import Pool
from services.pool.voice import UNSIGNED, UNVERIFIED, Voice
from services.reaction import Reaction
from services.writer import Writer

TICK_S = 0.25
INDEX_NOTES_MAX = 2000
INDEX_LAG_MAX = 2000
INDEX_EVENTS_MAX = 50_000
"""After so many notes, messages or events the index is stamped: a start feeds it what came after its stamp."""
SLOW_DOWN = "this worker sends more than the pool takes of one; wait a moment, longer each time, and send it again"

_log = structlog.get_logger()


class PoolModel:
    """The pool's rules as the writer hosts them."""

    refused: type[Exception] = Refused

    def __init__(self, pool: str, version: str, signing_key: str = "") -> None:
        self.subject, self._pool, self._version, self._key = pool_subject(pool), pool, version, signing_key

    def initial(self) -> Pool:
        return Pool(self._pool)

    def decide(self, state: Pool, command: Any, now: int) -> Sequence[AnyEvent]:
        return model.decide(state, command, now)

    def evolve(self, state: Pool, event: Any, at: int) -> None:
        model.evolve(state, event, at)

    def led(self, writer: str) -> AnyEvent:
        return WriterLed(self._pool, writer, self._version, self._key)

    def cursors(self, state: Pool) -> dict[str, Mark]:
        return state.cursors


class PoolService:
    """Hosts the pool's writer. `await run()` until cancelled."""

    def __init__(
        self,
        link: Link,
        log: Log,
        pool: str,
        *,
        voice: Voice,
        book: OrderBook,
        index: Index,
        outputs: Outputs,
        archive: ReportArchive,
        snapshots: Snapshots[Pool],
        turn: Turn,
        name: str,
        version: str,
        clock: Callable[[], int] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._pool, self._book, self._index = link, pool, book, index
        self._voice, self._archive = voice, archive
        self.writer: Writer[Pool] = Writer(log, PoolModel(pool, version, voice.key), self, turn, snapshots, name, clock)
        self._reaction = Reaction(log, LEDGER_SUBJECT, react.WANTED, self.writer.poke, "ledger")
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._monotonic = monotonic
        self._liveness = Liveness(monotonic)
        self._admission = Admission()
        self._desk = OutputDesk(outputs, self._say_of_output, self._is_current, self._may_return, self._when_certain)
        self._polls = PollDesk(self.writer, book, self._say_to_poll, self._clock, monotonic)
        # A drain may be taken back while nobody leads, so it is left to be asked again.
        self._asks: AskDesk[commands.Command] = AskDesk(
            link,
            service_of(pool),
            self.writer,
            ask_of,
            lambda command: not isinstance(command, DrainWorker | ConfigureWorker),
            monotonic,
        )
        self.near = self._asks.near
        self._capacity = False
        self._notes = self._events = self._unstamped = 0
        self.on_committed: Callable[[int, int], None] = lambda position, events: None
        self.on_flood: Callable[[WorkerId], None] = lambda worker: None
        """Told of a worker that goes on sending far more than is taken; again every few seconds while it does."""

    async def run(self) -> None:
        """Serve until cancelled. Raises NewerFormat when the log was written by a newer version."""
        base = f"req.{self._pool}.*"
        subscriptions = [
            await self._asks.listen(),
            await self._link.subscribe(f"{base}.next", self._polled),
            await self._link.subscribe(f"{base}.report", self._reported),
            await self._link.subscribe(f"{base}.output", self._output),
            await self._link.subscribe(f"hb.{self._pool}.*", self._heartbeat),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writer.run())
                group.create_task(self._reaction.run())
                group.create_task(self._tick())
                group.create_task(self._desk.run())
        finally:
            for subscription in subscriptions:
                subscription.close()
            self._index.discard()

    # What comes in

    def _admits(self, worker: WorkerId, kind: Kind, reply: str, size: int) -> bool:
        """Whether a message of `size` bytes is taken; what is not is answered here, or dropped. Nothing was decoded, so
        that the answer names no question and is not signed: it is a hint, and obeyed by nobody.
        """
        verdict = self._admission.admit(worker, kind, size, self._monotonic())
        if verdict == "take":
            return True
        if verdict == "slow_down" and self.writer.leads:
            self._send(reply, protocol.pack(Denied("slow_down", SLOW_DOWN)))
        elif verdict == "flood":
            _log.warning("pool.flood", worker=worker, kind=kind)
            self.on_flood(worker)
        return False

    def _polled(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        if not self._admits(worker, "poll", reply, len(data)):
            return
        signed = split(data)
        try:
            poll: Poll = protocol.poll_of(signed.body if signed is not None else data)
        except msgspec.DecodeError as error:
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        if poll.hello is not None and not self._admits(worker, "hello", reply, len(data)):
            return
        if poll.speaks < protocol.SPEAKS or (poll.hello is not None and signed is None):
            self._send(reply, protocol.pack(UNSIGNED))
            return
        if poll.hello is not None and signed is not None and not self._voice.signer_of(worker, "hello", signed):
            self._doubted("next", worker, reply, poll, len(data))
            return
        self._heard(worker, poll.session)
        self._polls.take(worker, Parked(reply, poll, self._monotonic()))

    def _reported(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        if not self._admits(worker, "report", reply, len(data)):
            return
        signed = split(data)
        try:
            report: Report = protocol.report_of(signed.body if signed is not None else data)
        except msgspec.DecodeError as error:
            self._admission.done(worker, "report")
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        key = self._voice.signer_of(worker, "report", signed) if signed is not None else ""
        if signed is None or not key:
            self._admission.done(worker, "report")
            self._doubted("report", worker, reply, report, len(data))
            return
        self._heard(worker, report.session)
        done = partial(self._recorded, worker, reply, report, signed, key)
        item = Item([Reported(worker, report, signed.digest)], done, f"worker:{worker}")
        if not (self.writer.leads and self.writer.offer(item)):
            self._admission.done(worker, "report")

    def _doubted(self, verb: Verb, worker: WorkerId, reply: str, asked: Asked, size: int) -> None:
        """It has not the signature of its worker: it changes nothing, and whoever goes on sending such floods."""
        if self._admission.blame(worker, size, self._monotonic()):
            self.on_flood(worker)
        elif self.writer.leads:
            self._answer(verb, worker, reply, asked, UNVERIFIED)

    def _recorded(
        self, worker: WorkerId, reply: str, report: Report, signed: Signed, key: str, outcomes: list[Any], position: int
    ) -> None:
        self._admission.done(worker, "report")
        refused = outcomes[0]
        if isinstance(refused, Refused):
            self._answer("report", worker, reply, report, Denied(refused.code, refused.detail))
            return
        # What was recorded before is here already, unless the process that did it died in between.
        if refused is None or not self._archive.has(signed.digest):
            self._archive.add(Record(position, self._pool, worker, key, signed.signature, signed.body), signed.digest)
        self._answer("report", worker, reply, report, Recorded(position_text(position)))

    def _output(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        if not self._admits(worker, "output", reply, len(data)):
            return
        try:
            output: Output = protocol.output_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, protocol.pack(Denied("malformed", str(error))))
            return
        self._heard(worker, output.session)
        if self.writer.leads:
            self._desk.take(worker, reply, output)

    def _is_current(self, worker: WorkerId, piece: Piece | Progress) -> bool:
        lease, job = self.writer.state.leases.get(piece.lease), self.writer.state.jobs.get(piece.job)
        if lease is None or job is None or lease.worker != worker or lease.job != piece.job:
            return False
        return job.active.get(piece.index) == piece.lease

    def _may_return(self, worker: WorkerId, piece: Piece) -> bool:
        """Whether the worker, thought lost, may still take this attempt back with its next hello."""
        job = self.writer.state.jobs.get(piece.job)
        retry = job.retry.get(piece.index) if job is not None else None
        return retry is not None and retry.worker == worker and retry.lease == piece.lease

    def _when_certain(self, then: Callable[[], None]) -> None:
        """Call `then` once the state is known to be what the log says."""
        self.writer.offer(Item((), lambda outcomes, position: then()))

    def _heartbeat(self, subject: str, reply: str, data: bytes) -> None:
        worker = subject.split(".")[2]
        if self._admits(worker, "heartbeat", "", len(data)):
            with contextlib.suppress(msgspec.DecodeError):
                self._heard(worker, protocol.heartbeat_of(data).session)

    def _heard(self, worker: WorkerId, session: str) -> None:
        """Something came from `worker`: from its open session, not from another machine that would have its place."""
        machine = self.writer.state.workers.get(worker)
        if machine is None or machine.session == session:
            self._liveness.heard(worker)

    # What goes out

    def _answer(self, verb: Verb, worker: WorkerId, reply: str, asked: Asked, answer: Said) -> None:
        """Say it, signed."""
        if reply:
            self._send(reply, self._voice.say(verb, worker, asked, answer))

    def _say_to_poll(self, worker: WorkerId, reply: str, poll: Poll, answer: Said) -> None:
        self._answer("next", worker, reply, poll, answer)

    def _say_of_output(self, worker: WorkerId, reply: str, output: Output, answer: Said) -> None:
        self._answer("output", worker, reply, output, answer)

    def _send(self, reply: str, data: bytes) -> None:
        if not reply:
            return
        try:
            self._link.send(reply, data)
        except LinkDown:
            return  # whoever asked asks again

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
        wanted = {name for name in wanted if name not in jobs}  # not `-=`, which would go through all jobs
        if not wanted:
            return
        found = {name: Past(known.digest, known.state) for name, known in self._index.lookup(wanted).items()}
        item.commands = [_informed(command, found) for command in item.commands]

    def closing(self, now: int) -> Iterator[Item]:
        yield from self._reaction.items()
        state = self.writer.state
        while self._capacity or state.releasable or _is_due(state, now):
            item = Item([Advance(self._capacity)], by="scheduler")
            yield item
            if item.outcomes[0] is not None:
                self._capacity = False
                break
        yield from self._polls.serve()

    def folded(self, event: AnyEvent, at: int) -> None:
        self._events += 1
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
            self._liveness.heard(event.worker)

    def committed(self, position: int) -> None:
        # Here and nowhere else: only now is everything that was noted also in the log.
        self._unstamped += self._events
        lag = position - self._index.position
        if self._notes >= INDEX_NOTES_MAX or lag >= INDEX_LAG_MAX or self._unstamped >= INDEX_EVENTS_MAX:
            self._index.commit(position)
            self._notes = self._unstamped = 0
        self.on_committed(position, self._events)
        self._events = 0

    def leading(self) -> None:
        self._liveness.restart(worker.id for worker in self.writer.state.workers.values() if worker.known)
        self._capacity = True
        self._book.leased.clear()
        self._reaction.leading(self.writer.state.cursors)
        self._polls.lead()
        self._asks.leading()
        self._send(f"push.{self._pool}.all.poll", b"")

    def reset(self) -> None:
        self._index.discard()
        self._notes = self._unstamped = 0
        self._reaction.reset()
        self._admission.reset()
        self._polls.reset()
        self._asks.reset()

    # What time brings

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._liveness.advance(self._link.connected)
            self._polls.expire()
            if not self.writer.leads:
                continue
            state = self.writer.state
            for worker, silent_ms in self._liveness.silent(state.workers.values()):
                self.writer.offer(Item([Silent(worker, silent_ms)], by="scheduler"))
            for worker in self._liveness.returned(state.workers.values()):
                self._polls.again(worker)
            if _is_due(state, self._clock()):
                self.writer.poke()


def _is_due(state: Pool, now: int) -> bool:
    """Whether a back-off is over, or what is held for a job nearly used up."""
    delays, meters = state.delays, state.meters
    return (bool(delays) and delays[0][0] <= now) or (bool(meters) and meters[0][0] <= now)


def _informed(command: Any, found: dict[JobId, Past]) -> Any:
    if isinstance(command, Submit):
        names = (command.fact.job, *command.fact.after)
        known = {name: found[name] for name in names if name in found}
        return msgspec.structs.replace(command, known=known)
    if isinstance(command, CancelJob):
        return CancelJob(command.job, found)
    return command
