"""What is held for jobs and what they pay, through the models of both pool and ledger."""

from typing import Any

import pytest

from events.job import Cost, Retries
from events.ledger import ChargePosted, HoldExtended, HoldPlaced, HoldRefused, HoldReleased, HoldShort, Posting
from services.ledger.state import MICRO
from services.pool.commands import CancelJob
from tests.economy_support import Economy

COST = Cost(base=10, per_hour=3_600_000, hold=100_000, each_ms=60_000, prices="v1")
"""1 µCPT a ms, no time limit."""
LIMITED = Cost(base=10, per_hour=3_600_000, hold=20_020, each_ms=0)
"""For two tasks of at most 10 s."""


@pytest.fixture
def economy() -> Economy:
    made = Economy()
    made.grant("u1", 500_000)
    return made


def running(economy: Economy, count: int = 1, cost: Cost = COST, **more: Any) -> int:
    """A funded job at work: its lease."""
    economy.worker()
    economy.job("j1", count, cost=cost, **more)
    economy.sync()
    (lease,) = economy.place()
    economy.start(lease)
    return lease


def test_a_hold_is_set_aside_and_what_is_left_comes_back(economy: Economy) -> None:
    lease = running(economy)
    assert (economy.has("u1"), economy.held()) == (400_000, 100_000)
    (placed,) = economy.said(HoldPlaced)
    assert (placed.total, placed.prices, placed.cost, placed.cpus_milli) == (100_000, "v1", COST, 1000)
    economy.later(5000)
    economy.end(lease, wall_ms=3000)
    economy.sync()
    assert (economy.has("u1"), economy.held()) == (500_000 - 3010, 0)
    (released,) = economy.said(HoldReleased)
    assert released == HoldReleased("p/j1", 3010, [Posting("hold:p/j1", "user:u1", 96_990)])
    assert not economy.ledger.state.books.holds


def test_a_charge_says_what_it_rests_on(economy: Economy) -> None:
    lease = running(economy)
    economy.later(5000)
    economy.end(lease, wall_ms=9000)
    economy.hear_pool()
    (charge,) = economy.said(ChargePosted)
    assert (charge.charge, charge.hold, charge.lease, charge.worker) == (f"settle:j1:{lease}:0", "p/j1", lease, "w1")
    assert (charge.tasks, charge.end, charge.counted) == ([0, 0], "exit", 1)
    assert (charge.reported_ms, charge.counted_ms, charge.word, charge.price) == (9000, 5000, "platform", 5010)
    assert sum(posting.amount for posting in charge.postings if posting.credit == "fees") == 501


def test_who_has_too_little_is_refused_with_what_is_missing(economy: Economy) -> None:
    economy.job("j1", cost=Cost(0, 0, 500_001, 0))
    economy.sync()
    assert economy.said(HoldRefused) == [HoldRefused("p/j1", "u1", 500_001, 1)]
    assert "j1" not in economy.pool.state.jobs
    assert economy.has("u1") == 500_000


def test_two_that_race_for_the_same_money(economy: Economy) -> None:
    economy.job("j1", cost=Cost(0, 0, 300_000, 0))
    economy.job("j2", cost=Cost(0, 0, 300_000, 0))
    economy.sync()
    assert [*economy.pool.state.jobs] == ["j1"]
    assert economy.said(HoldRefused)[0].missing == 100_000


def test_a_job_that_is_over_before_the_ledger_hears_of_it_holds_nothing(economy: Economy) -> None:

    economy.job("j1", cost=COST)
    economy.tell(CancelJob("j1"))
    economy.sync()
    assert (economy.has("u1"), economy.held()) == (500_000, 0)


@pytest.mark.parametrize("end", ["lost", "rejected", "output_lost", "returned"])
def test_attempts_that_the_platform_failed_are_free(economy: Economy, end: Any) -> None:
    lease = running(economy)
    economy.later(5000)
    economy.end(lease, end)
    economy.finish()
    assert economy.has("u1") == 500_000


@pytest.mark.parametrize("end", ["exit", "oom", "timeout"])
def test_attempts_that_the_user_failed_are_paid(economy: Economy, end: Any) -> None:
    lease = running(economy)
    economy.later(5000)
    economy.end(lease, end, 1, 5000)
    economy.finish()
    assert economy.has("u1") == 500_000 - 5010


def test_each_end_is_charged_and_the_fee_is_a_share_of_the_whole(economy: Economy) -> None:
    lease = running(economy, 4)
    economy.later(60_000)
    for wall_ms in (3, 5, 7, 9):
        economy.end(lease, wall_ms=wall_ms, some=True)
    economy.sync()
    charges = economy.said(ChargePosted)
    assert [charge.charge for charge in charges] == [f"settle:j1:{lease}:{n}" for n in range(4)]
    assert sum(charge.price for charge in charges) == 40 + 24
    assert economy.has("fees") == 64 * 10 // 100


def test_fractions_of_several_charges_are_not_lost(economy: Economy) -> None:
    lease = running(economy, 4, Cost(0, 900_000, 100_000, 60_000))
    economy.later(60_000)
    for _ in range(4):
        economy.end(lease, wall_ms=3, some=True)
    economy.sync()
    assert [charge.price for charge in economy.said(ChargePosted)] == [0, 1, 1, 1]


# A job without a time limit


def test_a_hold_that_is_nearly_used_up_is_extended(economy: Economy) -> None:
    lease = running(economy)
    economy.later(80_000)
    economy.sync()
    assert economy.said(HoldExtended) == [HoldExtended("p/j1", 160_000, [Posting("user:u1", "hold:p/j1", 60_000)])]
    for _ in range(10):
        economy.later(20_000)
        economy.sync()
    economy.end(lease, wall_ms=280_000)
    economy.sync()
    assert economy.has("u1") == 500_000 - 280_010
    assert not economy.said(HoldShort)


def test_out_of_money_it_is_stopped_with_notice_and_what_ran_is_paid(economy: Economy) -> None:
    lease = running(economy)
    seconds = 0
    while not economy.said(HoldShort):
        seconds += 1
        economy.later(1000)
        economy.sync()
    assert 400 <= seconds <= 500
    assert economy.has("u1") < 60_000
    economy.later((499 - seconds) * 1000)
    economy.sync()
    assert not economy.pool.state.jobs["j1"].cancelled, "what is held lasts until then"
    economy.later(1000)
    economy.sync()
    assert economy.pool.state.jobs["j1"].cancelled
    economy.end(lease, "cancelled", wall_ms=500_000)
    economy.sync()
    assert (economy.has("u1"), economy.held()) == (0, 0), "what it owed beyond, nobody pays"
    assert economy.has("fees") == 50_000


def test_money_that_comes_in_time_lets_it_go_on(economy: Economy) -> None:
    running(economy)
    while not economy.said(HoldShort):
        economy.later(1000)
        economy.sync()
    economy.grant("u1", 10 * MICRO)
    economy.later(60_000)
    economy.sync()
    assert not economy.pool.state.jobs["j1"].cancelled
    assert len(economy.said(HoldShort)) == 1


def test_no_more_is_held_than_its_user_allowed(economy: Economy) -> None:
    running(economy, cost=Cost(10, 3_600_000, 100_000, 60_000, most=130_000))
    economy.later(80_000)
    economy.sync()
    assert economy.said(HoldExtended)[0].total == 130_000
    economy.later(24_000)
    economy.sync()
    (short,) = economy.said(HoldShort)
    assert short.stops_at == economy.pool.now + 60_000


# A job with one


def test_what_is_tried_again_and_was_paid_for_is_held_once_more(economy: Economy) -> None:

    lease = running(economy, 2, LIMITED, time_limit_ms=10_000, retries=Retries(exit=3, backoff_ms=0))
    economy.later(10_000)
    economy.end(lease, "exit", 1, 10_000, some=True)
    economy.sync()
    assert economy.said(HoldExtended)[0].total == 20_020 + 10_010
    economy.end(lease, "exit", 0, 10_000, some=True)
    (again,) = economy.place()
    economy.later(10_000)
    economy.end(again, "exit", 0, 10_000)
    economy.sync()
    assert economy.has("u1") == 500_000 - 30_030
    assert not economy.ledger.state.books.holds


def test_without_money_for_another_try_it_is_stopped_with_notice() -> None:

    economy = Economy()
    economy.grant("u1", 20_020)
    lease = running(economy, 2, LIMITED, time_limit_ms=10_000, retries=Retries(exit=3, backoff_ms=0))
    economy.later(10_000)
    economy.end(lease, "exit", 1, 10_000, some=True)
    economy.sync()
    assert economy.said(HoldShort) == [HoldShort("p/j1", 10_010, economy.pool.now + 60_000)]
    economy.later(60_000)
    economy.sync()
    assert economy.pool.state.jobs["j1"].cancelled


def test_the_same_money_is_there_whoever_is_ahead(economy: Economy) -> None:
    """The ledger that lags by a whole job comes to the same."""
    lease = running(economy)
    economy.later(500)
    economy.end(lease, wall_ms=500)
    assert economy.held() == 100_000
    economy.sync()
    assert economy.has("u1") == 500_000 - 510
