"""Which user may read which blob: those that the user uploaded, or was shown as a result. A digest is no permission.

Kept beside the blobs, in SQLite. What a power cut takes from it, uploading or listing again brings back.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path

from events.base import Digest, UserId
from infra.threads import in_thread

BUSY_MS = 10_000
LOOKUP_MAX = 500
"""Digests of one statement."""


class References:
    """The references in the file `path`; several threads and processes may use it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        # SQLite would let others read it, and what lies beside it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        self._db.execute("PRAGMA journal_mode = wal")
        self._db.execute("PRAGMA synchronous = normal")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS seen (user TEXT, digest BLOB, PRIMARY KEY (user, digest)) WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS seen_digest ON seen (digest)")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    async def add(self, user: UserId, digests: Iterable[Digest]) -> None:
        """`user` may read these from now on."""
        await in_thread(self._add, user, list(digests))

    def _add(self, user: UserId, digests: list[Digest]) -> None:
        rows = [(user, bytes.fromhex(digest)) for digest in digests]
        with self._lock:
            self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows)

    async def of(self, user: UserId, digests: Iterable[Digest]) -> set[Digest]:
        """Those of `digests` that `user` may read."""
        return await in_thread(self._of, user, list(digests))

    def _of(self, user: UserId, digests: list[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for start in range(0, len(digests), LOOKUP_MAX):
            part = [bytes.fromhex(digest) for digest in digests[start : start + LOOKUP_MAX]]
            marks = ",".join("?" * len(part))
            with self._lock:
                rows = self._db.execute(
                    f"SELECT digest FROM seen WHERE user = ? AND digest IN ({marks})", (user, *part)
                )
                found.update(digest.hex() for (digest,) in rows)
        return found

    async def any_of(self, digests: list[Digest]) -> set[Digest]:
        """Those of `digests` that anybody may read."""
        return await in_thread(self._any_of, digests)

    def _any_of(self, digests: list[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for start in range(0, len(digests), LOOKUP_MAX):
            part = [bytes.fromhex(digest) for digest in digests[start : start + LOOKUP_MAX]]
            marks = ",".join("?" * len(part))
            with self._lock:
                rows = self._db.execute(f"SELECT DISTINCT digest FROM seen WHERE digest IN ({marks})", part)
                found.update(digest.hex() for (digest,) in rows)
        return found

    async def forget(self, user: UserId) -> None:
        """The user is gone."""
        await in_thread(self._forget, user)

    def _forget(self, user: UserId) -> None:
        with self._lock:
            self._db.execute("DELETE FROM seen WHERE user = ?", (user,))
