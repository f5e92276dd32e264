"""Every version of every policy. One that was ever published stays: what it paid must be explained. Pure."""

from typing import Any

from services.ledger.policies.base import Policy
from services.ledger.policies.contribution import CONTRIBUTION
from services.ledger.policies.market import MARKET
from services.ledger.policies.usage import USAGE

POLICIES: tuple[Policy[Any], ...] = (MARKET, USAGE, CONTRIBUTION)
BY_KEY: dict[str, Policy[Any]] = {policy.key: policy for policy in POLICIES}
NAMES = tuple(dict.fromkeys(policy.name for policy in POLICIES))


def policy_of(name: str, version: int = 0) -> Policy[Any] | None:
    """The policy with this name, its newest version when none is given; None when there is none."""
    same = [policy for policy in POLICIES if policy.name == name and version in (0, policy.version)]
    return max(same, key=lambda policy: policy.version, default=None)
