"""Reward policies, levels, the leaderboard, and why a reward is what it is: `AsyncHive.rewards`."""

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import msgspec

from events.ledger import PolicyMode
from services.ledger.explain import Explanation
from web import rewards_schema as schema
from web.client.codec import done_of, name
from web.client.http import Query
from web.schema import Done

_policies_of = msgspec.json.Decoder(schema.PoliciesAnswer).decode
_levels_of = msgspec.json.Decoder(schema.LevelsAnswer).decode
_leaderboard_of = msgspec.json.Decoder(schema.LeaderboardAnswer).decode
_explanation_of = msgspec.json.Decoder(Explanation).decode
_rebase_of = msgspec.json.Decoder(schema.RebaseAnswer).decode


class _Ask(Protocol):
    def __call__(self, method: str, path: str, query: Query | None = None, body: Any = None) -> Awaitable[bytes]: ...


def _at(position: str) -> Query | None:
    return [("min_position", position)] if position else None


class AsyncRewards:
    """Asks through its client. Errors are HiveErrors. Amounts in µCPT."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask

    async def policies(self, *, min_position: str = "") -> list[schema.PolicyView]:
        """Every policy, and which one pays."""
        return _policies_of(await self._ask("GET", "/v1/rewards/policies", _at(min_position))).policies

    async def set_policy(
        self, policy: str, mode: PolicyMode, *, version: int = 0, params: Mapping[str, int] | None = None
    ) -> Done:
        """Let a policy pay, score in the shadow, or do nothing, for what is settled from now on."""
        body = schema.PolicyBody(mode, version, dict(params or {}))
        return done_of(await self._ask("PUT", f"/v1/rewards/policies/{name(policy)}", None, body))

    async def levels(self, *, min_position: str = "") -> list[schema.LevelView]:
        """Workers with their machine hours and levels, most hours first."""
        return _levels_of(await self._ask("GET", "/v1/rewards/levels", _at(min_position))).workers

    async def leaderboard(self, *, min_position: str = "") -> schema.LeaderboardAnswer:
        """The owners who want to be seen."""
        return _leaderboard_of(await self._ask("GET", "/v1/rewards/leaderboard", _at(min_position)))

    async def list_me(self, on: bool) -> Done:
        """Stand on the leaderboard, by name, or not."""
        return done_of(await self._ask("PUT", "/v1/rewards/leaderboard", None, schema.ListBody(on)))

    async def explain(self, reward: str, *, min_position: str = "") -> Explanation:
        """Why a reward is what it is, computed once more by the hive."""
        return _explanation_of(await self._ask("GET", f"/v1/rewards/{name(reward)}", _at(min_position)))

    async def rebase(
        self,
        policy: str,
        since: int,
        *,
        version: int = 0,
        params: Mapping[str, int] | None = None,
        dry_run: bool = True,
    ) -> schema.RebaseAnswer:
        """What rewards since the moment `since` (ms) would be under a policy; without `dry_run` it is made good."""
        body = schema.RebaseBody(policy, since, version, dict(params or {}), dry_run)
        return _rebase_of(await self._ask("POST", "/v1/rewards/rebase", None, body))
