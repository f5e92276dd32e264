"""Secrets for tasks: named by their user, kept in Postgres under the user's data key, and known to the log by ids alone.

An id is a keyed digest of user and name, so that asking twice names the same secret, and the log tells no name.
"""

import hashlib
import time
from collections.abc import Sequence

from events.account import SecretId
from events.base import UserId
from infra.sealing import Keys
from infra.secret_store import SecretRow, SecretStore

ID_BYTES = 10


class SecretGone(Exception):
    """A secret that a job asked for is not there any more. `at`: the how manieth of those asked for."""

    def __init__(self, at: int) -> None:
        super().__init__(f"secrets[{at}] was removed by its user")
        self.at = at


class TaskSecrets:
    """Keeps them. `key`: 32 bytes under which ids are made. Raises DatabaseAway, and KeyAway or KeyDestroyed of `keys`."""

    def __init__(self, store: SecretStore, keys: Keys, key: bytes) -> None:
        self._store, self._keys, self._key = store, keys, key

    def id_of(self, user: UserId, name: str) -> SecretId:
        """The id of the user's secret with this name, whether there is one or not."""
        digest = hashlib.blake2b(f"{user}|{name}".encode(), key=self._key, digest_size=ID_BYTES)
        return f"s{digest.hexdigest()}"

    async def put(self, user: UserId, name: str, value: str) -> None:
        """Keep the value, in place of the one before."""
        sealed = [self._keys.seal(user, text.encode()) for text in (name, value)]
        now = time.time_ns() // 1_000_000
        await self._store.put(SecretRow(self.id_of(user, name), user, sealed[0], sealed[1], now))

    async def remove(self, user: UserId, name: str) -> None:
        """Destroy the value."""
        await self._store.remove(self.id_of(user, name))

    async def names(self, user: UserId) -> list[tuple[SecretId, str, int]]:
        """Id and name of each of the user's secrets, by name, and when it was set (ms)."""
        rows = await self._store.names(user)
        found = [(secret, self._keys.open(name).decode(), set_at) for secret, name, set_at in rows]
        return sorted(found, key=lambda one: one[1])

    async def values(self, user: UserId, names: Sequence[str]) -> list[str]:
        """The values of these secrets of the user. Raises SecretGone."""
        wanted = [self.id_of(user, name) for name in names]
        found = await self._store.values(wanted)
        for at, secret in enumerate(wanted):
            if secret not in found:
                raise SecretGone(at)
        return [self._keys.open(found[secret]).decode() for secret in wanted]
