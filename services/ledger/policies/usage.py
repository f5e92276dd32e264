"""Pay by use: a rate for each machine hour, more of it the better the reservation was used, and a bonus for GPUs. Pure."""

import msgspec

from events.ledger import Term, Work
from projections.levels import HOUR_US, WHOLE
from services.ledger.policies.base import Case, Policy, Score, settle


class UsageParams(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`base`, `gpu` in µCPT for a machine hour, the second for GPUs used in full; factors in percent. `reported_max`: the
    highest factor while nobody but the worker says how much was used. `price_max`: see `settle`.
    """

    base: int = 10_000_000
    over_80: int = 150
    over_50: int = 120
    over_20: int = 100
    below: int = 80
    gpu: int = 1_000_000
    reported_max: int = 150
    price_max: int = 0


def step_of(work: Work) -> int:
    """Over which step the average of CPU and memory use is: 80, 50, 20, or 0. Of what was not reserved nothing is known;
    the average is then of the other. Compared exactly: 80.0 % is not over 80.
    """
    known = [share for share in (work.cpu, work.memory) if share >= 0]
    return next((step for step in (80, 50, 20) if known and sum(known) > step * WHOLE // 100 * len(known)), 0)


def factor_of(step: int, params: UsageParams, agreed: bool) -> int:
    """The factor of a step, in percent."""
    factor = {80: params.over_80, 50: params.over_50, 20: params.over_20, 0: params.below}[step]
    return factor if agreed else min(factor, params.reported_max)


def usage(case: Case, params: UsageParams) -> Score:
    """The published formula, for each task by its machine time."""
    by_step: dict[int, int] = {}
    bonus = 0
    for work in case.work:
        step, time = step_of(work), work.tasks * work.machine_us
        by_step[step] = by_step.get(step, 0) + time
        bonus += time * params.gpu * max(work.gpu, 0)
    terms = [*case.terms(), Term("machine time", sum(by_step.values()), "µs")]
    total = bonus
    for step in sorted(by_step, reverse=True):
        factor = factor_of(step, params, case.agreed)
        part = by_step[step] * params.base * factor * (WHOLE // 100)
        name = f"use over {step} %" if step else "use up to 20 %"
        terms += [
            Term(f"{name}: time", by_step[step], "µs", case.word),
            Term(f"{name}: factor", factor, "%", "policy"),
            Term(f"{name}: pay", part // USAGE.parts, "µCPT", case.word),
        ]
        total += part
    if bonus:
        terms.append(Term("GPU bonus", bonus // USAGE.parts, "µCPT", case.word))
    return settle(case, total, USAGE.parts, params.price_max, terms)


USAGE = Policy(
    "usage", 1, "by machine hours and how well the reservation was used", UsageParams, HOUR_US * WHOLE, usage
)
