"""Whatever workers do and operators choose: rewards add up, can be explained, folded again, and rebased exactly."""

from hypothesis import given
from hypothesis import strategies as st

from events.ledger import MINT, RewardPaid
from events.task import Detail
from projections.levels import Choice
from tests.reward_support import CPT, GIB, HOUR_MS, Purse

WORKERS = {"w1": "u1", "w2": "u2", "w3": "u1"}
DETAILS = st.builds(
    Detail,
    wall_ms=st.one_of(st.integers(0, 5000), st.integers(0, 300 * HOUR_MS)),
    cpu_ms=st.integers(0, 10**9),
    memory_avg=st.integers(0, 2 * GIB),
)
POLICIES = st.sampled_from(["market", "usage", "contribution"])
STEPS = st.one_of(
    st.tuples(st.just("end"), st.sampled_from(sorted(WORKERS)), st.lists(DETAILS, min_size=1, max_size=3), st.integers(0, 30 * CPT), st.booleans()),
    st.tuples(st.just("policy"), POLICIES, st.sampled_from(["paying", "shadow", "off"])),
    st.tuples(st.just("stand"), st.sampled_from(sorted(WORKERS)), st.sampled_from(["ready", "silent", "gone"])),
    st.tuples(st.just("pass"), st.integers(0, 500 * HOUR_MS)),
    st.tuples(st.just("rebase"), POLICIES, st.integers(0, 5)),
)  # fmt: skip


def played(steps: list[tuple[object, ...]], supply: int) -> Purse:
    purse = Purse(supply)
    for worker in WORKERS:
        purse.worker(worker)
    for step in steps:
        match step:
            case ("end", str() as worker, list() as details, int() as price, bool() as done):
                facts = purse.ended(worker, WORKERS[worker], details, price, done)
                if facts:
                    told = purse.explained(facts)
                    assert told.holds, told.wrong
            case ("policy", str() as name, mode):
                purse.policy(name, mode)
            case ("stand", str() as worker, state):
                purse.worker(worker, 4000, state)
            case ("pass", int() as ms):
                purse.now += ms
            case ("rebase", str() as name, int() as base):
                purse.rebase(name, **({} if name == "market" else {"base": base * CPT}))
            case _:
                raise AssertionError(step)
    return purse


@given(st.lists(STEPS, max_size=25), st.sampled_from([0, 5 * CPT, 10**15]))
def test_rewards_over_a_life(steps: list[tuple[object, ...]], supply: int) -> None:
    purse = played(steps, supply)
    assert purse.refolded() == purse.state
    assert -purse.balances.get(MINT, 0) <= supply
    paid = [e for r in purse.log for e in r.message.events() if isinstance(e, RewardPaid)]
    for owner in ("u1", "u2"):
        assert purse.due(owner) == sum(event.due for event in paid if event.owner == owner)
    for worker, standing in purse.state.standings.items():
        work = [w for event in paid if event.worker == worker for w in event.work]
        shown = sum(w.tasks * w.machine_us for w in work)
        assert shown <= standing.credited_us <= (purse.now - standing.first) * 1000


@given(st.lists(STEPS, max_size=15), POLICIES, st.integers(0, 5))
def test_a_rebase_of_a_rebase_is_nothing(steps: list[tuple[object, ...]], name: str, base: int) -> None:
    purse = played(steps, 10**15)
    params = {} if name == "market" else {"base": base * CPT}
    changes = purse.rebase(name, **params)
    before = purse.position
    assert all(change.before == change.after for change in purse.rebase(name, **params))
    assert purse.position == before
    owners = {change.owner for change in changes}
    for owner in owners:
        assert purse.due(owner) == sum(change.after for change in changes if change.owner == owner)


@given(st.lists(STEPS, max_size=15), st.randoms())
def test_policies_in_the_shadow_change_nothing_that_is_paid(steps: list[tuple[object, ...]], random: object) -> None:
    ends = [step for step in steps if step[0] in ("end", "pass", "stand")]
    alone, watched = (
        played([("policy", "usage", "paying"), *ends], 10**15),
        played([("policy", "usage", "paying"), ("policy", "contribution", "shadow"), *ends], 10**15),
    )
    assert alone.state.policies["usage"] == watched.state.policies["usage"] == Choice("paying", 1)
    assert (alone.due("u1"), alone.due("u2")) == (watched.due("u1"), watched.due("u2"))
