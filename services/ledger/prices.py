"""What a job costs: a price list, and from it a quote with its breakdown, before anything is handed in. Pure.

Whole µCPT, each line rounded down. What a job costs is fixed when it is submitted (`Cost`), whatever the list says later.
"""

import msgspec

from events.job import Cost
from events.ledger import PricesSet
from events.spec import JobSpec, gpus_milli
from events.units import HOUR_MS, cpt_text
from projections.ledger import Books
from services.hosting import Refused

GIB = 1024**3
PRICE_MAX = 1_000_000_000_000
"""µCPT: a million CPT."""
PRIORITY_USUAL = 5
DEFAULT_VERSION = "default"
"""The version of the list below, until an admin sets one."""


class BadPrices(Exception):
    """A price list that cannot be. `field` names the price."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail


class Prices(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The price list, in µCPT."""

    base: int = 1_000
    """For each task that was run."""
    cpu_hour: int = 1_000_000
    """For each CPU that a task reserves, an hour."""
    memory_gib_hour: int = 100_000
    """For each GiB of memory."""
    gpu_hour: int = 10_000_000
    """For each GPU; a share of one costs its share."""
    gpu_memory_gib_hour: int = 100_000
    """For each GiB of memory asked for on a GPU."""
    disk_gib_hour: int = 1_000
    """For each GiB of disk."""
    host_hour: int = 100_000
    """For each machine after the first, where a task needs several at once."""
    priority_step_percent: int = 10
    """So much more for each step of priority above 5, and so much less for each below."""
    unlimited_ms: int = 60_000
    """Without a time limit so much of each task is held at first (milliseconds, not a price)."""
    prompt_token: int = 1
    """For each token of a model's input..."""
    output_token: int = 4
    """...and for each that it says."""


BOUNDS: dict[str, tuple[int, int]] = {
    "priority_step_percent": (0, 25),
    "unlimited_ms": (1_000, 24 * HOUR_MS),
}
"""Where a price may be anything else than 0 to PRICE_MAX. At 25 % the lowest priority is free but for nothing: 100 - 4 x 25."""
NAMES: tuple[str, ...] = Prices.__struct_fields__


def prices_of(rates: dict[str, int]) -> Prices:
    """The list that has `rates` over the usual ones. Raises BadPrices."""
    for name, value in rates.items():
        if name not in NAMES:
            raise BadPrices(name, f"is no price; there are {', '.join(NAMES)}")
        low, high = BOUNDS.get(name, (0, PRICE_MAX))
        if not low <= value <= high:
            raise BadPrices(name, f"is {value}; must be from {low} to {high}")
    return Prices(**rates)


def decide_set(books: Books, rates: dict[str, int]) -> list[PricesSet]:
    """Set the list; nothing when it is this one already. Raises Refused."""
    try:
        prices_of(rates)
    except BadPrices as error:
        raise Refused("bad_prices", error.field, error.detail) from None
    if books.prices is not None and books.prices.rates == rates:
        return []
    return [PricesSet(f"v{books.price_lists + 1}", rates)]


def list_of(books: Books) -> tuple[Prices, str]:
    """The list that is valid now, and its version."""
    if books.prices is None:
        return Prices(), DEFAULT_VERSION
    return Prices(**books.prices.rates), books.prices.prices


class Shape(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What each task of a job reserves, and how many there are. `gpus_milli`: thousandths; `gpu_memory`: bytes on each."""

    count: int = 1
    priority: int = PRIORITY_USUAL
    time_limit_ms: int = 0
    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus_milli: int = 0
    gpu_memory: int = 0
    disk_bytes: int = 0
    hosts: int = 1


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line of a quote: `amount` µCPT for `what`, for each hour of each task, or (`base`) for each task."""

    what: str
    amount: int


class Quote(msgspec.Struct, frozen=True, gc=False):
    """What a job would cost. `lines` but the first, which is the base price, add up to the price of a task's hour."""

    cost: Cost
    lines: list[Line]
    factor_percent: int
    limited: bool

    @property
    def hold(self) -> int:
        """What is set aside before it runs, µCPT."""
        return self.cost.hold


def quote(prices: Prices, version: str, shape: Shape, most: int = 0) -> Quote:
    """What a job of this shape costs. `most` (µCPT, 0: any amount): beyond that nothing is ever held for it."""
    factor = 100 + (shape.priority - PRIORITY_USUAL) * prices.priority_step_percent
    devices = max(1, shape.gpus_milli // 1000) if shape.gpus_milli else 0
    base = prices.base * factor // 100
    hourly = [
        Line("cpu", prices.cpu_hour * shape.cpus_milli // 1000),
        Line("memory", prices.memory_gib_hour * shape.memory_bytes // GIB),
        Line("gpu", prices.gpu_hour * shape.gpus_milli // 1000),
        Line("gpu memory", prices.gpu_memory_gib_hour * shape.gpu_memory * devices // GIB),
        Line("disk", prices.disk_gib_hour * shape.disk_bytes // GIB),
        Line("hosts", prices.host_hour * max(0, shape.hosts - 1)),
    ]
    plain = sum(line.amount for line in hourly)
    per_hour = plain * factor // 100
    lines = [Line("base", base), *(line for line in hourly if line.amount)]
    if per_hour != plain:
        lines.append(Line("priority", per_hour - plain))
    each_ms = shape.time_limit_ms or prices.unlimited_ms
    hold = base * shape.count + -(-per_hour * shape.count * each_ms // HOUR_MS)
    limited = shape.time_limit_ms > 0
    return Quote(Cost(base, per_hour, hold, 0 if limited else each_ms, version, most), lines, factor, limited)


def tokens(prices: Prices, prompt: int, output: int) -> int:
    """What an answer of a model costs, µCPT."""
    return prices.prompt_token * prompt + prices.output_token * output


def above(quoted: Quote, most: int) -> str:
    """Why a job may not cost at most `most` µCPT; "" when it may. 0: its user named no limit."""
    if not most or quoted.hold <= most:
        return ""
    what = "it may cost" if quoted.limited else "before it runs, there must be"
    return f"{what} {cpt_text(quoted.hold)} CPT, and max_cpt is {cpt_text(most)}"


def shape_of(spec: JobSpec) -> Shape:
    """What a JobSpec reserves."""
    return Shape(
        count=spec.count,
        priority=spec.priority,
        time_limit_ms=-int(-spec.time_limit * 1000 // 1),
        cpus_milli=round(spec.cpus * 1000),
        memory_bytes=spec.memory,
        gpus_milli=gpus_milli(spec),
        gpu_memory=spec.gpu_memory,
        disk_bytes=spec.disk,
    )
