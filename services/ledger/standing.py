"""What follows for the ledger when users come and go: the sign-up grant, and what an erased user leaves. Pure."""

from collections.abc import Sequence

from events.account import UserErased, UserRegistered
from events.ledger import MINT, TREASURY, Posting, TransferPosted, TransferVoided, user_account
from projections.ledger import Pending
from services.hosting import React, Refused
from services.ledger.state import Ledger, Rules
from services.ledger.transfers import check_funds, void

VOIDED_POSTINGS_MAX = 2000
"""Of one erased user, so that it fits in a message. What is beyond goes back to an account that nobody opens any more."""

Facts = Sequence[TransferPosted | TransferVoided]


def grant_of(user: str) -> str:
    """The id of the user's sign-up grant."""
    return f"grant:{user}"


def decide_registered(state: Ledger, command: React, rules: Rules) -> Facts:
    """Give a new user the sign-up grant; nothing when the supply is used up."""
    assert isinstance(command.event, UserRegistered)
    user, admin = command.event.user, "admin" in command.event.roles
    amount = max(rules.sign_up_grant, rules.admin_grant if admin else 0)
    if not amount:
        return []
    postings = [Posting(MINT, user_account(user), amount)]
    try:
        check_funds(state, postings, rules)
    except Refused:
        return []
    return [TransferPosted(grant_of(user), "grant", postings)]


def decide_erased(state: Ledger, command: React, rules: Rules) -> Facts:
    """Give back what waits of an erased user's, and all that is then its own to the treasury: nobody could ever spend it."""
    assert isinstance(command.event, UserErased)
    account = user_account(command.event.user)
    facts: list[TransferPosted | TransferVoided] = []
    left, room = state.balance(account), VOIDED_POSTINGS_MAX
    for transfer, pending in state.books.pending.items() if account in state.books.waiting else ():
        if pending.postings[0].debit == account and (room := room - len(pending.postings)) >= 0:
            facts.append(void(transfer, pending, "voided"))
            left += _amount(pending)
    if left:
        postings = [Posting(account, TREASURY, left)]
        facts.append(TransferPosted(f"closure:{command.event.user}", "closure", postings))
    return facts


def _amount(pending: Pending) -> int:
    return sum(posting.amount for posting in pending.postings)
