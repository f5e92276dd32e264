"""What follows for the ledger when users come and go."""

from events.account import UserErased, UserRegistered
from events.catalog import ACCOUNTS_SUBJECT
from events.ledger import Posting, TransferPosted, TransferVoided
from services.hosting import React
from services.ledger.state import Rules
from tests.ledger_support import T0, Told, transfer


def came(user: str) -> React:
    return React(ACCOUNTS_SUBJECT, 7, T0, UserRegistered(user, ["user"]))


def went(user: str) -> React:
    return React(ACCOUNTS_SUBJECT, 8, T0, UserErased(user))


def test_a_new_user_is_given_the_grant_while_the_supply_lasts() -> None:
    told = Told(Rules(supply_cap=250, sign_up_grant=100))
    assert told.ask(came("ada")) == [
        TransferPosted("grant:ada", "grant", [Posting("mint", "user:ada", 100)])
    ]  # fmt: skip
    told.ask(came("bob"))
    assert told.ask(came("cy")) == []
    told.has(ada=100, bob=100, cy=0)


def test_without_a_grant_nothing_is_given() -> None:
    assert Told(Rules()).ask(came("ada")) == []


def test_what_an_erased_user_leaves_goes_to_the_treasury() -> None:
    told = Told().rich(ada=100, bob=10)
    told.ask(transfer("t1", "ada", ("bob", 30), ("cy", 5), pending_ms=5000))
    told.ask(transfer("t2", "bob", ("ada", 3), pending_ms=5000))
    voided, closed = told.ask(went("ada"))
    assert isinstance(voided, TransferVoided)
    assert (voided.transfer, voided.reason) == ("t1", "voided")
    assert closed == TransferPosted("closure:ada", "closure", [Posting("user:ada", "treasury", 100)])
    told.has(ada=0, bob=7)
    assert told.state.books.pending.keys() == {"t2"}


def test_one_who_had_nothing_leaves_nothing() -> None:
    assert Told().ask(went("ada")) == []
