"""What holds for every policy, whatever the work: bounds, monotony, and that cutting changes nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.ledger import Work
from projections.levels import HOUR_US
from services.ledger.policies.base import Case, Policy, case_of
from services.ledger.policies.contribution import CONTRIBUTION
from services.ledger.policies.registry import POLICIES
from services.ledger.policies.usage import USAGE

CPT = 1_000_000
SHARES = st.one_of(st.just(-1), st.integers(0, 1000))
WORKS = st.builds(
    Work,
    st.one_of(st.integers(0, 10**7), st.integers(0, 20 * HOUR_US), st.just(HOUR_US)),
    st.integers(1, 5),
    st.booleans(),
    SHARES,
    SHARES,
    SHARES,
)
CREDITED = st.one_of(
    st.integers(0, 6000 * HOUR_US), st.sampled_from([h * HOUR_US - 1 for h in (100, 500, 1000, 2000, 5000)])
)
BY_WORK = (USAGE, CONTRIBUTION)
PARAMS: dict[str, dict[str, int]] = {"usage": {"base": 9_999_991}, "contribution": {"base": 7}, "market": {}}


@st.composite
def cases(draw: st.DrawFn, policy: Policy[Any]) -> Case:
    return Case(
        draw(st.lists(WORKS, max_size=6)),
        draw(st.integers(0, 10**9)),
        draw(st.integers(0, 10**8)),
        draw(CREDITED),
        draw(st.integers(0, 1000)),
        draw(st.integers(0, policy.parts - 1)),
    )


def single(work: list[Work]) -> list[Work]:
    """The same tasks, one an entry."""
    return [msgspec.structs.replace(some, tasks=1) for some in work for _ in range(some.tasks)]


def in_turn(policy: Policy[Any], case: Case, params: dict[str, int], each: list[list[Work]]) -> tuple[int, int]:
    """What comes of the case when its work comes in these parts: the amount altogether, and what is carried at last."""
    amount, carried, credited = 0, case.carried, case.credited_us
    for part in each:
        now = msgspec.structs.replace(case, work=part, carried=carried, credited_us=credited)
        score = policy.score(now, params)
        amount, carried = amount + score.amount, score.carried
        credited += sum(work.tasks * work.machine_us for work in part)
    return amount, carried


@pytest.mark.parametrize("policy", BY_WORK, ids=lambda policy: policy.name)
@given(st.data())
def test_cutting_work_changes_nothing(policy: Policy[Any], data: st.DataObject) -> None:
    case, params = data.draw(cases(policy)), PARAMS[policy.name]
    whole = policy.score(case, params)
    tasks = single(case.work)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tasks)), max_size=4)))
    parts = [tasks[a:b] for a, b in zip([0, *cuts], [*cuts, len(tasks)], strict=True)]
    assert in_turn(policy, case, params, parts) == (whole.amount, whole.carried)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(st.data())
def test_an_explanation_recomputes_to_the_same(policy: Policy[Any], data: st.DataObject) -> None:
    case = data.draw(cases(policy))
    score = policy.score(case, PARAMS[policy.name])
    assert policy.score(case_of(case.work, score.terms), PARAMS[policy.name]) == score
    assert 0 <= score.carried < policy.parts
    assert score.amount >= 0


@given(st.data())
def test_never_above_what_time_allows(data: st.DataObject) -> None:
    for policy, most in ((USAGE, 16 * CPT), (CONTRIBUTION, 69 * CPT)):
        case = data.draw(cases(policy))
        time = sum(work.tasks * work.machine_us for work in case.work)
        amount = policy.score(msgspec.structs.replace(case, carried=0), {}).amount
        assert amount * HOUR_US <= most * time
        bound = msgspec.structs.replace(case, own=True)
        assert policy.score(bound, {}).amount <= max(case.price - case.fee, 0)


@given(st.data(), st.sampled_from(["machine_us", "cpu", "memory", "gpu", "done", "uptime"]))
def test_more_is_never_paid_less(data: st.DataObject, what: str) -> None:
    """More time, use, success, uptime: not less pay. An average that becomes known may be worse than none, so -1 stays."""
    for policy in BY_WORK:
        case = data.draw(cases(policy))
        before = policy.score(case, {})
        if what == "uptime":
            better = msgspec.structs.replace(case, uptime=data.draw(st.integers(case.uptime, 1000)))
        elif not case.work:
            continue
        else:
            at = data.draw(st.integers(0, len(case.work) - 1))
            old = getattr(case.work[at], what)
            if old is False or old is True:
                new = True
            elif old < 0:
                continue
            else:
                new = data.draw(st.integers(old, 1000 if what != "machine_us" else 30 * HOUR_US))
            work = [*case.work]
            work[at] = msgspec.structs.replace(work[at], **{what: new})
            better = msgspec.structs.replace(case, work=work)
        after = policy.score(better, {})
        assert (after.amount, after.carried) >= (before.amount, before.carried)


@given(st.data())
def test_a_higher_level_is_never_paid_less(data: st.DataObject) -> None:
    case = data.draw(cases(CONTRIBUTION))
    more = msgspec.structs.replace(case, credited_us=data.draw(st.integers(case.credited_us, 7000 * HOUR_US)))
    assert CONTRIBUTION.score(more, {}).amount >= CONTRIBUTION.score(case, {}).amount
