"""The rules of transfers, one by one."""

import pytest

from events.ledger import Posting, TransferPending, TransferPosted, TransferVoided
from services.ledger import model
from services.ledger.commands import Expire, PostPending, Transfer, Twice, VoidPending
from services.ledger.state import MICRO, Rules, load, save
from services.ledger.transfers import (
    AMOUNT_MAX,
    PENDING_MS_MAX,
    PENDING_MS_MIN,
    PENDING_PER_ACCOUNT_MAX,
    POSTINGS_MAX,
    cpt,
    sort_of,
)
from tests.ledger_support import T0, Told, digest, grant, posted, refolded, transfer


@pytest.fixture
def told() -> Told:
    return Told().rich(ada=100, bob=10)


def test_a_transfer_moves_money(told: Told) -> None:
    (event,) = told.ask(transfer("t1", "ada", ("bob", 30)))
    assert event == TransferPosted("t1", "transfer", [Posting("user:ada", "user:bob", 30)], event.digest)  # pyright: ignore[reportAttributeAccessIssue]
    told.has(ada=70, bob=40)


def test_all_that_one_has_can_go_and_no_more(told: Told) -> None:
    refusal = told.refused(transfer("t1", "ada", ("bob", 101)), "insufficient_funds")
    assert refusal.detail == "user:ada has 0.0001 CPT, 0.000001 less than this takes"
    told.ask(transfer("t1", "ada", ("bob", 100)))
    told.has(ada=0, bob=110)
    assert "user:ada" not in told.state.books.balances, "what is empty takes no room"


def test_an_id_is_used_once_for_ever(told: Told) -> None:
    told.ask(transfer("t1", "ada", ("bob", 30)))
    assert told.ask(transfer("t1", "ada", ("bob", 30))) == []
    told.refused(transfer("t1", "ada", ("bob", 31)), "exists_with_different_fields")
    told.refused(transfer("t1", "bob", ("ada", 30)), "exists_with_different_fields")
    told.has(ada=70, bob=40)


def test_one_refused_may_be_asked_for_again_under_its_id(told: Told) -> None:
    told.refused(transfer("t1", "cy", ("bob", 5)), "insufficient_funds")
    told.ask(transfer("t0", "ada", ("cy", 5)))
    assert told.ask(transfer("t1", "cy", ("bob", 5)))


def test_linked_postings_go_all_or_none_in_order(told: Told) -> None:
    told.refused(transfer("t1", "ada", ("bob", 60), ("cy", 41)), "insufficient_funds")
    told.has(ada=100, bob=10, cy=0)
    through = Transfer(
        "t2", "transfer", [Posting("user:ada", "user:cy", 50), Posting("user:cy", "user:dan", 50)], digest("t2")
    )
    told.ask(through)
    told.has(ada=50, bob=10, cy=0, dan=50)
    backwards = Transfer(
        "t3", "transfer", [Posting("user:eve", "user:fay", 1), Posting("user:ada", "user:eve", 1)], digest("t3")
    )
    told.refused(backwards, "insufficient_funds")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (transfer("t", "ada"), "bad_postings"),
        (transfer("t", "ada", *[("bob", 1)] * (POSTINGS_MAX + 1)), "bad_postings"),
        (transfer("t", "ada", ("bob", 0)), "bad_amount"),
        (transfer("t", "ada", ("bob", -5)), "bad_amount"),
        (transfer("t", "ada", ("bob", AMOUNT_MAX + 1)), "bad_amount"),
        (transfer("t", "ada", ("ada", 5)), "same_account"),
        (transfer("t", "ada", ("treasury", 5)), "bad_accounts"),
        (transfer("t", "mint", ("ada", 5)), "bad_accounts"),
        (transfer("t", "ada", ("user:", 5)), "bad_accounts"),
        (transfer("t", "ada", ("hold:p/j", 5)), "bad_accounts"),
        (transfer("t", "ada", ("bob", 5), kind="payout"), "bad_accounts"),
        (transfer("t", "treasury", ("bob", 5), kind="payout"), "insufficient_funds"),
        (transfer("t", "ada", ("bob", 5), kind="refund", cites="t0"), "unknown_cited"),
        (transfer("t", "ada", ("bob", 5), pending_ms=PENDING_MS_MIN - 1), "bad_time_out"),
        (transfer("t", "ada", ("bob", 5), pending_ms=PENDING_MS_MAX + 1), "bad_time_out"),
        (PostPending("t"), "unknown_transfer"),
        (VoidPending("t"), "unknown_transfer"),
        (Twice("t"), "twice"),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(told: Told, wrong: object, code: str) -> None:
    before = save(told.state)
    told.refused(wrong, code)
    assert save(told.state) == before


def test_the_supply_is_capped() -> None:
    told = Told(Rules(supply_cap=100)).rich(ada=60)
    refusal = told.refused(grant("bob", 41), "supply_cap")
    assert "supply_cap_cpt" in refusal.detail
    told.ask(grant("bob", 40))
    assert told.state.books.supply == 100
    told.ask(transfer("t1", "ada", ("bob", 60)))
    told.has(bob=100)


def test_what_is_given_back_to_the_mint_may_be_issued_again() -> None:
    told = Told(Rules(supply_cap=100))
    told.ask(transfer("i1", "mint", ("treasury", 100), kind="issue"))
    told.refused(transfer("i2", "mint", ("treasury", 1), kind="issue"), "supply_cap")
    told.ask(transfer("i3", "treasury", ("mint", 40), kind="issue"))
    told.ask(transfer("i2", "mint", ("treasury", 1), kind="issue"))
    assert told.state.books.supply == 61


def test_a_pending_transfer_sets_money_aside_until_it_is_posted(told: Told) -> None:
    (event,) = told.ask(transfer("t1", "ada", ("bob", 30), ("cy", 5), pending_ms=5000))
    assert isinstance(event, TransferPending)
    assert event.expires_at == T0 + 5000
    told.has(ada=65, bob=10, cy=0)
    told.refused(transfer("t2", "ada", ("bob", 66)), "insufficient_funds")
    assert told.ask(transfer("t1", "ada", ("bob", 30), ("cy", 5), pending_ms=5000)) == []
    told.ask(PostPending("t1"))
    told.has(ada=65, bob=40, cy=5)
    assert told.ask(PostPending("t1")) == []
    told.refused(VoidPending("t1"), "not_pending")
    assert told.ask(transfer("t1", "ada", ("bob", 30), ("cy", 5), pending_ms=5000)) == [], "its id stays used"


def test_a_part_of_it_can_be_posted(told: Told) -> None:
    told.ask(transfer("t1", "ada", ("bob", 30), pending_ms=5000))
    told.refused(PostPending("t1", 31), "bad_amount")
    assert posted(told.ask(PostPending("t1", 10))) == [
        Posting("pending:t1", "user:bob", 10), Posting("pending:t1", "user:ada", 20)
    ]  # fmt: skip
    told.has(ada=90, bob=20)
    told.ask(transfer("t2", "ada", ("bob", 1), ("cy", 1), pending_ms=5000))
    told.refused(PostPending("t2", 1), "bad_amount")


def test_a_voided_one_gives_everything_back(told: Told) -> None:
    told.ask(transfer("t1", "ada", ("bob", 30), ("cy", 5), pending_ms=5000))
    (event,) = told.ask(VoidPending("t1"))
    assert isinstance(event, TransferVoided)
    assert event.reason == "voided"
    told.has(ada=100, bob=10, cy=0)
    assert told.ask(VoidPending("t1")) == []
    told.refused(PostPending("t1"), "not_pending")


def test_its_time_out_voids_it(told: Told) -> None:
    told.ask(transfer("t2", "ada", ("bob", 5), pending_ms=9000))
    told.ask(transfer("t1", "ada", ("bob", 30), pending_ms=5000))
    assert told.ask(Expire()) == []
    told.now += 4999
    assert told.ask(Expire()) == []
    told.now += 1
    refusal = told.refused(PostPending("t1"), "not_pending")
    assert "expired" in refusal.detail
    (event,) = told.ask(Expire())
    assert isinstance(event, TransferVoided)
    assert (event.transfer, event.reason) == ("t1", "expired")
    assert told.ask(Expire()) == []
    told.has(ada=95)
    told.refused(PostPending("t1"), "not_pending")
    told.refused(VoidPending("t1"), "not_pending")


def test_one_payer_has_so_many_waiting(told: Told) -> None:
    told.state.books.waiting["user:ada"] = PENDING_PER_ACCOUNT_MAX
    told.refused(transfer("t1", "ada", ("bob", 1), pending_ms=5000), "too_many_pending")
    told.state.books.waiting["user:ada"] = PENDING_PER_ACCOUNT_MAX - 1
    assert model.decide(told.state, transfer("t1", "ada", ("bob", 1), pending_ms=5000), T0, told.rules)


def test_a_snapshot_is_what_the_log_folds_to(told: Told) -> None:
    told.ask(transfer("t1", "ada", ("bob", 30), pending_ms=5000))
    told.ask(transfer("t2", "ada", ("bob", 30)))
    assert save(load(save(told.state))) == save(told.state) == save(refolded(told.log))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (1_500_000, "1.5"),
        (-1_500_000, "-1.5"),
        (10 * MICRO, "10"),
        (123_456_789, "123.456789"),
    ],
)
def test_amounts_as_people_read_them(amount: int, text: str) -> None:
    assert cpt(amount) == text


@pytest.mark.parametrize(
    ("account", "sort"),
    [
        ("user:ada", "user"), ("hold:p/j", "hold"), ("pending:t", "pending"), ("mint", "mint"), ("fees", "fees"),
        ("treasury", "treasury"), ("user:", ""), ("user", ""), ("", ""), ("mint:x", ""), ("bank", ""), (":", ""),
    ],
)  # fmt: skip
def test_what_is_an_account(account: str, sort: str) -> None:
    assert sort_of(account) == sort
