"""What goes in and out of the routes of prices and quotes. Amounts in µCPT, a million of which are a CPT."""

from typing import Annotated

import msgspec
from msgspec import Meta

from web.schema import Position


class QuoteLine(msgspec.Struct, frozen=True, gc=False):
    """One line of a quote: what it is for, and how much, for each task (`base`) or each hour of each."""

    what: Annotated[str, Meta(examples=["cpu"])]
    amount: int


class JobQuote(msgspec.Struct, frozen=True, gc=False):
    """What one job would cost: `base` for each task that is run, `per_hour` for each hour of each; `lines` say why. `hold`
    is set aside before it runs; with a time limit (`limited`) that is the most that it can cost, without one it lasts for
    `each_ms` of every task, and more is held while it runs. `priority_percent`: what its priority makes of it.
    """

    hold: Annotated[int, Meta(examples=[1_017_667])]
    base: Annotated[int, Meta(examples=[1000])]
    per_hour: Annotated[int, Meta(examples=[1_000_000])]
    limited: bool
    each_ms: int
    priority_percent: Annotated[int, Meta(examples=[100])]
    lines: list[QuoteLine]


class QuotesAnswer(msgspec.Struct, frozen=True, gc=False):
    """A quote for each job of the request, in order. `hold`: for all of them; `balance`: what you have; `missing`: what you
    would lack. `economy`: whether jobs cost anything here; where it is off, nothing of this is taken.
    """

    economy: bool
    prices: Annotated[str, Meta(description="Version of the price list", examples=["default"])]
    hold: int
    balance: int
    missing: int
    jobs: list[JobQuote]


class PricesAnswer(msgspec.Struct, frozen=True, gc=False):
    """The price list. `rates`: every price by its name (docs/prices.md)."""

    economy: bool
    prices: Annotated[str, Meta(examples=["default"])]
    rates: dict[str, int]


class PricesBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Prices over the usual ones, by name; an empty set brings all of the usual ones back."""

    rates: Annotated[dict[str, int], Meta(examples=[{"cpu_hour": 2_000_000}])]


class PricesSetAnswer(msgspec.Struct, frozen=True, gc=False):
    """The list's version; it is valid for jobs submitted from `position` on. `existing`: it was this one already."""

    prices: str
    existing: bool
    position: Position
