"""How often somebody was wrong, in the `identity` schema, where all processes of a hive meet. Names are kept as digests.

A count is forgotten `window_ms` after its first failure. Raises DatabaseAway.
"""

import hashlib
from collections.abc import Collection, Iterable

from infra.database import Database, Record
from infra.identity_store import IdentityStore

_COUNT = """
INSERT INTO identity.failures AS f (name, failures, since) SELECT unnest($1::bytea[]), 1, $2::bigint
ON CONFLICT (name) DO UPDATE SET
    failures = CASE WHEN f.since <= $2::bigint - $3::bigint THEN 1 ELSE f.failures + 1 END,
    since = CASE WHEN f.since <= $2::bigint - $3::bigint THEN $2::bigint ELSE f.since END
RETURNING name, failures, since"""
_LOOK = "SELECT name, failures, since FROM identity.failures WHERE name = ANY($1) AND since > $2::bigint - $3::bigint"


class FailureStore:
    """The table in one Postgres, whose schema `identity` makes."""

    def __init__(self, database: Database, identity: IdentityStore, window_ms: int) -> None:
        self._database, self._identity, self._window_ms = database, identity, window_ms

    async def look(self, names: Collection[str], now: int) -> dict[str, tuple[int, int]]:
        """For each of the names that failed: how often, and since when (ms)."""
        await self._identity.ensure()
        return _by_name(names, await self._database.fetch(_LOOK, _digests(names), now, self._window_ms))

    async def count(self, names: Collection[str], now: int) -> dict[str, tuple[int, int]]:
        """Count one failure of each; how often it failed now, and since when (ms)."""
        # In one order, so that two that count the same names do not wait for each other.
        return _by_name(names, await self._write(_COUNT, sorted(_digests(names)), now, self._window_ms))

    async def forget(self, name: str) -> None:
        """The name failed never."""
        await self._write("DELETE FROM identity.failures WHERE name = $1", _digest(name))

    async def take_back(self, name: str) -> None:
        """One failure of the name was none."""
        await self._write(
            "UPDATE identity.failures SET failures = failures - 1 WHERE name = $1 AND failures > 0", _digest(name)
        )

    async def forget_over(self, now: int) -> None:
        """Forget what counts no more."""
        await self._write("DELETE FROM identity.failures WHERE since <= $1::bigint - $2::bigint", now, self._window_ms)

    async def _write(self, sql: str, *arguments: object) -> list[Record]:
        await self._identity.ensure()
        async with self._database.transaction() as transaction:
            return await transaction.fetch(sql, *arguments)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _digests(names: Iterable[str]) -> list[bytes]:
    return [_digest(name) for name in names]


def _by_name(names: Iterable[str], rows: list[Record]) -> dict[str, tuple[int, int]]:
    found = {row[0]: (row[1], row[2]) for row in rows}
    return {name: found[digest] for name in names if (digest := _digest(name)) in found}
