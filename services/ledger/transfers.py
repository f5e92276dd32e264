"""The rules of transfers: who may pay whom, what there must be, and what becomes of one that waits. Pure."""

from collections.abc import Sequence
from typing import Literal

from events.ledger import (
    MINT,
    AccountId,
    Posting,
    TransferKind,
    TransferPending,
    TransferPosted,
    TransferVoided,
    pending_account,
)
from projections.ledger import Pending
from services.hosting import Refused
from services.ledger.commands import Expire, Past, PostPending, Transfer, VoidPending
from services.ledger.state import MICRO, Ledger, Rules

AMOUNT_MAX = 1_000_000_000 * MICRO
"""µCPT of one posting; exact as a JSON number everywhere."""
POSTINGS_MAX = 1000
"""Of one transfer: its fact fits in a message."""
PENDING_MS_MIN, PENDING_MS_MAX = 1000, 90 * 86_400_000
PENDING_PER_ACCOUNT_MAX = 1000

_ANY_OWN = frozenset({"user", "treasury", "fees"})
FLOWS: dict[TransferKind, tuple[frozenset[str], frozenset[str]]] = {
    "transfer": (frozenset({"user"}), frozenset({"user"})),
    "tip": (frozenset({"user"}), frozenset({"user"})),
    "refund": (frozenset({"user"}), frozenset({"user"})),
    "payout": (frozenset({"treasury", "fees"}), frozenset({"user", "treasury"})),
    "grant": (frozenset({"treasury", "mint"}), frozenset({"user"})),
    "issue": (frozenset({"mint", "treasury"}), frozenset({"treasury", "mint"})),
    "correction": (_ANY_OWN, _ANY_OWN),
    "closure": (frozenset({"user"}), frozenset({"treasury"})),
}
"""From which sort of account to which each kind of transfer goes."""

Facts = Sequence[TransferPosted | TransferPending | TransferVoided]


def cpt(amount: int) -> str:
    """µCPT as people read them, exactly: 1500000 is `1.5`."""
    sign, whole, rest = "-" if amount < 0 else "", abs(amount) // MICRO, abs(amount) % MICRO
    return f"{sign}{whole}.{rest:06}".rstrip("0").rstrip(".")


def check_same(known: Past, digest: str, id: str) -> None:
    """Raise Refused unless the id was used for the same body before."""
    if known.digest != digest:
        detail = f"{id} exists with different fields; use another id for another transfer"
        raise Refused("exists_with_different_fields", "id", detail)


def decide_transfer(state: Ledger, command: Transfer, now: int, rules: Rules) -> Facts:
    """Move money, or set it aside; nothing when it was done before."""
    if (known := command.known.get(command.transfer)) is not None:
        check_same(known, command.digest, command.transfer)
        return []
    _check_shape(command)
    if command.cites and command.cites not in command.known:
        raise Refused("unknown_cited", "cites", f"there is no {command.cites!r} to cite")
    if not command.pending_ms:
        check_funds(state, command.postings, rules)
        return [
            TransferPosted(
                command.transfer, command.kind, command.postings, command.digest, command.memo, command.cites
            )
        ]
    apart = pending_account(command.transfer)
    first = [Posting(posting.debit, apart, posting.amount) for posting in command.postings]
    then = [Posting(apart, posting.credit, posting.amount) for posting in command.postings]
    check_funds(state, first, rules)
    if state.books.waiting.get(first[0].debit, 0) >= PENDING_PER_ACCOUNT_MAX:
        detail = f"{PENDING_PER_ACCOUNT_MAX} transfers wait already; post or void one first"
        raise Refused("too_many_pending", "pending", detail)
    expires_at = now + command.pending_ms
    return [
        TransferPending(
            command.transfer, command.kind, first, then, expires_at, command.digest, command.memo, command.cites
        )
    ]


def _check_shape(command: Transfer) -> None:
    if not 1 <= len(command.postings) <= POSTINGS_MAX:
        raise Refused("bad_postings", "to", f"{len(command.postings)} postings; a transfer has 1 to {POSTINGS_MAX}")
    if command.pending_ms and not PENDING_MS_MIN <= command.pending_ms <= PENDING_MS_MAX:
        detail = (
            f"{command.pending_ms / 1000:g} s; a transfer waits {PENDING_MS_MIN // 1000} to {PENDING_MS_MAX // 1000} s"
        )
        raise Refused("bad_time_out", "pending", detail)
    payers, payees = FLOWS[command.kind]
    payer = command.postings[0].debit
    for posting in command.postings:
        if not 1 <= posting.amount <= AMOUNT_MAX:
            detail = f"{cpt(posting.amount)} CPT; from 0.000001 to {cpt(AMOUNT_MAX)}"
            raise Refused("bad_amount", "amount", detail)
        if posting.debit == posting.credit:
            raise Refused("same_account", "to", f"{posting.credit} cannot pay itself")
        if sort_of(posting.debit) not in payers or sort_of(posting.credit) not in payees:
            detail = f"no {command.kind} goes from {posting.debit} to {posting.credit}"
            raise Refused("bad_accounts", "to", detail)
        if command.pending_ms and posting.debit != payer:
            raise Refused("bad_accounts", "from", "a pending transfer has one payer")


def sort_of(account: AccountId) -> str:
    """`user`, `hold`, `pending`, `mint`, `treasury` or `fees`; "" when it is no account. Nobody's user account is empty."""
    sort, colon, name = account.partition(":")
    named = sort in ("user", "hold", "pending")
    return sort if named == bool(colon and name) and (named or account in ("mint", "treasury", "fees")) else ""


def check_funds(state: Ledger, postings: Sequence[Posting], rules: Rules) -> None:
    """Raise Refused unless each posting, in order, leaves no account but the mint below zero, and the mint within the
    supply.
    """
    books = state.books
    if len(postings) == 1:  # as nearly always
        ((debit, amount),) = ((posting.debit, posting.amount) for posting in postings)
        _check_one(debit, books.balance(debit) - amount, amount, rules)
        return
    after: dict[AccountId, int] = {}
    for posting in postings:
        debit, credit, amount = posting.debit, posting.credit, posting.amount
        left = after[debit] = after.get(debit, books.balance(debit)) - amount
        _check_one(debit, left, amount, rules)
        after[credit] = after.get(credit, books.balance(credit)) + amount


def _check_one(debit: AccountId, left: int, amount: int, rules: Rules) -> None:
    if left >= 0:
        return
    if debit != MINT:
        detail = f"{debit} has {cpt(left + amount)} CPT, {cpt(-left)} less than this takes"
        raise Refused("insufficient_funds", "amount", detail)
    if -left > rules.supply_cap:
        detail = f"there would be {cpt(-left)} CPT; the supply is capped at {cpt(rules.supply_cap)} (supply_cap_cpt)"
        raise Refused("supply_cap", "amount", detail)


def decide_post(state: Ledger, command: PostPending, now: int, rules: Rules) -> Facts:
    """Carry a pending transfer through; nothing when it was posted before."""
    pending = _pending(state, command, "posted")
    if pending is None:
        return []
    if now >= pending.expires_at:
        raise Refused("not_pending", "id", f"the transfer {command.transfer} has expired; it does not wait any more")
    postings = pending.then
    if command.amount:
        if len(postings) != 1 or not 1 <= command.amount <= postings[0].amount:
            detail = "a part can be posted of a transfer to one account only, and no more than what waits"
            raise Refused("bad_amount", "amount", f"{cpt(command.amount)} CPT; {detail}")
        postings = _part(pending, command.amount)
    return [TransferPosted(command.transfer, pending.kind, postings)]


def _part(pending: Pending, amount: int) -> list[Posting]:
    """`amount` to whom it was for, the rest back to who paid."""
    (then,), (first,) = pending.then, pending.postings
    part = [Posting(then.debit, then.credit, amount)]
    return part if amount == then.amount else [*part, Posting(then.debit, first.debit, then.amount - amount)]


def decide_void(state: Ledger, command: VoidPending) -> Facts:
    """Give back what was set aside; nothing when it was given back before."""
    pending = _pending(state, command, "voided")
    return [] if pending is None else [void(command.transfer, pending, "voided")]


def _pending(state: Ledger, command: PostPending | VoidPending, wanted: str) -> Pending | None:
    """The transfer that waits; None when it came to the end that is wanted. Raises Refused."""
    if (pending := state.books.pending.get(command.transfer)) is not None:
        return pending
    known = command.known.get(command.transfer)
    if known is None:
        raise Refused("unknown_transfer", "id", f"there is no transfer {command.transfer!r}")
    if known.state == wanted:
        return None
    how = {"posted": "was posted", "voided": "was voided", "expired": "has expired"}.get(known.state, known.state)
    raise Refused("not_pending", "id", f"the transfer {command.transfer} {how}; it does not wait any more")


def void(transfer: str, pending: Pending, reason: Literal["voided", "expired"]) -> TransferVoided:
    """The fact that gives back what a transfer set aside."""
    back = [Posting(posting.credit, posting.debit, posting.amount) for posting in pending.postings]
    return TransferVoided(transfer, reason, back)


def decide_expire(state: Ledger, command: Expire, now: int) -> Facts:
    """Void the transfer that waited longest beyond its time; asked again until there is none."""
    due = state.books.due
    if not due or due[0][0] > now:
        return []
    transfer = due[0][1]
    return [void(transfer, state.books.pending[transfer], "expired")]
