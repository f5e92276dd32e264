"""The worked examples in docs/rewards.md, computed."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from events.ledger import MICRO, Work
from projections.levels import HOUR_US, LEVELS
from services.ledger.policies.base import Case
from services.ledger.policies.contribution import CONTRIBUTION
from services.ledger.policies.usage import USAGE

PAGE = (Path(__file__).parent.parent.parent / "docs" / "rewards.md").read_text()
UNITS = {"h": HOUR_US, "min": HOUR_US // 60, "s": 1_000_000}


def _table(head: str) -> list[list[str]]:
    """The rows of the table that begins with these columns."""
    rows = PAGE.split(head, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def _us(text: str) -> int:
    return sum(int(count) * UNITS[unit] for count, unit in re.findall(r"(\d+) (h|min|s)", text))


def _share(text: str) -> int:
    return -1 if text == "–" else int(Decimal(text.removesuffix(" %")) * 10)


def _amount(text: str) -> int:
    return int(Decimal(text.removesuffix(" CPT")) * MICRO)


BY_USE = _table("| machine time | CPU |")
BY_CONTRIBUTION = _table("| machine time | succeeded |")
LEVEL_ROWS = _table("| level | machine hours |")


def test_the_document_has_examples() -> None:
    assert len(BY_USE) == 15
    assert len(BY_CONTRIBUTION) == 18


@pytest.mark.parametrize("row", BY_USE, ids=" ".join)
def test_usage(row: list[str]) -> None:
    time, cpu, memory, gpu, reward = row
    work = Work(_us(time), 1, True, _share(cpu), _share(memory), _share(gpu))
    assert USAGE.score(Case([work]), {}).amount == _amount(reward)


@pytest.mark.parametrize("row", BY_CONTRIBUTION, ids=" ".join)
def test_contribution(row: list[str]) -> None:
    time, done, uptime, hours, reward = row
    case = Case([Work(_us(time), 1, done == "yes")], credited_us=int(hours) * HOUR_US, uptime=_share(uptime))
    assert CONTRIBUTION.score(case, {}).amount == _amount(reward)


def test_levels() -> None:
    told = [
        (name.lower(), int(hours.replace(",", "")), int(Decimal(factor) * 100), benefit)
        for name, hours, factor, benefit in LEVEL_ROWS
    ]
    assert told == [(level.name, level.hours, level.percent, level.benefit) for level in LEVELS if level.name]
    params = CONTRIBUTION.params()
    assert [level.percent for level in LEVELS if level.name] == [
        getattr(params, level.name) for level in LEVELS if level.name
    ]


def test_what_the_last_example_leaves() -> None:
    score = USAGE.score(Case([Work(1_000_000, 1, True, 1000, 1000)]), {})
    assert 3 * score.carried == 2 * USAGE.parts


def test_the_most_in_an_hour() -> None:
    best = Work(HOUR_US, 1, True, 1000, 1000, 1000)
    by_use, by_contribution = re.findall(r"therefore (\d+) CPT under `usage` and (\d+) CPT", PAGE)[0]
    assert USAGE.score(Case([best]), {}).amount == int(by_use) * MICRO
    assert CONTRIBUTION.score(Case([best], credited_us=5000 * HOUR_US), {}).amount == int(by_contribution) * MICRO


@pytest.mark.parametrize("policy", [USAGE, CONTRIBUTION], ids=lambda policy: policy.name)
def test_every_parameter_is_named(policy: object) -> None:
    about = PAGE.split(f"## `{policy.name}`", 1)[1].split("\n## ", 1)[0]  # pyright: ignore[reportAttributeAccessIssue]
    named = set(re.findall(r"`(\w+)`", about.split("Parameters:", 1)[1]))
    assert named == set(policy.params.__struct_fields__)  # pyright: ignore[reportAttributeAccessIssue]
