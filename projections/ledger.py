"""What the ledger's facts come to: balances, transfers that wait, disputes that are open. The fold of `evt.ledger.main`.

Balances follow from the postings alone, whatever fact they stand in, so that a new kind of fact moves money without a
line here. `Books` is both what the ledger's writer decides on and what a reader is shown.
"""

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Any, cast

import msgspec

from events.base import Sealed, UserId
from events.catalog import AnyEvent, Unknown
from events.ledger import (
    MINT,
    AccountId,
    ChargePosted,
    DisputeId,
    DisputeOpened,
    DisputeRuled,
    HoldExtended,
    HoldId,
    HoldPlaced,
    HoldReleased,
    HoldShort,
    Posting,
    PricesSet,
    TransferId,
    TransferKind,
    TransferPending,
    TransferPosted,
    TransferVoided,
    user_account,
)
from projections import holds
from projections.holds import Hold

DUE_SPARE = 1000
"""Entries of the heap that may be of transfers which wait no more, beside as many as wait."""


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A transfer that waits: `postings` were made when it began, `then` are to come. `expires_at` in ms."""

    kind: TransferKind
    postings: list[Posting]
    then: list[Posting]
    expires_at: int
    at: int = 0
    memo: Sealed | None = None
    cites: str = ""


class Dispute(msgspec.Struct, frozen=True, gc=False):
    """An open dispute: who holds that `amount` µCPT went to `against` wrongly, by what is cited."""

    user: UserId
    cites: str
    amount: int
    against: AccountId
    opened_at: int
    reason: Sealed | None = None


class Books(msgspec.Struct):
    """Balances in µCPT; an account that is not there has 0. `open_disputes`: how many each user has."""

    balances: dict[AccountId, int] = {}
    pending: dict[TransferId, Pending] = {}
    waiting: dict[AccountId, int] = {}
    """How many pending transfers each account has paid into."""
    due: list[tuple[int, TransferId]] = []
    """When pending transfers expire: a heap whose first is one that waits; others in it may not wait any more."""
    disputes: dict[DisputeId, Dispute] = {}
    open_disputes: dict[UserId, int] = {}
    holds: dict[HoldId, Hold] = {}
    prices: PricesSet | None = None
    """The price list, None until one was set; `price_lists`: how many there were."""
    price_lists: int = 0
    entries: int = 0

    def balance(self, account: AccountId) -> int:
        """What stands on the account, µCPT."""
        return self.balances.get(account, 0)

    @property
    def supply(self) -> int:
        """µCPT that there are: what the mint gave out."""
        return -self.balances.get(MINT, 0)


def postings_of(event: AnyEvent | Unknown) -> list[Posting]:
    """What the fact moves."""
    return getattr(event, "postings", [])


def move(balances: dict[AccountId, int], postings: Iterable[Posting]) -> None:
    """Apply the postings. Accounts that come to 0 are left out, so that what is over takes no room."""
    for posting in postings:
        for account, amount in ((posting.debit, -posting.amount), (posting.credit, posting.amount)):
            if left := balances.get(account, 0) + amount:
                balances[account] = left
            else:
                balances.pop(account, None)


def _posted(books: Books, event: TransferPosted, at: int) -> None:
    if event.transfer in books.pending:
        _no_more_pending(books, event.transfer)


def _pending(books: Books, event: TransferPending, at: int) -> None:
    books.pending[event.transfer] = Pending(
        event.kind, event.postings, event.then, event.expires_at, at, event.memo, event.cites
    )
    payer = event.postings[0].debit
    books.waiting[payer] = books.waiting.get(payer, 0) + 1
    heappush(books.due, (event.expires_at, event.transfer))


def _voided(books: Books, event: TransferVoided, at: int) -> None:
    _no_more_pending(books, event.transfer)


def _no_more_pending(books: Books, transfer: TransferId) -> None:
    payer = books.pending.pop(transfer).postings[0].debit
    _one_less(books.waiting, payer)
    due = books.due
    while due and due[0][1] not in books.pending:
        heappop(due)
    if len(due) > DUE_SPARE + 2 * len(books.pending):
        due[:] = [one for one in due if one[1] in books.pending]
        heapify(due)


def _opened(books: Books, event: DisputeOpened, at: int) -> None:
    books.disputes[event.dispute] = Dispute(event.user, event.cites, event.amount, event.against, at, event.reason)
    books.open_disputes[event.user] = books.open_disputes.get(event.user, 0) + 1


def _ruled(books: Books, event: DisputeRuled, at: int) -> None:
    _one_less(books.open_disputes, books.disputes.pop(event.dispute).user)


def _one_less(counts: dict[str, int], name: str) -> None:
    if counts[name] == 1:
        del counts[name]
    else:
        counts[name] -= 1


def _prices(books: Books, event: PricesSet, at: int) -> None:
    books.prices = event
    books.price_lists += 1


_CHANGES: dict[type[Any], Callable[[Books, Any, int], None]] = {
    TransferPosted: _posted,
    TransferPending: _pending,
    TransferVoided: _voided,
    DisputeOpened: _opened,
    DisputeRuled: _ruled,
    PricesSet: _prices,
    HoldPlaced: holds.placed,
    HoldExtended: holds.extended,
    HoldShort: holds.short,
    ChargePosted: holds.charged,
    HoldReleased: holds.released,
}


def apply(books: Books, event: AnyEvent | Unknown, at: int) -> None:
    """Fold one event in, in place. `at` in ms."""
    postings: list[Posting] | None = getattr(event, "postings", None)
    if postings:
        move(books.balances, postings)
        books.entries += len(postings)
    change = _CHANGES.get(cast(type[Any], type(event)))
    if change is not None:
        change(books, event, at)


def check(books: Books) -> None:
    """Assert every invariant of the books; for tests and audits."""
    assert sum(books.balances.values()) == 0, "what one account has, another lacks"
    for account, balance in books.balances.items():
        assert balance > 0 or account == MINT, f"{account} has {balance}"
    waiting: dict[AccountId, int] = {}
    for transfer, pending in books.pending.items():
        held = sum(posting.amount for posting in pending.postings)
        assert books.balance(f"pending:{transfer}") == held == sum(posting.amount for posting in pending.then)
        payer = pending.postings[0].debit
        waiting[payer] = waiting.get(payer, 0) + 1
    assert waiting == books.waiting
    assert {name for _, name in books.due} >= books.pending.keys(), "each that waits expires some day"
    assert not books.due or books.due[0][1] in books.pending
    assert {a for a in books.balances if a.startswith("pending:")} == {f"pending:{one}" for one in books.pending}
    assert {a for a in books.balances if a.startswith("hold:")} <= {f"hold:{one}" for one in books.holds}
    for name, hold in books.holds.items():
        assert 0 <= hold.charged <= hold.total, name
    disputed: dict[UserId, int] = {}
    for dispute in books.disputes.values():
        disputed[dispute.user] = disputed.get(dispute.user, 0) + 1
    assert disputed == books.open_disputes


def user_balance(books: Books, user: UserId) -> int:
    """What the user can spend, µCPT."""
    return books.balance(user_account(user))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A posting in the history. `id`: of its fact, `n`: its place there; `number` orders all of them."""

    id: str
    n: int
    tag: str
    kind: str
    debit: AccountId
    credit: AccountId
    amount: int
    at: int
    cites: str
    memo: Sealed | None
    by: str
    number: int
