"""The ledger added up again from its messages alone, with everything checked that docs/ledger.md says always holds. Pure.

It shares no fold with the rest: it reads the bytes of the log with types of its own, so that what it finds is a proof of
what the others say, and so that a million entries take seconds.
"""

from collections.abc import Callable
from typing import Any

import msgspec

MINT = "mint"
OWN = frozenset({MINT, "treasury", "fees"})
NAMED = ("user:", "hold:", "pending:")
AMOUNT_MAX = 10**15


class _Posting(msgspec.Struct, gc=False):
    debit: str
    credit: str
    amount: int


class _Event(msgspec.Struct, gc=False):
    type: str
    transfer: str = ""
    postings: list[_Posting] = []
    then: list[_Posting] = []
    kind: str = ""
    cites: str = ""
    dispute: str = ""
    reason: Any = None


class _Decision(msgspec.Struct, gc=False):
    events: list[_Event]


class _Message(msgspec.Struct, gc=False):
    decisions: list[_Decision]


message_of = msgspec.json.Decoder(_Message).decode


class Wrong(Exception):
    """What always holds does not: at which position, and what."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"at position {position}: {what}")
        self.position, self.what = position, what


class Audit:
    """Feed it messages in the order of the log. `balances` in µCPT; accounts that came to 0 are in it, too."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.entries = self.messages = self.events = self.position = 0
        self._ended: dict[str, str] = {}
        self._pending: dict[str, list[_Posting]] = {}
        self._disputes: dict[str, str] = {}
        self._checks: dict[str, Callable[[_Event], None]] = {
            "transfer.posted": self._posted,
            "transfer.pending": self._set_aside,
            "transfer.voided": self._voided,
            "dispute.opened": self._opened,
        }

    def add(self, position: int, data: bytes | memoryview) -> None:
        """One message. Raises Wrong, also for bytes that are no message."""
        if position <= self.position:
            raise Wrong(position, f"it comes after position {self.position}")
        self.position = position
        try:
            message = message_of(data)
        except msgspec.DecodeError as error:
            raise Wrong(position, f"it cannot be read: {error}") from None
        checks, move = self._checks, self._move
        for decision in message.decisions:
            for event in decision.events:
                # Before the money moves: what a transfer that waited must empty is there until then.
                if (check := checks.get(event.type)) is not None:
                    check(event)
                if event.postings:
                    move(event.postings)
                self.events += 1
        self.messages += 1

    def _move(self, postings: list[_Posting]) -> None:
        balances = self.balances
        for posting in postings:
            debit, credit, amount = posting.debit, posting.credit, posting.amount
            if not 0 < amount <= AMOUNT_MAX:
                raise Wrong(self.position, f"{amount} is no amount")
            left = balances.get(debit, 0) - amount
            if left < 0 and debit != MINT:
                raise Wrong(self.position, f"{debit} has {left} µCPT")
            if credit not in balances or debit not in balances:
                self._check_accounts(debit, credit)
            balances[debit] = left
            balances[credit] = balances.get(credit, 0) + amount
        self.entries += len(postings)

    def _check_accounts(self, *accounts: str) -> None:
        for account in accounts:
            if account not in OWN and not (account.startswith(NAMED) and account.partition(":")[2]):
                raise Wrong(self.position, f"{account!r} is no account")

    def _posted(self, event: _Event) -> None:
        name = event.transfer
        if (before := self._ended.get(name)) is not None:
            raise Wrong(self.position, f"the transfer {name} was {before}")
        self._ended[name] = "posted"
        if (waited := self._pending.pop(name, None)) is not None:
            self._check_emptied(name, event.postings, waited)
        if event.kind == "correction" and name.startswith("dispute:"):
            disputed = self._disputes.get(name.removeprefix("dispute:"))
            if disputed != event.cites:
                raise Wrong(self.position, f"{name} cites {event.cites!r}; what was disputed is {disputed!r}")

    def _set_aside(self, event: _Event) -> None:
        name, apart = event.transfer, f"pending:{event.transfer}"
        if name in self._ended or name in self._pending:
            raise Wrong(self.position, f"the transfer {name} began twice")
        if any(posting.credit != apart for posting in event.postings):
            raise Wrong(self.position, f"{name} sets its money aside elsewhere")
        if any(posting.debit != apart for posting in event.then) or _sum(event.then) != _sum(event.postings):
            raise Wrong(self.position, f"{name} is to pay something else than it set aside")
        self._pending[name] = event.postings

    def _voided(self, event: _Event) -> None:
        name = event.transfer
        waited = self._pending.pop(name, None)
        if waited is None:
            raise Wrong(self.position, f"the transfer {name} was given back and did not wait")
        self._ended[name] = str(event.reason)
        self._check_emptied(name, event.postings, waited)
        if [(one.credit, one.amount) for one in event.postings] != [(one.debit, one.amount) for one in waited]:
            raise Wrong(self.position, f"{name} was given back to somebody else")

    def _check_emptied(self, name: str, postings: list[_Posting], waited: list[_Posting]) -> None:
        if any(one.debit != f"pending:{name}" for one in postings) or _sum(postings) != _sum(waited):
            raise Wrong(self.position, f"{name} does not empty what it set aside")

    def _opened(self, event: _Event) -> None:
        if event.dispute in self._disputes:
            raise Wrong(self.position, f"the dispute {event.dispute} was opened twice")
        self._disputes[event.dispute] = event.cites

    def finish(self) -> dict[str, int]:
        """What each account has that has anything. Raises Wrong."""
        if total := sum(self.balances.values()):
            raise Wrong(self.position, f"all accounts add up to {total} µCPT")
        left = {account: balance for account, balance in self.balances.items() if balance}
        apart = {account.removeprefix("pending:") for account in left if account.startswith("pending:")}
        if apart != self._pending.keys():
            raise Wrong(
                self.position, f"what waits is not what is set aside: {sorted(apart ^ self._pending.keys())[:5]}"
            )
        return left


def _sum(postings: list[_Posting]) -> int:
    return sum(posting.amount for posting in postings)


class _Line(msgspec.Struct, gc=False):
    position: int
    message: msgspec.Raw


class Head(msgspec.Struct, frozen=True, gc=False):
    """The first line of an export: its format, and the position that it goes up to."""

    hive_ledger: int
    last: int


FORMAT = 1
_encode = msgspec.json.Encoder().encode
_line_of = msgspec.json.Decoder(_Line).decode
_head_of = msgspec.json.Decoder(Head).decode


def head_line(last: int) -> bytes:
    """The first line of an export that goes up to `last`."""
    return _encode(Head(FORMAT, last)) + b"\n"


def export_line(position: int, data: bytes | memoryview) -> bytes:
    """A message as a line of an export: as it is on the log, what is sealed in it stays so."""
    return b'{"position":%d,"message":%b}\n' % (position, bytes(data))


def head_of(line: bytes) -> Head:
    """The first line. Raises msgspec.DecodeError when it is none of an export."""
    return _head_of(line)


def add_line(audit: Audit, line: bytes) -> None:
    """Add a line of an export. Raises Wrong."""
    try:
        found = _line_of(line)
    except msgspec.DecodeError as error:
        raise Wrong(audit.position, f"the line after it cannot be read: {error}") from None
    audit.add(found.position, memoryview(found.message))
