"""The one active writer of a subject, written once for every service.

Life: load (latest snapshot and the tail), follow until it seems that nobody leads, take the place with a guarded
append, lead until fenced, and again. A leading writer collects all commands that arrived while the last append was in
flight, decides them one after the other on its folded state, and appends one message with all their events.

What is not acknowledged is private: the folded state runs ahead of the log, so no answer leaves before the append
that carries its decision was acknowledged or, with nothing to append, a leader read has shown that the subject still
ends where this writer left it. Another writer's message fences this one: it forgets everything that was not
acknowledged, answers nothing, and loads again. Callers ask again; commands are idempotent.

What a service reacts to on another subject is consumed in the same append: the message that carries the decision says how
far its writer had read there (`Message.read`), so no fact is ever reacted to twice, or not at all (see services.reaction).

An append without a definite answer is sent again, the same bytes with the same guard, until the answer is definite; on
a conflict the first message after the guard tells by its id whether it was ours.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from events import catalog
from events.catalog import MESSAGE_BYTES_MAX, AnyEvent, Mark
from events.log import Conflict, Entry, Log, LogUnavailable, Unsettled
from services.hosting import Host, Item, Model, Snapshots, Turn

S = TypeVar("S")
QUEUE_COMMANDS_MAX = 50_000
MESSAGE_OVERHEAD = 2048
CURSOR_LAG_MAX = 5000
"""How far a cursor that leads to nothing runs ahead, in positions, of what the log says of it: so much is read again at a
start. Where there is something to append it rides on it.
"""
RETRY_S_MIN, RETRY_S_MAX = 0.02, 1.0

_log = structlog.get_logger()
_encode = catalog.encode
_START = Mark()


class _RawDecision(msgspec.Struct, gc=False, omit_defaults=True):
    events: list[msgspec.Raw]
    by: str = ""
    cause: str = ""
    trace: str = ""


class _RawMessage(msgspec.Struct, gc=False, omit_defaults=True):
    id: str
    at: int
    writer: str
    decisions: list[_RawDecision]
    read: dict[str, int] = {}
    part: dict[str, int] = {}


class Fenced(Exception):
    """Another writer appended to the subject."""


class Writer(Generic[S]):
    """Hosts one model on one subject of the log."""

    def __init__(
        self,
        log: Log,
        model: Model[S],
        host: Host,
        turn: Turn,
        snapshots: Snapshots[S],
        name: str,
        clock: Callable[[], int] | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._port, self._model, self._host, self._turn, self._snapshots = log, model, host, turn, snapshots
        self.name, self.state, self.position, self.leads = name, model.initial(), 0, False
        self.snapshot_position = 0
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._new_id = new_id or (lambda: secrets.token_hex(8))
        self._queue: deque[Item] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._at = 0
        self._raw: list[_RawDecision] = []
        self._size = 0
        self._consumed: dict[str, Mark] = {}
        """Of other subjects, further than the log says."""

    def offer(self, item: Item) -> bool:
        """Queue an item; False when the queue is full. What a writer that does not lead is offered is dropped."""
        if not self.leads:
            return True
        if self._queued >= QUEUE_COMMANDS_MAX:
            return False
        self._queue.append(item)
        self._queued += len(item.commands) or 1
        self._wake.set()
        return True

    def waiting(self) -> Iterable[Item]:
        """What was offered and is not decided, in order."""
        return self._queue

    def poke(self) -> None:
        """Ask for a round: the host has something to say in `closing`."""
        self._wake.set()

    async def run(self) -> None:
        """Load, follow, lead, and again, until cancelled."""
        while True:
            try:
                await self._load()
                await self._follow()
                await self._lead()
            except Fenced:
                _log.info("writer.fenced", subject=self._model.subject, writer=self.name, position=self.position)
            finally:
                if self.leads:
                    self._turn.leave()
                self.leads = False
                self._queue.clear()
                self._queued = 0
                self._consumed.clear()
            self._host.reset()

    async def _load(self) -> None:
        last = await self._patient(lambda: self._port.last(self._model.subject))
        self.position, self.state = self._snapshots.latest(last) or (0, self._model.initial())
        self.snapshot_position = self.position
        await self._go_on_from_its_time()
        behind = self._host.behind(last)
        if behind < self.position:
            await self._feed(behind)

    async def _go_on_from_its_time(self) -> None:
        """What is written next is never older than the message that the snapshot ends with."""
        if self.position:
            entry = await self._patient(lambda: self._port.get(self._model.subject, self.position))
            self._at = max(self._at, catalog.decode(entry.data).at if entry else 0)

    async def _feed(self, start: int) -> None:
        """Give the host's index the events between its own position and the snapshot's."""
        async for batch in self._port.read(self._model.subject, start + 1):
            for entry in batch:
                if entry.position <= self.position:
                    message = catalog.decode(entry.data)
                    for event in message.events():
                        self._host.folded(event, message.at)
                    self._host.committed(entry.position)
            if not batch or batch[-1].position >= self.position:
                return

    def _fold(self, entry: Entry) -> None:
        message = catalog.decode(entry.data)
        self._at = max(self._at, message.at)
        for event in message.events():
            self._model.evolve(self.state, event, message.at)
            self._host.folded(event, message.at)
        if message.read:
            self._model.cursors(self.state).update(message.marks())
        self.position = entry.position

    async def _follow(self) -> None:
        """Fold what is appended until nobody seems to lead and the end is reached, then take the place."""
        turn = asyncio.ensure_future(self._turn.wait())
        reader = self._port.read(self._model.subject, self.position + 1)
        more = asyncio.ensure_future(anext(reader))
        try:
            while True:
                await asyncio.wait((turn, more), return_when=asyncio.FIRST_COMPLETED)
                if more.done():
                    batch = more.result()
                    for entry in batch:
                        self._fold(entry)
                    if batch:
                        self._host.committed(self.position)
                    more = asyncio.ensure_future(anext(reader))
                    if batch:
                        await asyncio.sleep(0)
                        continue
                if turn.done():
                    turn.result()
                    if await self._take_place():
                        return
                    turn = asyncio.ensure_future(self._turn.wait())
        finally:
            turn.cancel()
            more.cancel()
            await asyncio.gather(turn, more, return_exceptions=True)
            await reader.aclose()

    async def _take_place(self) -> bool:
        try:
            if await self._port.last(self._model.subject) != self.position:
                return False
        except LogUnavailable:
            await asyncio.sleep(RETRY_S_MIN)
            return False
        led = self._model.led(self.name)
        self._at = max(self._at, self._clock())
        self._add([led], Item((), by=self.name))
        try:
            await self._append()
        except Fenced:
            self._raw, self._size = [], 0
            return False
        self._model.evolve(self.state, led, self._at)
        self._host.folded(led, self._at)
        self._host.committed(self.position)
        self.leads = True
        self._turn.take()
        self._host.leading()
        self._wake.set()
        _log.info("writer.leads", subject=self._model.subject, writer=self.name, position=self.position)
        return True

    async def _lead(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            done = self._collect()
            if self._raw or (self._consumed and self._is_overdue()):
                await self._append()
                self._host.committed(self.position)
            elif done:
                await self._confirm()
            for item in done:
                assert item.done is not None
                item.done(item.outcomes, self.position)
            await asyncio.sleep(0)

    def _collect(self) -> list[Item]:
        """Decide and fold what waits, until the message is full; the items that are through."""
        now = self._at = max(self._at, self._clock())
        done: list[Item] = []
        while self._queue:
            item = self._queue[0]
            if not item.at:
                self._host.prepare(item)
            if not self._decide(item, now):
                self._wake.set()
                return done
            self._queue.popleft()
            self._queued -= len(item.commands) or 1
            if item.done is not None:
                done.append(item)
        for item in self._host.closing(now):
            full = not self._decide(item, now)
            if item.source:
                self._consumed[item.source] = item.marks[item.at]
            if full:
                self._wake.set()
                break
            if item.done is not None:
                done.append(item)
        return done

    def _decide(self, item: Item, now: int) -> bool:
        """Decide an item's remaining commands; False when the message is full before its end."""
        commands, outcomes = item.commands, item.outcomes
        while item.at < len(commands):
            try:
                events = self._model.decide(self.state, commands[item.at], now)
            except self._model.refused as refusal:
                outcomes.append(refusal)
                item.at += 1
                continue
            if events and not self._add(events, item):
                if self._raw:
                    return False
                outcomes.append(self._model.refused("too_large", "", "what this leads to does not fit in one message"))
                item.at += 1
                continue
            for event in events:
                self._model.evolve(self.state, event, now)
                self._host.folded(event, now)
            outcomes.append(None if events else False)
            item.at += 1
        return True

    def _add(self, events: Sequence[AnyEvent], item: Item) -> bool:
        """Put the events into the open message, when they fit."""
        raw = [_encode(event) for event in events]
        size = sum(map(len, raw)) + len(raw)
        last = self._raw[-1] if self._raw else None
        if last is None or (last.by, last.cause, last.trace) != (item.by, item.cause, item.trace):
            last = _RawDecision([], item.by, item.cause, item.trace)
            size += len(_encode(last)) + 1
        if self._size + size > MESSAGE_BYTES_MAX - MESSAGE_OVERHEAD:
            return False
        self._size += size
        if not last.events:
            self._raw.append(last)
        last.events.extend(map(msgspec.Raw, raw))
        return True

    def _is_overdue(self) -> bool:
        """Whether a cursor ran so far ahead that the log is to say so."""
        said = self._model.cursors(self.state)
        return any(
            mark.position - said.get(subject, _START).position >= CURSOR_LAG_MAX
            for subject, mark in self._consumed.items()
        )

    async def _append(self) -> None:
        """Append the open message and move to its position. Raises Fenced."""
        message = _RawMessage(self._new_id(), self._at, self.name, self._raw)
        if self._consumed:
            message.read = {subject: mark.position for subject, mark in self._consumed.items()}
            message.part = {subject: mark.part for subject, mark in self._consumed.items() if mark.part}
            self._model.cursors(self.state).update(self._consumed)
            self._consumed.clear()
        data = _encode(message)
        self._raw, self._size = [], 0
        pause = RETRY_S_MIN
        while True:
            try:
                self.position = await self._port.append(self._model.subject, data, self.position)
                return
            except Unsettled as error:
                _log.warning("writer.unsettled", subject=self._model.subject, why=str(error))
            except Conflict:
                if position := await self._ours(message.id):
                    self.position = position
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_S_MAX)

    async def _ours(self, message_id: str) -> int:
        """Where our own message is, when it is the first one after the guard; 0 when nothing is there yet (a replicated
        log refuses before the rival message can be read). Raises Fenced when it is another's.
        """
        entry = await self._patient(lambda: self._port.get(self._model.subject, self.position + 1))
        if entry is None:
            return 0
        if catalog.decode(entry.data).id != message_id:
            raise Fenced
        return entry.position

    async def _confirm(self) -> None:
        """Make sure that the subject still ends where this writer left it. Raises Fenced."""
        if await self._patient(lambda: self._port.last(self._model.subject)) != self.position:
            raise Fenced

    async def _patient(self, ask: Callable[[], Any]) -> Any:
        pause = RETRY_S_MIN
        while True:
            try:
                return await ask()
            except LogUnavailable as error:
                _log.warning("writer.log_unavailable", subject=self._model.subject, why=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_S_MAX)
