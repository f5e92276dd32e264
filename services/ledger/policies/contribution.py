"""Pay by contribution: machine hours, with more for success, for being within reach, for large tasks, by level. Pure."""

from collections.abc import Iterator

import msgspec

from events.ledger import Term, Work
from projections.levels import HOUR_US, WHOLE, Level, level_of, next_of
from services.ledger.policies.base import Case, Policy, Score, settle

MINUTE_US = 60_000_000
PERCENT = 100


class ContributionParams(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`base` in µCPT for a machine hour, `quality` once for each task that succeeded and took `complex_minutes` of a
    whole machine or more; the others in percent. `price_max`: see `settle`.
    """

    base: int = 10_000_000
    performance: int = 50
    stability: int = 30
    quality: int = 5_000_000
    complex_minutes: int = 60
    bronze: int = 100
    silver: int = 120
    gold: int = 150
    platinum: int = 200
    diamond: int = 300
    price_max: int = 0


def by_level(work: list[Work], credited_us: int) -> Iterator[tuple[Level, Work]]:
    """The work, cut where the worker reaches another level: a task counts at the level that it began with."""
    for some in work:
        left = some.tasks
        while left:
            level = level_of(credited_us)
            above = next_of(level)
            fit = left
            if above is not None and some.machine_us:
                fit = min(left, -(-(above.from_us - credited_us) // some.machine_us))
            yield level, msgspec.structs.replace(some, tasks=fit)
            credited_us += fit * some.machine_us
            left -= fit


def contribution(case: Case, params: ContributionParams) -> Score:
    """The published formula, with each task as the period that it is about."""
    base = performance = quality = total = 0
    complex_us = params.complex_minutes * MINUTE_US
    levels: dict[str, tuple[Level, int]] = {}
    for level, work in by_level(case.work, case.credited_us):
        time = work.tasks * work.machine_us
        own = time * params.base
        done = own if work.done else 0
        large = work.tasks if work.done and work.machine_us >= complex_us else 0
        factor: int = getattr(params, level.name) if level.name else params.bronze
        parts = own * PERCENT * WHOLE + done * params.performance * WHOLE + own * params.stability * case.uptime
        total += (parts + large * params.quality * HOUR_US * PERCENT * WHOLE) * factor
        base, performance, quality = base + own, performance + done, quality + large
        levels[level.name] = (level, levels.get(level.name, (level, 0))[1] + time)
    hour = HOUR_US * PERCENT
    terms = [
        *case.terms(),
        Term("machine time", sum(time for _, time in levels.values()), "µs"),
        Term("base", base // HOUR_US, "µCPT"),
        Term("performance", performance * params.performance // hour, "µCPT", case.word),
        Term("stability", base * params.stability * case.uptime // (hour * WHOLE), "µCPT"),
        Term("quality", quality * params.quality, "µCPT", case.word),
    ]
    for level, time in levels.values():
        factor = getattr(params, level.name) if level.name else params.bronze
        terms += [
            Term(f"level {level.name or 'none'}: time", time, "µs"),
            Term(f"level {level.name or 'none'}: factor", factor, "%", "policy"),
        ]
    return settle(case, total, CONTRIBUTION.parts, params.price_max, terms)


CONTRIBUTION = Policy(
    "contribution",
    1,
    "by machine hours, success, uptime, large tasks and level",
    ContributionParams,
    HOUR_US * PERCENT * WHOLE * PERCENT,
    contribution,
)
