"""The ledger's service: hosts the one writer of money, and knows every id that was ever used.

What comes in as commands is decided by `model`; an answer tells the position and what the payer has then.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from events.base import Event, UserId, WorkerId
from events.catalog import ACCOUNTS_SUBJECT, LEDGER_SUBJECT, AnyEvent, Mark, pool_subject
from events.ledger import (
    ChargePosted,
    DisputeOpened,
    DisputeRuled,
    LedgerLed,
    RewardPaid,
    TransferPending,
    TransferPosted,
    TransferVoided,
    user_account,
)
from events.log import Log
from infra.index import Index
from infra.link import Link
from services.asking import Ask, AskClient, AskDesk
from services.hosting import Item, Refused, Snapshots, Turn
from services.ledger import model, settlement
from services.ledger.commands import Command, Expire, Named, OpenDispute, Past, Transfer, Twice, id_of
from services.ledger.settlement import Settle
from services.ledger.state import Ledger, Rules
from services.reaction import Reaction
from services.writer import Writer

LEDGER = "ledger"
"""What the service is asked as, and what its beacon is called."""
TICK_S = 0.25
UNKNOWN_MS = 5000
"""So long after a worker's attempt ended it is waited for word of whose the worker is."""
INDEX_NOTES_MAX = 2000
INDEX_LAG_MAX = 2000
"""After so many notes or messages the index is stamped: a start feeds it what came after its stamp."""
LOOK_AHEAD_MAX = 512
"""Ids that the index is asked about at once."""
ask_of = msgspec.msgpack.Decoder(Ask[Command]).decode
LedgerClient = AskClient[Command]


class LedgerModel:
    """The ledger's rules as the writer hosts them."""

    subject = LEDGER_SUBJECT
    refused: type[Exception] = Refused

    def __init__(self, rules: Rules, version: str) -> None:
        self._rules, self._version = rules, version

    def initial(self) -> Ledger:
        return Ledger()

    def decide(self, state: Ledger, command: Any, now: int) -> Sequence[AnyEvent]:
        return model.decide(state, command, now, self._rules)

    def evolve(self, state: Ledger, event: Any, at: int) -> None:
        model.evolve(state, event, at)

    def cursors(self, state: Ledger) -> dict[str, Mark]:
        return state.cursors

    def led(self, writer: str) -> AnyEvent:
        return LedgerLed("main", writer, self._version)


class LedgerService:
    """Hosts the ledger's writer. `await run()` until cancelled."""

    def __init__(
        self,
        link: Link,
        log: Log,
        *,
        index: Index,
        snapshots: Snapshots[Ledger],
        turn: Turn,
        name: str,
        version: str,
        rules: Rules,
        owner_of: Callable[[WorkerId], UserId | None] = lambda worker: "",
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._index = index
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self.writer: Writer[Ledger] = Writer(log, LedgerModel(rules, version), self, turn, snapshots, name, clock)
        self._desk: AskDesk[Command] = AskDesk(link, LEDGER, self.writer, ask_of, balance_of=self._balance_of)
        self.near = self._desk.near
        self._accounts = Reaction(log, ACCOUNTS_SUBJECT, model.REACT, self.writer.poke, LEDGER)
        self._pools = Reaction(log, pool_subject("*"), settlement.WANTED, self.writer.poke, LEDGER)
        self._owner_of = owner_of
        self._waits = False
        """Whether facts of a pool wait until it is known whose a worker is."""
        self._notes = self._events = self._ahead = 0
        self.on_committed: Callable[[int, int], None] = lambda position, events: None

    async def run(self) -> None:
        """Serve until cancelled. Raises NewerFormat when the log was written by a newer version."""
        subscription = await self._desk.listen()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writer.run())
                group.create_task(self._accounts.run())
                group.create_task(self._pools.run())
                group.create_task(self._tick())
        finally:
            subscription.close()
            self._index.discard()

    def _balance_of(self, command: Command) -> int | None:
        """What who pays by this has, now that it is in the log; None when nobody does."""
        if isinstance(command, Transfer) and command.postings:
            return self.writer.state.balance(command.postings[0].debit)
        if isinstance(command, OpenDispute):
            return self.writer.state.balance(user_account(command.user))
        return None

    # What the writer asks of its host

    def behind(self, last: int) -> int:
        if self._index.position > last:
            self._index.clear()
        return self._index.position

    def prepare(self, item: Item) -> None:
        if not self._ahead:
            self._look_ahead()
        self._ahead = max(0, self._ahead - 1)
        commands: list[Any] = []
        named: set[str] = set()
        for command in item.commands:
            wanted = _named_by(command)
            if not wanted:
                commands.append(command)
            elif wanted[0] in named:
                commands.append(Twice(wanted[0]))
            else:
                named.add(wanted[0])
                if found := self._index.lookup(wanted):
                    known = {name: Past(past.digest, past.state) for name, past in found.items()}
                    command = msgspec.structs.replace(command, known=known)
                commands.append(command)
        item.commands = commands

    def _look_ahead(self) -> None:
        """Ask the index about all that waits at once: one by one it would take longer than to decide."""
        names: list[str] = []
        for waiting in self.writer.waiting():
            for command in waiting.commands:
                names += _named_by(command)
            self._ahead += 1
            if len(names) >= LOOK_AHEAD_MAX:
                break
        self._index.prefetch(names)

    def closing(self, now: int) -> Iterator[Item]:
        due = self.writer.state.books.due
        while due and due[0][0] <= now:
            item = Item([Expire()], by=LEDGER)
            yield item
            if not item.outcomes or item.outcomes[0] is not None:
                break
        yield from self._accounts.items()
        self._waits = False
        for item in self._pools.items():
            if not item.at:
                commands = [self._settle(react, now) for react in item.commands]
                if None in commands:
                    self._waits = True
                    break
                item.commands = commands
            yield item

    def _settle(self, react: Any, now: int) -> Settle | None:
        """With what only who is who knows; None while it is to be waited for: who is paid must not depend on which of two
        logs is read first.
        """
        if isinstance(react, Settle):
            return react
        if getattr(react.event, "counted", None) is None:
            return Settle(react)
        owner = self._owner_of(react.event.worker)
        if owner is None or (not owner and now - react.at < UNKNOWN_MS):
            return None
        return Settle(react, owner)

    def folded(self, event: AnyEvent, at: int) -> None:
        self._events += 1
        for note in notes_of(event):
            self._index.note(*note)
            self._notes += 1

    def committed(self, position: int) -> None:
        # Here and nowhere else: only now is everything that was noted also in the log.
        if self._notes >= INDEX_NOTES_MAX or position - self._index.position >= INDEX_LAG_MAX:
            self._index.commit(position)
            self._notes = 0
        self.on_committed(position, self._events)
        self._events = 0

    def leading(self) -> None:
        self._accounts.leading(self.writer.state.cursors)
        self._pools.leading(self.writer.state.cursors)
        self._desk.leading()

    def reset(self) -> None:
        self._index.discard()
        self._notes = self._ahead = 0
        self._accounts.reset()
        self._pools.reset()
        self._desk.reset()

    # What time brings

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            due = self.writer.state.books.due
            if self.writer.leads and (self._waits or (due and due[0][0] <= self._clock())):
                self.writer.poke()


def _named_by(command: Any) -> list[str]:
    """The ids that must be known before it is decided: its own, then what it cites."""
    if not isinstance(command, Named):
        return []
    cites = command.cites if isinstance(command, Transfer | OpenDispute) else ""
    return [id_of(command), cites] if cites else [id_of(command)]


def notes_of(event: AnyEvent) -> Iterator[tuple[str, str, str]]:
    """What the index is to know by this event: id, digest of the body, and what became of it."""
    if (note := _NOTES.get(type(event))) is not None:
        yield note(event)


_NOTES: dict[type[Event], Callable[[Any], tuple[str, str, str]]] = {
    TransferPosted: lambda event: (event.transfer, event.digest, "posted"),
    TransferPending: lambda event: (event.transfer, event.digest, "pending"),
    TransferVoided: lambda event: (event.transfer, "", event.reason),
    ChargePosted: lambda event: (event.charge, "", "posted"),
    RewardPaid: lambda event: (event.reward, "", "paid"),
    DisputeOpened: lambda event: (event.dispute, "", "open"),
    DisputeRuled: lambda event: (event.dispute, "", event.ruling),
}
