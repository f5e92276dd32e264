"""Rewards under a corrected policy: who gains and loses, and that it is made good exactly."""

import msgspec
import pytest

from events.ledger import RewardPaid, RewardScored
from events.task import Detail
from services.hosting import Refused
from services.ledger import rebase
from services.ledger.rebase import Change
from tests.reward_support import CPT, GIB, HOUR_MS, Purse

HOUR = Detail(wall_ms=HOUR_MS, cpu_ms=HOUR_MS, memory_avg=GIB)
THIRD = Detail(wall_ms=HOUR_MS // 3 + 1, cpu_ms=0)


def at_work() -> Purse:
    purse = Purse()
    purse.worker("w1")
    purse.worker("w2")
    purse.policy("usage", "paying")
    purse.now += 100 * HOUR_MS
    for worker, owner, detail in (("w1", "u1", HOUR), ("w2", "u2", THIRD), ("w1", "u1", THIRD)):
        purse.ended(worker, owner, [detail], price=8 * CPT)
    return purse


def test_nothing_changes_under_the_policy_that_paid() -> None:
    purse = at_work()
    assert [change.after - change.before for change in purse.changes("usage")] == [0, 0]
    before = purse.position
    purse.rebase("usage")
    assert purse.position == before


def test_who_gains_and_who_loses() -> None:
    purse = at_work()
    assert purse.changes("usage", over_80=200, reported_max=200, below=0) == [
        Change("w1", "u1", 3_750_000 + 666_667, 5 * CPT, 2),
        Change("w2", "u2", 666_667, 0, 1),
    ]


def test_it_is_made_good_and_done_once() -> None:
    purse = at_work()
    purse.rebase("usage", over_80=200, reported_max=200, below=0)
    assert (purse.due("u1"), purse.due("u2")) == (5 * CPT, 0)
    assert purse.state.rebase == "rebase:4"
    assert all(
        change.after == change.before for change in purse.rebase("usage", over_80=200, reported_max=200, below=0)
    )
    again = purse.changes("usage")
    assert [change.after - change.before for change in again] == [3_750_000 + 666_667 - 5 * CPT, 666_667]


def test_back_again_leaves_everything_as_it_was() -> None:
    purse = at_work()
    before = (purse.due("u1"), purse.due("u2"))
    purse.rebase("market")
    purse.rebase("contribution")
    purse.rebase("usage")
    assert (purse.due("u1"), purse.due("u2")) == before
    assert purse.state.open == {}


def test_only_since_then() -> None:
    purse = at_work()
    purse.rebase("usage", base=1)
    assert [change.before for change in purse.changes("usage", purse.now)] == [0, 0]
    purse.now += 1
    purse.ended("w2", "u2", [HOUR])
    assert [change.worker for change in purse.changes("usage", purse.now)] == ["w2"]
    purse.rebase("usage", purse.now, base=0)
    assert [change.before for change in purse.changes("usage", purse.now)] == [0]
    # The rebase before that reaches further back: what is due for its rewards is what it says.
    assert [change.before for change in purse.changes("usage")] == [0, 0]


def test_what_was_spent_is_owed_and_kept_back() -> None:
    purse = at_work()
    del purse.balances["user:u1"]
    purse.rebase("usage", base=0)
    assert purse.state.open == {"u1": -(3_750_000 + 666_667)}
    purse.ended("w1", "u1", [HOUR])
    assert purse.balances.get("user:u1", 0) == 0
    purse.ended("w1", "u1", [HOUR])
    assert purse.balances["user:u1"] == 2 * 3_750_000 - 3_750_000 - 666_667
    assert purse.state.open == {}


def test_a_correction_credits_no_hours_and_no_fractions() -> None:
    purse = at_work()
    before = msgspec.structs.replace(purse.state.standings["w1"])
    purse.rebase("usage", base=99)
    after = purse.state.standings["w1"]
    assert after.earned < before.earned
    assert msgspec.structs.replace(after, earned=before.earned) == before


def test_too_many_rewards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebase, "REWARDS_MAX", 2)
    with pytest.raises(Refused, match="choose a later moment"):
        at_work().rebasing()


def test_a_policy_that_is_not_there() -> None:
    with pytest.raises(Refused, match="no such parameter"):
        at_work().changes("usage", bonus=1)


class TestExplain:
    def test_it_recomputes_from_the_evidence(self) -> None:
        purse = at_work()
        purse.policy("contribution", "shadow")
        facts = purse.ended("w1", "u1", [HOUR, THIRD], price=9 * CPT)
        told = purse.explained(facts)
        assert told.wrong == []
        assert told.holds
        assert [(s.policy, s.pays) for s in told.policies] == [
            ("usage", True),
            ("contribution", False),
            ("market", False),
        ]
        assert all(s.amount == s.recomputed for s in told.policies)
        assert [(e.type, e.by, e.tasks) for e in told.evidence] == [("task.finished", "worker:w1", [0, 1])]
        assert told.amount == told.paid > 0
        words = {term.name: term.word for term in told.policies[0].terms}
        assert words["reserved CPUs"] == "reservation"
        assert words["machine's CPUs"] == "report"
        assert words["time that counts"] == "platform"

    def test_a_wrong_amount_is_found(self) -> None:
        purse = at_work()
        facts = purse.ended("w1", "u1", [HOUR])
        first = facts[0]
        assert isinstance(first, RewardPaid)
        purse.append([msgspec.structs.replace(first, due=first.due + 1)])
        told = purse.explained([msgspec.structs.replace(first, due=first.due + 1), *facts[1:]])
        assert not told.holds
        assert told.wrong == [f"usage@1 comes to {first.due} µCPT, not {first.due + 1}"]

    def test_work_that_the_evidence_does_not_show(self) -> None:
        purse = at_work()
        facts = purse.ended("w1", "u1", [HOUR])
        more = [msgspec.structs.replace(facts[0].work[0], machine_us=facts[0].work[0].machine_us + 1)]
        wrong = msgspec.structs.replace(facts[0], work=more)
        purse.append([wrong])
        assert "the evidence comes to other work than the reward says" in purse.explained([wrong]).wrong

    def test_evidence_of_another_attempt(self) -> None:
        purse = at_work()
        facts = purse.ended("w1", "u1", [HOUR])
        other = msgspec.structs.replace(facts[0], reward="reward:j1:999:0")
        purse.append([other])
        assert "the log has no such evidence" in purse.explained([other]).wrong

    def test_a_reward_that_only_shadows_score(self) -> None:
        purse = at_work()
        purse.policy("usage", "off")
        facts = purse.ended("w1", "u1", [HOUR], price=5 * CPT)
        assert all(isinstance(fact, RewardScored) for fact in facts)
        told = purse.explained(facts)
        assert told.holds
        assert (told.amount, told.paid) == (0, 0)
