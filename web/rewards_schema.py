"""What goes in and out of the routes of rewards. Amounts are whole µCPT: a CPT is 1,000,000 of them."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from events.ledger import PolicyMode
from projections.levels import LevelName
from web.schema import Position

PARAMS_MAX = 32
PolicyParams: TypeAlias = Annotated[dict[str, int], Meta(max_length=PARAMS_MAX, examples=[{"base": 12_000_000}])]
Micro: TypeAlias = Annotated[int, Meta(description="µCPT", examples=[1_500_000])]


class PolicyView(msgspec.Struct, frozen=True, gc=False):
    """A reward policy. `mode`: whether it pays, scores in the shadow, or does nothing; `version` is the one that does,
    `versions` are those there are. `params` are over its own, `defaults`.
    """

    policy: str
    about: str
    mode: PolicyMode
    version: int
    versions: list[int]
    params: dict[str, int]
    defaults: dict[str, int]


class PoliciesAnswer(msgspec.Struct, frozen=True, gc=False):
    """Every policy, as of `position`."""

    policies: list[PolicyView]
    position: Position


class PolicyBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What a policy is to do. `version` 0: the newest. `params`: over its own."""

    mode: PolicyMode
    version: Annotated[int, Meta(ge=0, le=10**6)] = 0
    params: PolicyParams = {}


class LevelView(msgspec.Struct, frozen=True, gc=False):
    """How a worker stands. Hours are machine hours; `uptime` in percent of the last 30 days; `earned` is null for who may
    not see it. `next`: the level above, and from how many hours on.
    """

    worker: str
    owner: str
    level: LevelName
    benefit: str
    hours: float
    next: LevelName
    next_hours: int
    uptime: float
    earned: int | None


class LevelsAnswer(msgspec.Struct, frozen=True, gc=False):
    """Workers, those with most hours first, as of `position`."""

    workers: list[LevelView]
    position: Position


class LeaderView(msgspec.Struct, frozen=True, gc=False):
    """An owner who wants to stand here: machine hours of all his workers, the highest level among them, what he earned."""

    rank: int
    owner: str
    name: str
    level: LevelName
    hours: float
    workers: int
    earned: Micro


class LeaderboardAnswer(msgspec.Struct, frozen=True, gc=False):
    """Those who asked to be on it, most hours first. `listed`: whether the caller is."""

    leaders: list[LeaderView]
    listed: bool
    position: Position


class ListBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Whether to stand on the leaderboard, by name."""

    on: bool


class RebaseBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """All rewards since the moment `since` (ms since 1970) as this policy has them. `dry_run`: say what would change, no
    more. `version` 0: the newest.
    """

    policy: Annotated[str, Meta(min_length=1, max_length=100, examples=["usage"])]
    since: Annotated[int, Meta(ge=0)]
    version: Annotated[int, Meta(ge=0, le=10**6)] = 0
    params: PolicyParams = {}
    dry_run: bool = True


class ChangeView(msgspec.Struct, frozen=True, gc=False):
    """What a rebase changes for a worker's owner: due before and after, over so many rewards."""

    worker: str
    owner: str
    name: str
    before: Micro
    after: Micro
    rewards: int


class RebaseAnswer(msgspec.Struct, frozen=True, gc=False):
    """What changed, or would. `rebase`: what the corrections cite; "" when nothing was posted."""

    changes: list[ChangeView]
    rebase: str
    policy: str
    version: int
    rewards: int
    position: Position
