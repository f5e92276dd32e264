"""No money is lost or made by any history of a pool: random jobs, workers, ends and purses, through both models."""

from itertools import pairwise
from random import Random

import hypothesis.strategies as st
from hypothesis import given

from events.job import Cost, JobSubmitted, Retries, price
from events.ledger import MINT, ChargePosted, HoldRefused
from events.task import Detail
from services.pool.commands import CancelJob, Silent
from tests.economy_support import Economy
from tests.pool_support import ended

STEPS = ("job", "job", "worker", "place", "place", "start", "end", "end", "part", "cancel", "silent", "time", "grant",
         "pool", "ledger", "sync")  # fmt: skip
ENDS = ("exit", "exit", "exit", "oom", "timeout", "lost", "rejected", "output_lost", "returned", "cancelled")


class History:
    """One, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random, self.economy = Random(seed), Economy()
        self.jobs = self.sessions = 0
        self.granted = 0

    def step(self, step: str) -> None:
        random, economy = self.random, self.economy
        leases = [*economy.pool.state.leases]
        if step == "job":
            self.job()
        elif step == "worker":
            self.sessions += 1
            economy.worker(random.choice(["w1", "w2"]), f"s{self.sessions}", cpus=random.choice([1, 4]))
        elif step == "place":
            economy.place(random.choice(["w1", "w2"]), random.choice([0, 3]))
        elif step == "start" and leases:
            economy.start(random.choice(leases))
        elif step in ("end", "part") and leases:
            wall_ms = random.choice([0, 1, 999, 60_000, 10**9, -5])
            economy.end(random.choice(leases), random.choice(ENDS), random.choice([0, 1]), wall_ms, some=step == "part")
        elif step == "cancel" and economy.pool.state.jobs:
            economy.tell(CancelJob(random.choice([*economy.pool.state.jobs])))
        elif step == "silent":
            economy.tell(Silent(random.choice(["w1", "w2"]), random.choice([15_000, 60_000])))
        elif step == "time":
            economy.later(random.choice([1, 500, 30_000, 600_000]))
        elif step == "grant":
            amount = random.choice([1, 50_000, 500_000])
            self.granted += amount
            economy.grant(random.choice(["u1", "u2"]), amount)
        elif step == "pool":
            economy.hear_pool(random.randint(1, 5))
        elif step == "ledger":
            economy.hear_ledger(random.randint(1, 5))
        elif step == "sync":
            economy.sync()

    def job(self) -> None:
        random = self.random
        self.jobs += 1
        count, limit_ms = random.choice([1, 1, 2, 5]), random.choice([0, 0, 2000, 60_000])
        base, per_hour = random.choice([0, 7, 1000]), random.choice([0, 1_000_000, 3_600_000])
        each_ms = limit_ms or 10_000
        cost = Cost(
            base, per_hour, base * count - (-per_hour * count * each_ms // 3_600_000), 0 if limit_ms else each_ms,
            most=random.choice([0, 0, 50_000]),
        )  # fmt: skip
        self.economy.job(
            f"j{self.jobs}", count, cost=random.choice([cost, cost, cost, None]), owner=random.choice(["u1", "u2"]),
            time_limit_ms=limit_ms, lost_after_ms=15_000, priority=random.choice([1, 5]),
            after=[f"j{self.jobs - 1}"] if self.jobs > 1 and random.random() < 0.2 else [],
            retries=Retries(exit=random.choice([0, 2]), backoff_ms=random.choice([0, 1000])),
        )  # fmt: skip

    def conclude(self) -> None:
        """All ends, and everything is accounted for."""
        economy = self.economy
        economy.sync()
        economy.finish()
        books = economy.ledger.state.books
        assert not economy.pool.state.jobs
        assert not books.holds, "no hold outlives its job"
        assert not [account for account in books.balances if account.startswith("hold:")]
        assert books.balance(MINT) == -self.granted
        assert sum(economy.has(account) for account in ("u1", "u2", "fees", "treasury")) == self.granted
        charges: dict[str, list[ChargePosted]] = {}
        for charge in economy.said(ChargePosted):
            charges.setdefault(charge.hold, []).append(charge)
        costs = {f"p/{e.job}": e.cost for e in economy.pool.events if isinstance(e, JobSubmitted)}
        for hold, some in charges.items():
            cost = costs[hold]
            assert cost is not None
            due = price(cost, sum(c.counted for c in some), sum(c.counted_ms for c in some))
            assert sum(c.price for c in some) <= due, "nobody pays a fraction more"
            assert not cost.most or sum(c.price for c in some) <= max(cost.most, cost.hold)
        assert sum(c.price for some in charges.values() for c in some) == economy.has("fees") + economy.has("treasury")
        for refused in economy.said(HoldRefused):
            assert refused.hold not in charges


@given(st.integers(0, 2**32), st.lists(st.sampled_from(STEPS), max_size=60))
def test_no_money_is_lost_and_no_hold_outlives_its_job(seed: int, steps: list[str]) -> None:
    history = History(seed)
    for step in ("grant", "worker", *steps):
        history.step(step)
    history.conclude()


def paid(cost: Cost, walls: list[int], cuts: list[int]) -> dict[str, int]:
    """What everybody has after a job whose tasks took so long, told in reports that begin at `cuts`."""
    economy = Economy()
    economy.grant("u1", 500_000_000)
    economy.worker(cpus=2)
    economy.job("j1", len(walls), cost=cost)
    economy.sync()
    (lease,) = economy.place(ahead=9)
    economy.later(5000)
    bounds = sorted({0, len(walls), *(cut % len(walls) for cut in cuts)})
    for first, end in pairwise(bounds):
        details = [Detail(wall_ms=wall) for wall in walls[first:end]]
        economy.report(ended(lease, "j1", [first, end - 1], details=details))
        if cuts[0] % 2:
            economy.sync()
    economy.sync()
    assert not economy.ledger.state.books.holds
    return {account: economy.has(account) for account in ("u1", "fees", "treasury")}


@given(
    st.integers(0, 10**7),
    st.integers(0, 1000),
    st.lists(st.integers(-10, 12_000), min_size=1, max_size=8),
    st.lists(st.integers(0, 100), min_size=1, max_size=8),
)
def test_how_the_ends_are_cut_into_reports_changes_nothing(
    base: int, per_hour: int, walls: list[int], cuts: list[int]
) -> None:
    cost = Cost(base, per_hour * 3677, 200_000_000, 0)
    assert paid(cost, walls, cuts) == paid(cost, walls, [0])
