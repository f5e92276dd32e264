"""The levels of a worker, by its machine hours. Pure."""

from typing import Literal

import msgspec

from services.ledger.policies.base import HOUR_US

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
