"""What workers' owners earn, through the models of both pool and ledger."""

from typing import Any

import pytest

from events.job import Cost
from events.ledger import ChargePosted, RewardPaid, RewardScored, StandingChanged
from events.task import Detail, TasksFinished
from projections.levels import uptime
from services.ledger.commands import SetPolicy
from services.ledger.policies.base import case_of
from services.ledger.policies.registry import BY_KEY
from services.pool.commands import Silent
from tests.economy_support import Economy
from tests.pool_support import ended

COST = Cost(base=10, per_hour=3_600_000, hold=100_000, each_ms=60_000, prices="v1")
"""1 µCPT a ms."""


@pytest.fixture
def economy() -> Economy:
    made = Economy()
    made.grant("u1", 500_000)
    made.worker()
    made.sync()
    made.later(3_600_000)
    return made


def ran(economy: Economy, job: str = "j1", owner: str = "u1", wall_ms: int = 4000, **detail: Any) -> RewardPaid:
    """A job of one task that a worker ran for 5 s, as it says; the reward."""
    economy.job(job, 1, cost=COST, owner=owner)
    economy.sync()
    (lease,) = economy.place()
    economy.start(lease)
    economy.later(5000)
    economy.report(ended(lease, job, [0, 0], details=[Detail(wall_ms=wall_ms, **detail)]))
    economy.sync()
    return economy.said(RewardPaid)[-1]


def test_under_the_market_the_owner_has_the_price_less_the_fee(economy: Economy) -> None:
    paid = ran(economy)
    assert (paid.policy, paid.due, paid.owner, paid.worker) == ("market", 4010 - 401, "ann", "w1")
    assert (economy.has("ann"), economy.has("fees"), economy.has("treasury")) == (3609, 401, 0)
    assert (economy.has("u1"), economy.held()) == (500_000 - 4010, 0)
    (charge,) = economy.said(ChargePosted)
    assert paid.charge == charge.charge
    assert paid.reward == charge.charge.replace("settle:", "reward:")


def test_under_usage_the_price_goes_to_the_treasury_and_the_reward_comes_from_it(economy: Economy) -> None:
    economy.ledger.ask(SetPolicy("usage", "paying"))
    paid = ran(economy, cpu_ms=4000)
    scored = economy.said(RewardScored)[-1]
    # 4 s of one of four CPUs, busy: 15 CPT for a machine hour.
    assert paid.due == 15_000_000 * 4000 // 4 // 3_600_000 == 4166
    assert economy.has("ann") == 4166
    assert economy.has("treasury") == 0
    assert economy.ledger.state.books.supply == 500_000 + 4166 - 3609
    assert (scored.policy, scored.amount) == ("market", 3609)


def test_the_evidence_is_on_the_pools_log(economy: Economy) -> None:
    paid = ran(economy)
    (position,) = paid.evidence
    assert isinstance(economy.pool.events[position - 1], TasksFinished)
    score = BY_KEY["market@1"].score(case_of(paid.work, paid.terms), {})
    assert score.amount == paid.due


def test_time_is_the_platforms_whatever_the_report_says(economy: Economy) -> None:
    economy.ledger.ask(SetPolicy("usage", "paying"))
    paid = ran(economy, wall_ms=10**9, cpu_ms=10**9)
    assert sum(work.machine_us for work in paid.work) == 5_000_000 // 4
    assert paid.due == 15_000_000 * 5000 // 4 // 3_600_000


def test_ones_own_job(economy: Economy) -> None:
    economy.grant("ann", 500_000)
    economy.ledger.ask(SetPolicy("contribution", "paying"))
    paid = ran(economy, owner="ann", cpu_ms=4000)
    assert paid.due == 4010 - 401


def test_what_was_lost_earns_nothing(economy: Economy) -> None:
    economy.job("j1", 1, cost=COST)
    economy.sync()
    (lease,) = economy.place()
    economy.start(lease)
    economy.later(5000)
    economy.report(ended(lease, "j1", [0, 0], "lost"))
    economy.sync()
    assert economy.said(RewardPaid) == []


def test_how_a_worker_stands_follows_the_pool(economy: Economy) -> None:
    economy.tell(Silent("w1", 20_000))
    economy.later(3_600_000)
    economy.tell(Silent("w1", 3_600_000))
    economy.sync()
    assert [fact.state for fact in economy.said(StandingChanged)] == ["ready", "silent", "gone"]
    standing = economy.ledger.state.rewards.standings["w1"]
    assert uptime(standing, economy.pool.now) == 500


def test_cutting_work_into_jobs_changes_nothing(economy: Economy) -> None:
    economy.ledger.ask(SetPolicy("usage", "paying"))
    for n in range(7):
        ran(economy, f"j{n}", wall_ms=1)
    assert economy.has("ann") == 7 * 8_000_000 // 4 // 3_600_000
    assert economy.ledger.state.rewards.standings["w1"].credited_us == 7 * 250


def test_machine_hours_count_under_any_policy(economy: Economy) -> None:
    ran(economy)
    economy.ledger.ask(SetPolicy("market", "off"))
    economy.job("j2", 1, cost=COST)
    economy.sync()
    (lease,) = economy.place()
    economy.start(lease)
    economy.later(5000)
    economy.end(lease, wall_ms=4000)
    economy.sync()
    standing = economy.ledger.state.rewards.standings["w1"]
    # With no policy that runs there is no fact that could say so.
    assert standing.credited_us == 1_000_000
    assert economy.has("treasury") == 4010 - 401
