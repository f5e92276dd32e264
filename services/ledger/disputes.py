"""The rules of disputes: a user holds that a payment was wrong, an admin rules, an entry that cites it makes it good. Pure."""

from collections.abc import Sequence

from events.ledger import TREASURY, DisputeOpened, DisputeRuled, Posting, TransferPosted, user_account
from services.hosting import Refused
from services.ledger.commands import OpenDispute, RuleDispute
from services.ledger.state import Ledger, Rules
from services.ledger.transfers import AMOUNT_MAX, check_funds, cpt, sort_of

OPEN_PER_USER_MAX = 100
SOURCES = frozenset({"user", "treasury", "fees"})

Facts = Sequence[DisputeOpened | DisputeRuled | TransferPosted]


def correction_of(dispute: str) -> str:
    """The id of the transfer that makes good what was disputed."""
    return f"dispute:{dispute}"


def decide_open(state: Ledger, command: OpenDispute) -> Facts:
    """Open a dispute; nothing when there is, or was, this one already."""
    if command.dispute in state.books.disputes or command.dispute in command.known:
        return []
    if command.cites not in command.known:
        raise Refused("unknown_cited", "cites", f"there is no {command.cites!r} to dispute")
    if not 1 <= command.amount <= AMOUNT_MAX:
        raise Refused("bad_amount", "amount", f"{cpt(command.amount)} CPT; from 0.000001 to {cpt(AMOUNT_MAX)}")
    if not sort_of(command.against):
        raise Refused("bad_accounts", "against", f"{command.against!r} is no account")
    if state.books.open_disputes.get(command.user, 0) >= OPEN_PER_USER_MAX:
        raise Refused("too_many_disputes", "", f"{OPEN_PER_USER_MAX} disputes are open already; wait for a ruling")
    return [
        DisputeOpened(command.dispute, command.user, command.cites, command.reason, command.amount, command.against)
    ]


def decide_rule(state: Ledger, command: RuleDispute, rules: Rules) -> Facts:
    """Rule on a dispute; nothing when it was ruled so before."""
    dispute = state.books.disputes.get(command.dispute)
    if dispute is None:
        known = command.known.get(command.dispute)
        if known is None:
            raise Refused("unknown_dispute", "id", f"there is no dispute {command.dispute!r}")
        if known.state == command.ruling:
            return []
        raise Refused("dispute_closed", "id", f"the dispute {command.dispute} was {known.state}; that is final")
    if command.ruling != "upheld":
        return [DisputeRuled(command.dispute, command.ruling, "", command.reason)]
    source, payee = command.source or _source(dispute.against), user_account(dispute.user)
    amount = command.amount or dispute.amount
    if not 1 <= amount <= dispute.amount:
        detail = f"{cpt(amount)} CPT; from 0.000001 to the {cpt(dispute.amount)} that is disputed"
        raise Refused("bad_amount", "amount", detail)
    if sort_of(source) not in SOURCES or source == payee:
        detail = f"{source!r} cannot make it good; use the account it is against, treasury or fees"
        raise Refused("bad_accounts", "source", detail)
    postings = [Posting(source, payee, amount)]
    check_funds(state, postings, rules)
    correction = correction_of(command.dispute)
    return [
        TransferPosted(correction, "correction", postings, cites=dispute.cites),
        DisputeRuled(command.dispute, "upheld", correction, command.reason),
    ]


def _source(against: str) -> str:
    """Who makes it good when nothing else is said: what went through a hold or the mint, the treasury."""
    return against if sort_of(against) in SOURCES else TREASURY
