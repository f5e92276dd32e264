"""Everybody's data keys: what a user typed is sealed under the user's own, so that destroying it erases the text.

Keys are 32 random bytes with a random id. They lie in Postgres, each wrapped under the folder's own key and bound to
its id and user, and in a cache on this machine (SQLite, 0600), so that texts open while Postgres is away, also after a
restart. In memory they lie unwrapped: sealing and opening wait for nothing. The folder's own key, "k1", is the admin's.

A key that another control plane made is fetched when it is first asked for, or when its user is heard of: until then
`open` raises KeyAway. A destroyed key is refused because the log says that its user is erased, whatever any copy of the
cache still holds; taking it out of memory, cache and Postgres follows, again and again until it is done.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import structlog
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from events.account import UserErased, UserRegistered
from events.base import Sealed, UserId
from infra.database import DatabaseAway, DatabaseRefused
from infra.identity_store import PAGE_MAX, IdentityStore, KeyRow
from infra.sealing import KEY_BYTES, KeyAway, KeyDestroyed, SealBroken, Sealer, open_box
from infra.threads import in_thread

OWNER_OF_K1: UserId = "admin"
GONE_MAX = 100_000
"""Ids of keys that are known to be nowhere. One that was forgotten is asked for again."""
WANTED_MAX = 1000
RETRY_S = 0.5
BUSY_S = 10.0

_log = structlog.get_logger()


class Keyring:
    """The data keys. `erased` says whether the log knows a user as erased. `cache` is the file of the local copies."""

    def __init__(self, root_key: bytes, cache: Path, store: IdentityStore, erased: Callable[[UserId], bool]) -> None:
        self._root_key, self._store, self._erased = root_key, store, erased
        self._own = Sealer(root_key)
        self._cache = KeyCache(cache)
        self._keys: dict[str, tuple[UserId, bytes]] = {}
        self._key_of: dict[UserId, str] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._not_ours = set[str]()
        self._wanted: dict[str, None] = {}
        self._wanted_of: dict[UserId, None] = {}
        self._to_destroy: dict[UserId, None] = {}
        self._wake = asyncio.Event()
        self._take(self._cache.rows())

    # Using keys

    def seal(self, user: UserId, data: bytes) -> Sealed:
        """`data` under the user's key. Raises KeyDestroyed, KeyAway."""
        if user == OWNER_OF_K1:
            return self._own.seal(data)
        self._check_lives(user)
        key_id = self._key_of.get(user)
        if key_id is None:
            self._want(self._wanted_of, user)
            raise KeyAway(f"the data key of {user} is not here yet")
        return Sealed(key_id, bytes(SecretBox(self._keys[key_id][1]).encrypt(data)))

    def open(self, sealed: Sealed) -> bytes:
        """What was sealed. Raises KeyDestroyed, KeyAway or SealBroken."""
        if sealed.key == self._own.key_id:
            return self._own.open(sealed)
        known = self._keys.get(sealed.key)
        if known is not None:
            self._check_lives(known[0])
            return open_box(SecretBox(known[1]), sealed)
        if sealed.key in self._not_ours:
            raise SealBroken(f"the key {sealed.key!r} was made under another data.key than this control plane's")
        if sealed.key in self._gone:
            raise KeyDestroyed(f"sealed under the key {sealed.key!r}, which was destroyed")
        self._want(self._wanted, sealed.key)
        raise KeyAway(f"the data key {sealed.key!r} is not here yet")

    def has(self, user: UserId) -> bool:
        """Whether the user's key is here."""
        return user == OWNER_OF_K1 or (user in self._key_of and not self._erased(user))

    def _check_lives(self, user: UserId) -> None:
        if self._erased(user):
            if user in self._key_of:
                self._forget(user)
            raise KeyDestroyed(f"the data key of {user} was destroyed")

    def _want(self, wanted: dict[str, None], name: str) -> None:
        if len(wanted) < WANTED_MAX:
            wanted[name] = None
        self._wake.set()

    # Making and destroying

    async def make(self, user: UserId) -> None:
        """Make a key for a user whose row is there; one who has a key keeps it. Raises DatabaseAway, KeyDestroyed."""
        self._check_lives(user)
        key_id, key = f"d{secrets.token_hex(8)}", secrets.token_bytes(KEY_BYTES)
        wrapped = self._wrap(key_id, user, key)
        row = await self._store.add_key(KeyRow(key_id, user, wrapped, time.time_ns() // 1_000_000))
        if row is None:
            raise KeyDestroyed(f"there is no user {user} who could have a data key")
        await self._add([row])

    async def destroy(self, user: UserId) -> None:
        """Destroy the user's key here and in Postgres. Raises DatabaseAway: it is done here, and tried there again."""
        self._forget(user)
        await self._destroy([user])

    async def _destroy(self, users: list[UserId]) -> None:
        await in_thread(self._cache.remove, users)
        await self._store.destroy_keys(users)
        for user in users:
            self._to_destroy.pop(user, None)

    def heard(self, event: Any, at: int) -> None:
        """To be told each event of the accounts."""
        if isinstance(event, UserErased):
            self._forget(event.user)
        elif isinstance(event, UserRegistered) and not self.has(event.user):
            self._want(self._wanted_of, event.user)

    def compare(self, users: Iterable[UserId]) -> None:
        """To be told every user once the log is folded: destroys what is left of erased ones, asks for what lacks."""
        for user in users:
            if self._erased(user):
                self._forget(user)
            elif not self.has(user):
                self._want(self._wanted_of, user)

    def _forget(self, user: UserId) -> None:
        key_id = self._key_of.pop(user, None)
        if key_id is not None:
            self._keys.pop(key_id, None)
            self._is_gone(key_id)
        self._to_destroy[user] = None
        self._wake.set()

    def _is_gone(self, key_id: str) -> None:
        self._gone[key_id] = None
        if len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    # Keeping up with Postgres

    async def run(self) -> None:
        """Fetch what is asked for and finish what is destroyed, until cancelled. While Postgres is away, it waits."""
        loaded = False
        while True:
            self._wake.clear()
            try:
                if not loaded:
                    await self._load()
                    loaded = True
                await self._fetch()
                if self._to_destroy:
                    await self._destroy([*self._to_destroy])
            except (DatabaseAway, DatabaseRefused, sqlite3.Error) as error:
                _log.warning("keyring.waits", why=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if not (self._wanted or self._wanted_of or self._to_destroy):
                await self._wake.wait()

    async def _load(self) -> None:
        """Every key that Postgres has and this machine does not."""
        after = ""
        while page := await self._store.all_keys(after):
            await self._add(page)
            after = page[-1].key
            if len(page) < PAGE_MAX:
                return

    async def _fetch(self) -> None:
        keys, users = [*self._wanted], [*self._wanted_of]
        if not keys and not users:
            return
        rows = await self._store.some_keys(keys, users)
        await self._add(rows)
        found = {row.key for row in rows}
        for key_id in keys:
            self._wanted.pop(key_id, None)
            if key_id not in found:
                self._is_gone(key_id)
        for user in users:
            self._wanted_of.pop(user, None)

    async def _add(self, rows: list[KeyRow]) -> None:
        if taken := self._take(row for row in rows if row.key not in self._keys and not self._erased(row.user)):
            await in_thread(self._cache.add, taken)

    def _take(self, rows: Iterable[KeyRow]) -> list[KeyRow]:
        """Unwrap them; those that could be."""
        taken: list[KeyRow] = []
        for row in rows:
            try:
                key = self._box(row.key, row.user).decrypt(row.wrapped)
            except (CryptoError, ValueError):
                # Of a control plane with another data.key: what it sealed cannot be read here.
                if row.key not in self._not_ours:
                    _log.error("keyring.not_ours", key=row.key, user=row.user)
                self._not_ours.add(row.key)
                continue
            taken.append(row)
            self._keys[row.key] = (row.user, key)
            self._key_of[row.user] = row.key
            self._gone.pop(row.key, None)
        return taken

    # Wrapping

    def _box(self, key_id: str, user: UserId) -> SecretBox:
        """Of a key of its own for each row, so that a row put in another's place does not open."""
        bound = hashlib.blake2b(f"{key_id}\0{user}".encode(), key=self._root_key, person=b"hive.wrap", digest_size=32)
        return SecretBox(bound.digest())

    def _wrap(self, key_id: str, user: UserId, key: bytes) -> bytes:
        return bytes(self._box(key_id, user).encrypt(key))

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


class KeyCache:
    """Wrapped keys in a file of this machine. A damaged file is replaced by an empty one: Postgres has them all.

    What is deleted is overwritten. Methods may be called from any thread.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            self._db = self._open()
        except sqlite3.OperationalError:
            raise  # locked, no room, no permission: not the file's fault
        except sqlite3.DatabaseError:
            _log.warning("keyring.cache_damaged", path=str(path))
            path.unlink()
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(handle, 0o600)
        os.close(handle)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
        try:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA journal_mode = TRUNCATE")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS data_keys (key TEXT PRIMARY KEY, user TEXT, wrapped BLOB, created INTEGER)"
            )
            db.execute("CREATE INDEX IF NOT EXISTS by_user ON data_keys (user)")
            db.execute("SELECT key, user, wrapped, created FROM data_keys LIMIT 1").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    def rows(self) -> list[KeyRow]:
        """All of them."""
        with self._lock:
            return [KeyRow(*row) for row in self._db.execute("SELECT key, user, wrapped, created FROM data_keys")]

    def add(self, rows: Iterable[KeyRow]) -> None:
        """Keep them, on disk."""
        with self._changing() as db:
            values = [(row.key, row.user, row.wrapped, row.created) for row in rows]
            db.executemany("INSERT OR REPLACE INTO data_keys VALUES (?, ?, ?, ?)", values)

    def remove(self, users: Iterable[UserId]) -> None:
        """Destroy these users'."""
        with self._changing() as db:
            db.executemany("DELETE FROM data_keys WHERE user = ?", [(user,) for user in users])

    @contextlib.contextmanager
    def _changing(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
