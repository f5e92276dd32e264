"""Secrets for tasks in the `identity` schema: name and value, each sealed under the user's data key.

A secret that is removed is gone from here with the commit, and a user's go with the user. Raises DatabaseAway.
"""

from collections.abc import Sequence

import msgspec

from events.account import SecretId
from events.base import Sealed, UserId
from infra.database import Database
from infra.identity_store import IdentityStore


class SecretRow(msgspec.Struct, frozen=True, gc=False):
    """A secret. `set_at` in ms."""

    secret: SecretId
    user: UserId
    name: Sealed
    value: Sealed
    set_at: int


class SecretStore:
    """The table in one Postgres, whose schema `identity` makes."""

    def __init__(self, database: Database, identity: IdentityStore) -> None:
        self._database, self._identity = database, identity

    async def put(self, row: SecretRow) -> None:
        """Keep the secret, in place of the value that it had. Both texts are sealed under one key."""
        await self._write(
            "INSERT INTO identity.secrets (secret_id, user_id, key_id, name, value, set_at)"
            " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (secret_id) DO UPDATE SET key_id = excluded.key_id,"
            " name = excluded.name, value = excluded.value, set_at = excluded.set_at",
            row.secret, row.user, row.value.key, row.name.data, row.value.data, row.set_at,
        )  # fmt: skip

    async def remove(self, secret: SecretId) -> None:
        """Destroy the secret."""
        await self._write("DELETE FROM identity.secrets WHERE secret_id = $1", secret)

    async def names(self, user: UserId) -> list[tuple[SecretId, Sealed, int]]:
        """The user's secrets without their values: id, name, and when each was set (ms)."""
        await self._identity.ensure()
        rows = await self._database.fetch(
            "SELECT secret_id, key_id, name, set_at FROM identity.secrets WHERE user_id = $1", user
        )
        return [(secret, Sealed(key, name), set_at) for secret, key, name, set_at in rows]

    async def values(self, secrets: Sequence[SecretId]) -> dict[SecretId, Sealed]:
        """The values of those of `secrets` that are there."""
        await self._identity.ensure()
        rows = await self._database.fetch(
            "SELECT secret_id, key_id, value FROM identity.secrets WHERE secret_id = ANY($1)", [*secrets]
        )
        return {secret: Sealed(key, value) for secret, key, value in rows}

    async def _write(self, sql: str, *arguments: object) -> None:
        await self._identity.ensure()
        async with self._database.transaction() as transaction:
            await transaction.execute("SET LOCAL synchronous_commit = on")
            await transaction.execute(sql, *arguments)
