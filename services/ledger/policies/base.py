"""What a reward is computed from, and what comes of it. Pure.

A policy is a pure function of a `Case` and its parameters. It works with exact fractions of a µCPT: what is left below
one is not lost but carried to the same worker's next reward, so how work is cut into attempts, reports and messages
changes nothing. A published version never changes: rewards that were paid under it are explained by it for ever.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from events.ledger import Term, Word, Work
from projections.levels import WHOLE


class Case(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one charge is rewarded for. Amounts in µCPT.

    `price`: what the job paid for it, `fee` of that included. `credited_us`: machine time that this worker was credited
    before. `uptime`: how much of the last days the worker was within reach, in thousandths. `carried`: what was left of
    a µCPT before, in the policy's own fraction. `own`: the job and the worker have one owner. `agreed`: another
    worker found the same figures.
    """

    work: list[Work]
    price: int = 0
    fee: int = 0
    credited_us: int = 0
    uptime: int = WHOLE
    carried: int = 0
    own: bool = False
    agreed: bool = False

    @property
    def word(self) -> Word:
        """On whose word rests what ran inside of the tasks."""
        return "agreed" if self.agreed else "report"

    def terms(self) -> list[Term]:
        """The case without its work, as terms; `case_of` takes them back."""
        given = [
            Term("price", self.price, "µCPT"),
            Term("fee", self.fee, "µCPT"),
            Term("credited before", self.credited_us, "µs"),
            Term("uptime", self.uptime, "‰"),
            Term("carried", self.carried, "parts"),
        ]
        if self.own:
            given.append(Term("own job", 1))
        if self.agreed:
            given.append(Term("agreed", 1, "", "agreed"))
        return given


def case_of(work: list[Work], terms: list[Term]) -> Case:
    """The case that a fact with this work and these terms was about."""
    said = {term.name: term.value for term in terms}
    return Case(
        work,
        said.get("price", 0),
        said.get("fee", 0),
        said.get("credited before", 0),
        said.get("uptime", WHOLE),
        said.get("carried", 0),
        bool(said.get("own job")),
        bool(said.get("agreed")),
    )


class Score(msgspec.Struct, frozen=True, gc=False):
    """What a policy says: the amount in µCPT, what is left below one, and the terms in between, in order."""

    amount: int
    carried: int
    terms: list[Term]


class BadParams(Exception):
    """A parameter that the policy does not have, or that is out of its bounds. `field` names it."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail


P = TypeVar("P", bound=msgspec.Struct)


@dataclass(frozen=True)
class Policy(Generic[P]):
    """One version of a policy. `parts`: into how many parts it divides a µCPT."""

    name: str
    version: int
    about: str
    params: type[P]
    parts: int
    rule: Callable[[Case, P], Score]

    @property
    def key(self) -> str:
        """Its name with its version, such as `usage@1`."""
        return f"{self.name}@{self.version}"

    def params_of(self, given: Mapping[str, int]) -> P:
        """The policy's parameters with `given` over its own. Raises BadParams."""
        known: Mapping[str, Any] = msgspec.structs.asdict(self.params())
        for name, value in given.items():
            if name not in known:
                has = ", ".join(known) or "none"
                raise BadParams(name, f"{self.key} has no such parameter; it has {has}")
            low, high = BOUNDS[name]
            if not low <= value <= high:
                raise BadParams(name, f"is {value}; must be from {low} to {high}")
        return self.params(**given)

    def score(self, case: Case, given: Mapping[str, int]) -> Score:
        """What the case is worth. Raises BadParams."""
        return self.rule(case, self.params_of(given))


RATE_MAX = 10**12
"""µCPT an hour, or once: a million CPT."""
PERCENT_MAX = 10_000
BOUNDS: dict[str, tuple[int, int]] = {
    "base": (0, RATE_MAX),
    "gpu": (0, RATE_MAX),
    "quality": (0, RATE_MAX),
    "over_80": (0, PERCENT_MAX),
    "over_50": (0, PERCENT_MAX),
    "over_20": (0, PERCENT_MAX),
    "below": (0, PERCENT_MAX),
    "reported_max": (0, PERCENT_MAX),
    "performance": (0, PERCENT_MAX),
    "stability": (0, PERCENT_MAX),
    "bronze": (0, PERCENT_MAX),
    "silver": (0, PERCENT_MAX),
    "gold": (0, PERCENT_MAX),
    "platinum": (0, PERCENT_MAX),
    "diamond": (0, PERCENT_MAX),
    "complex_minutes": (1, 60 * 24 * 365),
    "price_max": (0, PERCENT_MAX),
}
"""What each parameter may be: amounts in µCPT, factors in percent."""


def settle(case: Case, total: int, parts: int, price_max: int, terms: list[Term]) -> Score:
    """The score for `total` parts of a µCPT and what was carried, and its last terms.

    For one's own jobs at most what the job paid, less the fee: nobody earns by working for himself. `price_max` bounds
    it for all jobs, in percent of that; 0 does not. What a bound takes away is not carried.
    """
    amount, carried = divmod(case.carried + total, parts)
    earned = max(case.price - case.fee, 0)
    bounds: list[int] = []
    if case.own:
        bounds.append(earned)
    if price_max:
        bounds.append(earned * price_max // 100)
    if bounds and amount > min(bounds):
        amount, carried = min(bounds), 0
        terms.append(Term("at most", amount, "µCPT"))
    terms.append(Term("reward", amount, "µCPT", "policy"))
    return Score(amount, carried, terms)
