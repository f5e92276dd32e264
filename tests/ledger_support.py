"""For tests of the ledger's rules: a ledger whose history is told by commands, checked after each, and an index of ids
as its service has one.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from events.base import Digest
from events.catalog import AnyEvent
from events.ledger import Posting, TransferKind, TransferPosted
from services.hosting import Refused
from services.ledger import model, state
from services.ledger.commands import Past, Transfer, id_of
from services.ledger.service import notes_of
from services.ledger.state import MICRO, Ledger, Rules

T0 = 1_790_000_000_000
RULES = Rules(supply_cap=1000 * MICRO)


def digest(*body: Any) -> Digest:
    """Some digest of a body."""
    return hashlib.sha256(repr(body).encode()).hexdigest()


def transfer(
    id: str, payer: str, *legs: tuple[str, int], kind: TransferKind = "transfer", pending_ms: int = 0, cites: str = ""
) -> Transfer:
    """A command that moves µCPT; accounts without a colon that are no names of the hive's own are users'."""
    postings = [Posting(_account(payer), _account(payee), amount) for payee, amount in legs]
    return Transfer(
        id, kind, postings, digest(kind, postings, pending_ms, cites), cites=cites, pending_ms=pending_ms
    )  # fmt: skip


def _account(name: str) -> str:
    return name if ":" in name or name in ("mint", "treasury", "fees") else f"user:{name}"


def grant(user: str, amount: int) -> Transfer:
    """The hive gives a user something."""
    return transfer(f"grant:{user}", "mint", (user, amount), kind="grant")


class Told:
    """A ledger and its log, as commands told it."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.state, self.log, self.now, self.rules = Ledger(), list[tuple[AnyEvent, int]](), T0, rules
        self.known: dict[str, Past] = {}

    def ask(self, command: Any) -> Sequence[AnyEvent]:
        """Decide and fold; the events. Raises Refused."""
        if hasattr(command, "known"):
            wanted = [id_of(command), getattr(command, "cites", "")]
            command = msgspec.structs.replace(command, known={w: self.known[w] for w in wanted if w in self.known})
        before = state.save(self.state)
        try:
            events = model.decide(self.state, command, self.now, self.rules)
        finally:
            assert state.save(self.state) == before, "decide changes nothing"
        for event in events:
            self.fold(event)
        return events

    def fold(self, event: AnyEvent) -> None:
        """Fold one event, as it will be folded from the log, and check everything."""
        event = msgspec.json.decode(msgspec.json.encode(event), type=type(event))
        model.evolve(self.state, event, self.now)
        for id, body, became in notes_of(event):
            known = self.known.get(id)
            self.known[id] = Past(body or (known.digest if known else ""), became)
        self.log.append((event, self.now))
        model.check(self.state)

    def refused(self, command: Any, code: str) -> Refused:
        """Ask what must be refused so."""
        with pytest.raises(Refused) as caught:
            self.ask(command)
        assert caught.value.code == code, caught.value
        return caught.value

    def has(self, **users: int) -> None:
        """Assert what users have, in µCPT."""
        assert {name: self.state.balance(f"user:{name}") for name in users} == users

    def rich(self, **users: int) -> "Told":
        """Grant to users."""
        for user, amount in users.items():
            self.ask(grant(user, amount))
        return self


def refolded(log: Sequence[tuple[AnyEvent, int]]) -> Ledger:
    """What the log comes to."""
    found = Ledger()
    for event, at in log:
        model.evolve(found, event, at)
    return found


def posted(events: Sequence[AnyEvent]) -> list[Posting]:
    """The postings of the one transfer that was posted."""
    (event,) = [event for event in events if isinstance(event, TransferPosted)]
    return event.postings
