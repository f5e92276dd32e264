"""The price list: each line, each bound, and what docs/prices.md says."""

import re
from pathlib import Path
from typing import Any

import pytest

from events.spec import JobSpec
from services.ledger.commands import SetPrices
from services.ledger.prices import (
    BOUNDS,
    GIB,
    NAMES,
    PRICE_MAX,
    Prices,
    Shape,
    above,
    list_of,
    prices_of,
    quote,
    shape_of,
    tokens,
)
from tests.ledger_support import Told

HOUR = 3_600_000
USUAL = Prices()
DOCUMENT = (Path(__file__).parents[2] / "docs" / "prices.md").read_text()
ONE: dict[str, Any] = {"cpus_milli": 1000, "time_limit_ms": HOUR}


def priced(prices: Prices = USUAL, most: int = 0, **shape: Any) -> Any:
    return quote(prices, "v1", Shape(**shape), most)


@pytest.mark.parametrize(
    ("shape", "per_hour"),
    [
        ({"cpus_milli": 1000}, 1_000_000),
        ({"cpus_milli": 1}, 1000),
        ({"memory_bytes": 4 * GIB}, 400_000),
        ({"memory_bytes": GIB // 2}, 50_000),
        ({"gpus_milli": 1000}, 10_000_000),
        ({"gpus_milli": 250}, 2_500_000),
        ({"gpus_milli": 250, "gpu_memory": 8 * GIB}, 2_500_000 + 800_000),
        ({"gpus_milli": 2000, "gpu_memory": 8 * GIB}, 20_000_000 + 1_600_000),
        ({"disk_bytes": 100 * GIB}, 100_000),
        ({"hosts": 1}, 0),
        ({"hosts": 4}, 300_000),
        ({"cpus_milli": 1000, "priority": 10}, 1_500_000),
        ({"cpus_milli": 1000, "priority": 1}, 600_000),
    ],
)
def test_each_line(shape: dict[str, Any], per_hour: int) -> None:
    found = priced(**shape)
    assert found.cost.per_hour == per_hour
    assert sum(line.amount for line in found.lines[1:]) == per_hour, "the lines add up"


def test_the_priority_makes_the_base_dearer_too() -> None:
    assert [priced(priority=priority).cost.base for priority in (1, 5, 10)] == [600, 1000, 1500]


def test_what_is_held_with_a_time_limit_is_the_most_it_can_cost() -> None:
    found = priced(count=7, cpus_milli=1000, time_limit_ms=1)
    assert found.cost.hold == 7 * 1000 + 2  # 7 ms of a CPU are 1.94 µCPT
    assert found.limited
    assert found.cost.each_ms == 0


def test_what_is_held_without_one_is_a_minute_of_each_task() -> None:
    found = priced(count=3, cpus_milli=1000)
    assert (found.cost.hold, found.cost.each_ms, found.limited) == (3 * 1000 + 50_000, 60_000, False)


def test_the_example_of_the_document() -> None:
    found = priced(count=100, cpus_milli=2000, time_limit_ms=600_000)
    assert f"{found.cost.hold:,}" in re.sub(r"\s+", " ", DOCUMENT)
    assert found.cost.hold == 33_433_334


def test_the_list_in_the_document_is_the_list() -> None:
    for name in NAMES:
        assert f"`{name}`" in DOCUMENT, name
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", DOCUMENT, re.MULTILINE))
    assert {name: int(value.replace(",", "")) for name, value in said.items()} == {
        name: getattr(Prices(), name) for name in said
    }
    assert len(said) == 7


def test_tokens() -> None:
    assert tokens(Prices(), 1000, 200) == 1000 + 800


@pytest.mark.parametrize(("most", "refused"), [(0, False), (33_433_334, False), (33_433_333, True)])
def test_max_cpt(most: int, refused: bool) -> None:
    found = priced(count=100, cpus_milli=2000, time_limit_ms=600_000, most=most)
    assert bool(above(found, most)) == refused
    assert found.cost.most == most
    if refused:
        assert above(found, most) == "it may cost 33.433334 CPT, and max_cpt is 33.433333"


def test_a_spec_as_a_shape() -> None:
    spec = JobSpec(command=["true"], count=3, priority=7, cpus=0.25, memory=GIB, time_limit=1.0001)
    assert shape_of(spec) == Shape(
        count=3, priority=7, cpus_milli=250, memory_bytes=GIB, time_limit_ms=1001
    )  # as the job has them


# Setting the list


def test_a_list_is_a_fact_with_a_version() -> None:
    told = Told()
    assert list_of(told.state.books) == (Prices(), "default")
    (first,) = told.ask(SetPrices({"cpu_hour": 5}))
    assert list_of(told.state.books) == (Prices(cpu_hour=5), "v1")
    assert told.ask(SetPrices({"cpu_hour": 5})) == []
    told.ask(SetPrices({"base": 7}))
    assert list_of(told.state.books) == (Prices(base=7), "v2"), "over the usual ones, not over those before"
    told.ask(SetPrices({}))
    assert list_of(told.state.books) == (Prices(), "v3")
    assert type(first).__name__ == "PricesSet"


@pytest.mark.parametrize(
    ("rates", "field"),
    [
        ({"cpu": 1}, "cpu"),
        ({"cpu_hour": -1}, "cpu_hour"),
        ({"cpu_hour": PRICE_MAX + 1}, "cpu_hour"),
        ({"priority_step_percent": 26}, "priority_step_percent"),
        ({"unlimited_ms": 999}, "unlimited_ms"),
    ],
)
def test_a_list_that_cannot_be(rates: dict[str, int], field: str) -> None:
    assert Told().refused(SetPrices(rates), "bad_prices").field == field


@pytest.mark.parametrize("name", NAMES)
def test_the_bounds_are_possible(name: str) -> None:
    for value in BOUNDS.get(name, (0, PRICE_MAX)):
        assert priced(prices_of({name: value}), count=10, **ONE).cost.hold >= 0


def test_the_lowest_priority_never_costs_less_than_nothing() -> None:
    assert priced(prices_of({"priority_step_percent": 25}), priority=1, **ONE).cost.per_hour == 0
