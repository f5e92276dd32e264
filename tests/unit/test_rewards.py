"""What owners earn: who pays, what stays open, policies chosen, rebases."""

from typing import Any

import msgspec
import pytest

from events.ledger import (
    MINT,
    TREASURY,
    OwnerListed,
    PolicyRebased,
    PolicySet,
    Posting,
    RewardPaid,
    RewardScored,
    StandingChanged,
)
from events.task import Detail, TasksFinished
from projections import levels
from projections.levels import Rewards
from services.hosting import Refused
from services.ledger import rewards
from services.ledger.commands import Correction, ListOwner, Rebase, SetPolicy
from services.ledger.machine_time import Reserved
from services.ledger.policies.base import case_of
from services.ledger.policies.registry import BY_KEY
from services.ledger.rewards import Settled, pay

GIB = 1 << 30
HOUR_MS = 3_600_000
CPT = 1_000_000
T0 = 10**12
PLENTY = 10**15


def fold(state: Rewards, events: list[Any]) -> None:
    for event in events:
        levels.apply(state, event, T0)
        levels.check(state)


def started(**policies: str) -> Rewards:
    """A state with a worker of 4 CPUs that has been there for a while, and these policies."""
    state = Rewards()
    fold(state, [StandingChanged("w1", "ready", T0 - 1000 * HOUR_MS, 4000, 8 * GIB)])
    for name, mode in policies.items():
        fold(state, rewards.decide_policy(state, SetPolicy(name, mode)))  # pyright: ignore[reportArgumentType]
    return state


def settled(n: int = 0, hours: int = 1, **how: Any) -> Settled:
    detail = Detail(wall_ms=hours * HOUR_MS, cpu_ms=4 * hours * HOUR_MS, memory_avg=8 * GIB)
    fields: dict[str, Any] = {
        "reward": f"reward:j1:1:{n}", "charge": f"settle:j1:1:{n}", "hold": "default/j1", "worker": "w1",
        "owner": "u1", "user": "u2", "event": TasksFinished("j1", [0, 0], 1, "w1", 1, [detail]),
        "counted_ms": hours * HOUR_MS, "price": 20 * CPT, "fee": 2 * CPT, "reserved": Reserved(4000, 8 * GIB),
        "at": T0, "evidence": 77, "treasury": PLENTY, "mint": PLENTY,
    }  # fmt: skip
    return Settled(**{**fields, **how})


def test_the_market_pays_from_the_hold() -> None:
    (paid,) = rewards.settle(started(), settled())
    assert isinstance(paid, RewardPaid)
    assert (paid.policy, paid.version, paid.due, paid.evidence) == ("market", 1, 18 * CPT, [77])
    assert paid.postings == [Posting("hold:default/j1", "user:u1", 18 * CPT)]
    assert paid.work[0].tasks == 1


def test_others_pay_from_treasury_then_mint() -> None:
    (paid, shadow) = rewards.settle(started(usage="paying"), settled(treasury=5 * CPT))
    assert isinstance(paid, RewardPaid)
    assert isinstance(shadow, RewardScored)
    assert paid.due == 15 * CPT
    assert paid.postings == [Posting(TREASURY, "user:u1", 5 * CPT), Posting(MINT, "user:u1", 10 * CPT)]
    assert (shadow.policy, shadow.amount, shadow.work) == ("market", 18 * CPT, [])


def test_any_number_of_shadows() -> None:
    facts = rewards.settle(started(usage="shadow", contribution="shadow"), settled())
    assert [(type(fact), fact.policy) for fact in facts] == [
        (RewardPaid, "market"), (RewardScored, "contribution"), (RewardScored, "usage"),
    ]  # fmt: skip


def test_with_nobody_paying_the_shadow_has_the_work() -> None:
    state = started(market="off", usage="shadow", contribution="shadow")
    assert levels.paying(state) == ""
    first, second = rewards.settle(state, settled())
    assert isinstance(first, RewardScored)
    assert isinstance(second, RewardScored)
    assert first.work
    assert not second.work
    fold(state, [first, second])
    assert state.standings["w1"].credited_us == HOUR_MS * 1000


def test_nothing_to_say() -> None:
    event = TasksFinished("j1", [0, 999], 1, "w1")
    assert rewards.settle(started(usage="shadow"), settled(event=event, counted_ms=0, price=0, fee=0)) == []


def test_what_the_supply_cap_keeps_back_is_paid_later() -> None:
    state = started(usage="paying")
    (paid, _) = rewards.settle(state, settled(treasury=0, mint=4 * CPT))
    assert sum(posting.amount for posting in paid.postings) == 4 * CPT  # pyright: ignore[reportAttributeAccessIssue]
    fold(state, [paid])
    assert state.open == {"u1": 11 * CPT}
    (paid, _) = rewards.settle(state, settled(1, treasury=100 * CPT))
    assert paid.postings == [Posting(TREASURY, "user:u1", 26 * CPT)]  # pyright: ignore[reportAttributeAccessIssue]
    fold(state, [paid])
    assert state.open == {}


def test_what_an_owner_owes_is_kept_back() -> None:
    state = started()
    state.open["u1"] = -20 * CPT
    (paid,) = rewards.settle(state, settled())
    assert paid.postings == [Posting("hold:default/j1", TREASURY, 18 * CPT)]  # pyright: ignore[reportAttributeAccessIssue]
    fold(state, [paid])
    assert state.open == {"u1": -2 * CPT}
    (paid,) = rewards.settle(state, settled(1))
    assert paid.postings == [  # pyright: ignore[reportAttributeAccessIssue]
        Posting("hold:default/j1", "user:u1", 16 * CPT),
        Posting("hold:default/j1", TREASURY, 2 * CPT),
    ]
    fold(state, [paid])
    assert state.open == {}


def test_paying_leaves_nothing_in_the_hold() -> None:
    for want in (-5, 0, 3, 10, 17):
        postings = pay(want, "u1", "hold:x", 10, 4, 2)
        assert sum(posting.amount for posting in postings if posting.debit == "hold:x") == 10
        assert sum(posting.amount for posting in postings if posting.credit == "user:u1") == min(max(want, 0), 16)


def test_fractions_are_carried() -> None:
    state = started(usage="paying")
    event = TasksFinished("j1", [0, 0], 1, "w1", 1, [Detail(wall_ms=1)])
    total = 0
    for n in range(1000):
        facts = rewards.settle(state, settled(n, event=event, counted_ms=1, reserved=Reserved(1000), price=0, fee=0))
        fold(state, facts)
        total += sum(fact.due for fact in facts if isinstance(fact, RewardPaid))
    assert total == 8 * CPT * 1000 * 250 // 3_600_000_000


def test_a_reward_says_all_that_it_was_computed_from() -> None:
    state = started(usage="paying", contribution="shadow")
    for n in range(3):
        facts = rewards.settle(state, settled(n))
        work = facts[0].work
        for fact in facts:
            score = BY_KEY[f"{fact.policy}@{fact.version}"].score(case_of(work, fact.terms), {})
            assert score.amount == (fact.due if isinstance(fact, RewardPaid) else fact.amount)
            assert score.carried == fact.carried
        fold(state, facts)


def test_ones_own_job_brings_only_what_it_paid() -> None:
    facts = rewards.settle(started(usage="paying"), settled(user="u1", price=2 * CPT, fee=CPT))
    assert facts[0].due == CPT  # pyright: ignore[reportAttributeAccessIssue]


def test_choosing_another_policy_puts_the_one_before_into_the_shadow() -> None:
    state = started()
    facts = rewards.decide_policy(state, SetPolicy("usage", "paying", 0, {"base": 5}))
    assert facts == [PolicySet("market", "shadow", 1), PolicySet("usage", "paying", 1, {"base": 5})]
    fold(state, facts)
    assert rewards.decide_policy(state, SetPolicy("usage", "paying", 1, {"base": 5})) == []
    assert rewards.decide_policy(state, SetPolicy("contribution", "off")) == []
    fold(state, rewards.decide_policy(state, SetPolicy("usage", "off")))
    assert levels.paying(state) == ""


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (SetPolicy("nonsense", "paying"), "no_policy", "there are market, usage, contribution"),
        (SetPolicy("nonsense", "off"), "no_policy", "there are market"),
        (SetPolicy("usage", "paying", 9), "no_policy", "'usage' 9; there are market@1, usage@1"),
        (SetPolicy("usage", "shadow", 1, {"bonus": 1}), "bad_param", "it has base"),
        (SetPolicy("usage", "shadow", 1, {"base": -1}), "bad_param", "must be from 0"),
    ],
)
def test_a_policy_that_cannot_be(command: SetPolicy, code: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        rewards.decide_policy(started(), command)
    assert refused.value.code == code


def test_the_leaderboard_is_asked_for() -> None:
    state = started()
    assert rewards.decide_list(state, ListOwner("u1", False)) == []
    facts = rewards.decide_list(state, ListOwner("u1", True))
    assert facts == [OwnerListed("u1", True)]
    fold(state, facts)
    assert rewards.decide_list(state, ListOwner("u1", True)) == []
    fold(state, rewards.decide_list(state, ListOwner("u1", False)))
    assert state.listed == {}


def rebase(*corrections: Correction, name: str = "rebase:1", before: str = "") -> Rebase:
    return Rebase(name, "usage", 1, {}, 1, 99, before, [*corrections])


def test_a_rebase_gives_and_takes() -> None:
    state = started()
    balances = {TREASURY: 3, "user:u1": 50, "user:u2": 0, "user:u3": 4}
    command = rebase(
        Correction("w1", "u1", -20, 5),
        Correction("w2", "u2", 40, 1),
        Correction("w3", "u3", -10, 1),
        Correction("w4", "u3", 7, 1),
    )
    first, *paid = rewards.decide_rebase(state, command, lambda account: balances.get(account, 0), 10)
    assert first == PolicyRebased("usage", 1, "rebase:1", 1, 99)
    assert [fact.postings for fact in paid] == [  # pyright: ignore[reportAttributeAccessIssue]
        [Posting("user:u1", TREASURY, 20)],
        [Posting(TREASURY, "user:u2", 23), Posting(MINT, "user:u2", 10)],
        [Posting("user:u3", TREASURY, 4)],
        [Posting(TREASURY, "user:u3", 1)],
    ]
    fold(state, [first, *paid])
    assert state.open == {"u2": 7}
    assert state.rebase == "rebase:1"
    assert rewards.decide_rebase(state, command, lambda account: 0, 0) == []
    with pytest.raises(Refused, match="compute this one again"):
        rewards.decide_rebase(state, rebase(name="rebase:2"), lambda account: 0, 0)
    assert len(rewards.decide_rebase(state, rebase(name="rebase:2", before="rebase:1"), lambda account: 0, 0)) == 1


def test_the_state_goes_through_a_snapshot() -> None:
    state = started(usage="paying", contribution="shadow")
    fold(state, rewards.settle(state, settled(treasury=0, mint=0)))
    data = msgspec.msgpack.encode(state)
    assert msgspec.msgpack.Decoder(Rewards).decode(data) == state
