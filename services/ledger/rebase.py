"""What rewards would have been under another policy, and what has to be made good. Pure.

The fold of the ledger's own facts: each reward has all that any policy needs. What is due for a reward is what the last
rebase over it says, or what was said when it was paid. A rebase starts without a carried fraction, for each worker.
"""

import msgspec

from events.base import UserId, WorkerId
from events.catalog import Record
from events.ledger import PolicyRebased, RewardId, RewardPaid
from services.hosting import Refused
from services.ledger.commands import Correction
from services.ledger.policies.base import Case, case_of
from services.ledger.policies.registry import BY_KEY
from services.ledger.rewards import known_policy

REWARDS_MAX = 1_000_000
"""So many are held in memory to compute a rebase."""


class Rewarded(msgspec.Struct):
    """A reward as it stands: `due` changes with each rebase over it."""

    position: int
    at: int
    reward: RewardId
    worker: WorkerId
    owner: UserId
    case: Case
    due: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """What a rebase changes for a worker and its owner: due before and after, µCPT, over so many rewards."""

    worker: WorkerId
    owner: UserId
    before: int
    after: int
    rewards: int


class Again(Exception):
    """Rewards before the first that was read matter, too: read from `position` on."""

    def __init__(self, position: int) -> None:
        super().__init__(f"read from {position} on")
        self.position = position


class Rebasing:
    """Takes the ledger's messages from some position on, in order; then says what a policy would change."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.rewards: list[Rewarded] = []
        self.position = 0

    def take(self, record: Record) -> None:
        """Fold a message. Raises Again, and Refused when there are too many rewards."""
        for event in record.message.events():
            if isinstance(event, PolicyRebased):
                self._rebased(event)
            elif isinstance(event, RewardPaid) and not event.cites:
                if len(self.rewards) >= REWARDS_MAX:
                    detail = f"more than {REWARDS_MAX} rewards since then; choose a later moment"
                    raise Refused("too_many", "since", detail)
                case = case_of(event.work, event.terms)
                self.rewards.append(
                    Rewarded(
                        record.position, record.message.at, event.reward, event.worker, event.owner, case, event.due
                    )
                )
        self.position = record.position

    def _rebased(self, event: PolicyRebased) -> None:
        if event.first < self.start:
            raise Again(event.first)
        within = [reward for reward in self.rewards if event.first <= reward.position <= event.last]
        for reward, due in zip(within, dues(within, event.policy, event.version, event.params), strict=True):
            reward.due = due

    def changes(self, since: int, policy: str, version: int, params: dict[str, int]) -> list[Change]:
        """What the policy changes for rewards at or after `since` (ms), by worker and owner, in order. Raises Refused."""
        known_policy(policy, version, params)
        within = [reward for reward in self.rewards if reward.at >= since]
        sums: dict[tuple[WorkerId, UserId], list[int]] = {}
        for reward, due in zip(within, dues(within, policy, version, params), strict=True):
            some = sums.setdefault((reward.worker, reward.owner), [0, 0, 0])
            some[0] += reward.due
            some[1] += due
            some[2] += 1
        return [Change(worker, owner, *some) for (worker, owner), some in sorted(sums.items())]

    def first(self, since: int) -> int:
        """The position of the first reward at or after `since` (ms); 0 when there is none."""
        return next((reward.position for reward in self.rewards if reward.at >= since), 0)


def dues(rewards: list[Rewarded], policy: str, version: int, params: dict[str, int]) -> list[int]:
    """What each of these is worth under a policy, one after the other."""
    rule, carried = BY_KEY[f"{policy}@{version}"], dict[WorkerId, int]()
    found: list[int] = []
    for reward in rewards:
        case = msgspec.structs.replace(reward.case, carried=carried.get(reward.worker, 0))
        score = rule.score(case, params)
        carried[reward.worker] = score.carried
        found.append(score.amount)
    return found


def corrections(changes: list[Change]) -> list[Correction]:
    """What has to be posted for these changes."""
    return [
        Correction(change.worker, change.owner, change.after - change.before, change.rewards)
        for change in changes
        if change.after != change.before
    ]
