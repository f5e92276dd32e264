"""How workers and their owners stand: machine hours and levels, what was earned, which reward policies run. The fold of
`evt.ledger.main`, as far as it is about rewards. Pure.

It is both what the ledger's writer decides on and what a reader is shown. Times in milliseconds of the pool's clock,
machine time in microseconds, amounts in µCPT.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from events.base import UserId, WorkerId
from events.catalog import AnyEvent, Unknown
from events.ledger import (
    OwnerListed,
    PolicyMode,
    PolicyRebased,
    PolicySet,
    RewardPaid,
    RewardScored,
    StandingChanged,
    user_account,
)

HOUR_US = 3_600_000_000
"""Microseconds of an hour."""
WHOLE = 1000
"""Shares are in thousandths."""
DAY_MS = 86_400_000
DAYS = 30
"""Over so many UTC days, today's among them, uptime is looked at."""
FIRST_POLICY = "market"
"""What pays until the operator chooses."""

State = Literal["ready", "silent", "gone"]
LevelName = Literal["", "bronze", "silver", "gold", "platinum", "diamond"]


class Level(msgspec.Struct, frozen=True, gc=False):
    """A level, from how many machine hours on, and what it brings. `percent`: the published multiplier."""

    name: LevelName
    hours: int
    percent: int
    benefit: str

    @property
    def from_us(self) -> int:
        """From how many microseconds of machine time on."""
        return self.hours * HOUR_US


LEVELS = (
    Level("", 0, 100, ""),
    Level("bronze", 100, 100, "basic rewards"),
    Level("silver", 500, 120, "priority task assignment"),
    Level("gold", 1000, 150, "advanced task access"),
    Level("platinum", 2000, 200, "beta feature access"),
    Level("diamond", 5000, 300, "network governance rights"),
)
"""Ascending. Below 100 hours a worker has no level, and the factor of bronze."""


def level_of(credited_us: int) -> Level:
    """The level of a worker that was credited so much machine time."""
    return next(level for level in reversed(LEVELS) if credited_us >= level.from_us)


def next_of(level: Level) -> Level | None:
    """The level above, if there is one."""
    at = LEVELS.index(level) + 1
    return LEVELS[at] if at < len(LEVELS) else None


class Standing(msgspec.Struct):
    """One worker. `days`: how long it was within reach on each UTC day of the last ones, by the day's number since 1970;
    `worked_ms`: how long it was within reach or silent, altogether; both without the stretch since `since`. `carried`:
    what is left of a µCPT, by policy. `earned`: what was due for its work, to whoever had it; `owner` has it now.
    """

    first: int
    state: State = "gone"
    since: int = 0
    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    days: dict[int, int] = {}
    worked_ms: int = 0
    credited_us: int = 0
    carried: dict[str, int] = {}
    owner: UserId = ""
    earned: int = 0


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What the operator chose for a policy."""

    mode: PolicyMode
    version: int
    params: dict[str, int] = {}


class Rewards(msgspec.Struct):
    """`open`: what each owner is due and has not, less than 0 when it is he who owes; `earned`: what was ever due to each.
    `rebases`: all that were made, in order; they are few. `listed`: who wants to stand on the leaderboard.
    """

    policies: dict[str, Choice] = msgspec.field(default_factory=lambda: {FIRST_POLICY: Choice("paying", 1)})
    standings: dict[WorkerId, Standing] = {}
    open: dict[UserId, int] = {}
    earned: dict[UserId, int] = {}
    rebases: list[PolicyRebased] = []
    listed: dict[UserId, None] = {}

    @property
    def rebase(self) -> str:
        """The last one; "" when there was none."""
        return self.rebases[-1].rebase if self.rebases else ""


def paying(state: Rewards) -> str:
    """The policy that pays; "" when none does."""
    return next((name for name, choice in state.policies.items() if choice.mode == "paying"), "")


def uptime(standing: Standing, at: int) -> int:
    """How much of the last days until `at`, and since it first registered, the worker was within reach, in thousandths."""
    today = at // DAY_MS
    begin = max(standing.first, (today - DAYS + 1) * DAY_MS)
    if at <= begin:
        return WHOLE
    up = sum(ms for day, ms in standing.days.items() if day > today - DAYS)
    if standing.state == "ready":
        up += max(at - max(standing.since, begin), 0)
    return min(up * WHOLE // (at - begin), WHOLE)


def moved(event: RewardPaid) -> int:
    """What the fact gave its owner, less what it took."""
    account = user_account(event.owner)
    return sum(
        (posting.credit == account) * posting.amount - (posting.debit == account) * posting.amount
        for posting in event.postings
    )


def _changed(state: Rewards, event: StandingChanged, at: int) -> None:
    standing = state.standings.get(event.standing)
    if standing is None:
        standing = state.standings[event.standing] = Standing(event.since)
    _count(standing, event.since)
    standing.state, standing.since = event.state, event.since
    standing.cpus_milli, standing.memory_bytes, standing.gpus = event.cpus_milli, event.memory_bytes, event.gpus


def _count(standing: Standing, until: int) -> None:
    """Count the stretch that ends at `until`."""
    if until <= standing.since or standing.state == "gone":
        return
    standing.worked_ms += until - standing.since
    if standing.state == "ready":
        first = until // DAY_MS - DAYS + 1
        at = max(standing.since, first * DAY_MS)
        while at < until:
            day = at // DAY_MS
            end = min((day + 1) * DAY_MS, until)
            standing.days[day] = standing.days.get(day, 0) + end - at
            at = end
        for day in [day for day in standing.days if day < first]:
            del standing.days[day]


def _paid(state: Rewards, event: RewardPaid, at: int) -> None:
    _add(state.open, event.owner, event.due - moved(event))
    _add(state.earned, event.owner, event.due)
    if (standing := state.standings.get(event.worker)) is not None:
        standing.earned += event.due
        if not event.cites:
            standing.owner = event.owner
            _worked(standing, event)


def _add(sums: dict[UserId, int], owner: UserId, amount: int) -> None:
    """Owners who come to 0 are left out."""
    if sum_ := sums.get(owner, 0) + amount:
        sums[owner] = sum_
    else:
        sums.pop(owner, None)


def _scored(state: Rewards, event: RewardScored, at: int) -> None:
    if (standing := state.standings.get(event.worker)) is not None:
        _worked(standing, event)


def _worked(standing: Standing, event: RewardPaid | RewardScored) -> None:
    standing.credited_us += sum(work.tasks * work.machine_us for work in event.work)
    key = f"{event.policy}@{event.version}"
    if event.carried:
        standing.carried[key] = event.carried
    else:
        standing.carried.pop(key, None)


def _set(state: Rewards, event: PolicySet, at: int) -> None:
    state.policies[event.policy] = Choice(event.mode, event.version, event.params)


def _rebased(state: Rewards, event: PolicyRebased, at: int) -> None:
    state.rebases.append(event)


def _listed(state: Rewards, event: OwnerListed, at: int) -> None:
    if event.on:
        state.listed[event.owner] = None
    else:
        state.listed.pop(event.owner, None)


_CHANGES: dict[type[Any], Callable[[Rewards, Any, int], None]] = {
    RewardPaid: _paid,
    RewardScored: _scored,
    PolicySet: _set,
    PolicyRebased: _rebased,
    OwnerListed: _listed,
    StandingChanged: _changed,
}


def apply(state: Rewards, event: AnyEvent | Unknown, at: int) -> None:
    """Fold one event in, in place; one that is not about rewards changes nothing."""
    if (change := _CHANGES.get(type(event))) is not None:
        change(state, event, at)


def check(state: Rewards) -> None:
    """Assert every invariant; for tests and audits."""
    assert sum(choice.mode == "paying" for choice in state.policies.values()) <= 1, "two policies pay"
    assert all(state.open.values()), "an owner with nothing open"
    for worker, standing in state.standings.items():
        assert standing.credited_us >= 0, worker
        assert len(standing.days) <= DAYS + 1, worker
