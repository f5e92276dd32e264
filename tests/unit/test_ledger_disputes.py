"""The rules of disputes, one by one."""

import pytest

from events.ledger import DisputeOpened, DisputeRuled, Posting, TransferPosted
from services.ledger.commands import OpenDispute, RuleDispute
from services.ledger.disputes import OPEN_PER_USER_MAX
from tests.ledger_support import Told, transfer

OPEN = OpenDispute("d1", "ada", "t1", 30, "user:bob")


@pytest.fixture
def told() -> Told:
    told = Told().rich(ada=100)
    told.ask(transfer("t1", "ada", ("bob", 30)))
    return told


def test_one_upheld_is_made_good_by_an_entry_that_cites_the_original(told: Told) -> None:
    assert told.ask(OPEN) == [DisputeOpened("d1", "ada", "t1", None, 30, "user:bob")]
    transfer_, ruling = told.ask(RuleDispute("d1", "upheld"))
    assert transfer_ == TransferPosted("dispute:d1", "correction", [Posting("user:bob", "user:ada", 30)], cites="t1")
    assert ruling == DisputeRuled("d1", "upheld", "dispute:d1")
    told.has(ada=100, bob=0)
    assert told.ask(RuleDispute("d1", "upheld")) == []
    told.refused(RuleDispute("d1", "rejected"), "dispute_closed")
    assert told.ask(OPEN) == [], "a payment is disputed once"


def test_a_part_may_be_given_back_from_the_treasury(told: Told) -> None:
    told.ask(transfer("i", "mint", ("treasury", 50), kind="issue"))
    told.ask(OPEN)
    told.refused(RuleDispute("d1", "upheld", 31), "bad_amount")
    told.refused(RuleDispute("d1", "upheld", source="mint"), "bad_accounts")
    told.refused(RuleDispute("d1", "upheld", source="user:ada"), "bad_accounts")
    told.ask(RuleDispute("d1", "upheld", 10, "treasury"))
    told.has(ada=80, bob=30)


def test_who_has_it_no_more_cannot_give_it_back(told: Told) -> None:
    told.ask(OPEN)
    told.ask(transfer("t2", "bob", ("cy", 30)))
    told.refused(RuleDispute("d1", "upheld"), "insufficient_funds")
    assert "d1" in told.state.books.disputes


def test_what_went_through_a_hold_comes_from_the_treasury(told: Told) -> None:
    told.ask(transfer("i", "mint", ("treasury", 50), kind="issue"))
    told.ask(OpenDispute("d1", "ada", "t1", 30, "hold:p/j1"))
    told.ask(RuleDispute("d1", "upheld"))
    told.has(ada=100, bob=30)


@pytest.mark.parametrize("ruling", ["rejected", "withdrawn"])
def test_other_rulings_move_nothing(told: Told, ruling: str) -> None:
    told.ask(OPEN)
    assert told.ask(RuleDispute("d1", ruling)) == [DisputeRuled("d1", ruling)]  # pyright: ignore[reportArgumentType]
    told.has(ada=70, bob=30)
    told.refused(RuleDispute("d1", "upheld"), "dispute_closed")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (OpenDispute("d1", "ada", "t9", 30, "user:bob"), "unknown_cited"),
        (OpenDispute("d1", "ada", "t1", 0, "user:bob"), "bad_amount"),
        (OpenDispute("d1", "ada", "t1", 30, "bob"), "bad_accounts"),
        (RuleDispute("d9", "upheld"), "unknown_dispute"),
    ],
)
def test_what_is_wrong_is_refused(told: Told, wrong: object, code: str) -> None:
    told.refused(wrong, code)


def test_one_user_has_so_many_open(told: Told) -> None:
    told.state.books.open_disputes["ada"] = OPEN_PER_USER_MAX
    told.refused(OPEN, "too_many_disputes")
