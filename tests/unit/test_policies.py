"""Reward policies: bounds, whose word, fractions, levels inside of one case."""

import msgspec
import pytest

from events.ledger import Term, Work
from projections.levels import FIRST_POLICY, HOUR_US, LEVELS, level_of, next_of
from services.ledger.policies.base import BOUNDS, BadParams, Case, case_of
from services.ledger.policies.contribution import CONTRIBUTION
from services.ledger.policies.market import MARKET
from services.ledger.policies.registry import BY_KEY, NAMES, POLICIES, policy_of
from services.ledger.policies.usage import USAGE, step_of

CPT = 1_000_000
BUSY = Work(HOUR_US, 1, True, 1000, 1000)


def value(terms: list[Term], name: str) -> int:
    return next(term.value for term in terms if term.name == name)


@pytest.mark.parametrize(
    ("cpu", "memory", "step"),
    [
        (801, 800, 80), (800, 800, 50), (1000, 601, 80), (1000, 600, 50), (801, -1, 80), (800, -1, 50), (-1, 801, 80),
        (501, 500, 50), (500, 500, 20), (501, -1, 50), (500, -1, 20), (201, 200, 20), (200, 200, 0), (201, -1, 20),
        (200, -1, 0), (0, 0, 0), (-1, -1, 0), (401, 0, 20), (400, 0, 0),
    ],
)  # fmt: skip
def test_the_steps_of_usage(cpu: int, memory: int, step: int) -> None:
    assert step_of(Work(1, 1, True, cpu, memory)) == step


@pytest.mark.parametrize("level", LEVELS[1:], ids=lambda level: level.name)
def test_a_level_begins_at_its_hours_exactly(level: object) -> None:
    assert isinstance(level, type(LEVELS[0]))
    assert level_of(level.from_us) == level
    below = level_of(level.from_us - 1)
    assert next_of(below) == level


def test_there_is_nothing_above_diamond() -> None:
    assert next_of(LEVELS[-1]) is None
    assert level_of(10**9 * HOUR_US).name == "diamond"


def test_a_task_counts_at_the_level_that_it_began_with() -> None:
    hours = Work(HOUR_US, 4, False)
    score = CONTRIBUTION.score(Case([hours], credited_us=498 * HOUR_US + HOUR_US // 2, uptime=0), {})
    # 498.5 and 499.5 are bronze's, 500.5 and 501.5 silver's.
    assert score.amount == 2 * 10 * CPT + 2 * 12 * CPT
    assert value(score.terms, "level bronze: time") == 2 * HOUR_US
    assert value(score.terms, "level silver: time") == 2 * HOUR_US


def test_one_huge_task_may_pass_levels() -> None:
    score = CONTRIBUTION.score(Case([Work(3000 * HOUR_US, 2, False)], uptime=0), {})
    assert score.amount == (3000 * 10 + 3000 * 20) * CPT


def test_an_hour_at_a_time_or_all_at_once() -> None:
    """Whatever the level, what is carried makes it the same."""
    third = Work(HOUR_US // 3 + 1, 1, True, 901, 700, 333)
    for policy in POLICIES:
        together = policy.score(Case([msgspec.structs.replace(third, tasks=1000)], 7, 3), {})
        amount = carried = credited = 0
        for _ in range(1000):
            score = policy.score(Case([third], credited_us=credited, carried=carried), {})
            amount, carried, credited = amount + score.amount, score.carried, credited + third.machine_us
        assert policy is MARKET or (amount, carried) == (together.amount, together.carried)


def test_the_workers_word_alone_can_be_kept_from_raising_pay() -> None:
    strict = {"reported_max": 100}
    assert USAGE.score(Case([BUSY]), strict).amount == 10 * CPT
    assert USAGE.score(Case([BUSY], agreed=True), strict).amount == 15 * CPT
    idle = msgspec.structs.replace(BUSY, cpu=0, memory=0)
    assert USAGE.score(Case([idle]), strict).amount == 8 * CPT


def test_whose_word_is_said() -> None:
    words = {term.name: term.word for term in USAGE.score(Case([BUSY]), {}).terms}
    assert words["machine time"] == "platform"
    assert words["use over 80 %: pay"] == "report"
    agreed = {term.name: term.word for term in USAGE.score(Case([BUSY], agreed=True), {}).terms}
    assert agreed["use over 80 %: pay"] == "agreed"
    assert agreed["use over 80 %: factor"] == "policy"


def test_nobody_earns_by_working_for_himself() -> None:
    for policy in (USAGE, CONTRIBUTION):
        mine = policy.score(Case([BUSY], price=3 * CPT, fee=CPT, own=True), {})
        assert mine.amount == 2 * CPT
        assert mine.carried == 0
        assert value(mine.terms, "at most") == 2 * CPT
        assert policy.score(Case([BUSY], price=300 * CPT, own=True), {}).amount > 2 * CPT
        assert policy.score(Case([BUSY], own=True), {}).amount == 0


def test_pay_can_be_bound_by_the_price() -> None:
    case = Case([BUSY], price=10 * CPT, fee=CPT)
    assert USAGE.score(case, {"price_max": 100}).amount == 9 * CPT
    assert USAGE.score(case, {"price_max": 50}).amount == 4_500_000
    assert USAGE.score(case, {"price_max": 1000}).amount == 15 * CPT


def test_the_market_pays_the_price_less_the_fee() -> None:
    assert MARKET.score(Case([], price=100, fee=10), {}).amount == 90
    assert MARKET.score(Case([BUSY], price=5, fee=5), {}).amount == 0


def test_a_case_is_in_its_terms() -> None:
    case = Case([BUSY, Work(7, 3)], 100, 10, 5 * HOUR_US, 987, 654, True, True)
    for policy in POLICIES:
        score = policy.score(case, {})
        assert case_of(case.work, score.terms) == case
    assert case_of([], Case([]).terms()) == Case([])


def test_parameters_are_checked() -> None:
    with pytest.raises(BadParams, match="usage@1 has no such parameter; it has base, over_80"):
        USAGE.params_of({"bonus": 1})
    with pytest.raises(BadParams, match="market@1 has no such parameter; it has none"):
        MARKET.params_of({"base": 1})
    with pytest.raises(BadParams, match="must be from 0 to 10000"):
        USAGE.params_of({"over_80": 10_001})
    with pytest.raises(BadParams, match="must be from 1 to"):
        CONTRIBUTION.params_of({"complex_minutes": 0})
    assert USAGE.params_of({"base": 5}).base == 5


def test_every_policy_is_found() -> None:
    assert set(NAMES) == {"market", "usage", "contribution"}
    assert FIRST_POLICY in NAMES
    assert policy_of("usage") is BY_KEY["usage@1"] is policy_of("usage", 1)
    assert policy_of("usage", 99) is None
    assert policy_of("nonsense") is None
    for policy in POLICIES:
        for name in policy.params.__struct_fields__:
            low, high = BOUNDS[name]
            assert low <= getattr(policy.params(), name) <= high
