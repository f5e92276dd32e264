"""The writer's memory of every id ever used: id -> digest of the body and end state, in SQLite, rebuilt from the log.

It is stamped with the log position it stands for. Notes stay in memory, seen by lookups, until `commit` writes them
and the stamp in one transaction; a writer that loses its place calls `discard`.

Ids are random, so a sorted table costs a page a note. So a commit only appends, to one of two `recent` tables in a
small file, whose rows are held in memory too; when one is full, the other takes over and a thread merges the full one
into the large, sorted file. Lookups ask the notes, both recent tables in memory, then the sorted file.

Both files carry one random name for the pair. When one is unreadable, missing or of another pair, both are put aside
and an empty index at position 0 takes their place: the log has it all.
"""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

MERGE_ROWS = 100_000
"""Rows of a recent table when its merge begins."""
RECENT_ROWS_MAX = 4 * MERGE_ROWS
"""Rows of a recent table when a commit waits for the merge of the other one."""
CHECKPOINT_BYTES = 16 * 1024**2
"""Of the recent file's write-ahead log when a checkpoint begins."""
COMMITS_A_LOOK = 64
"""Commits between two looks at the size of that log."""
LOOKUP_MAX = 128
"""Ids of one statement."""
CACHE_KIB = 64 * 1024
BUSY_MS = 10_000
_FORMAT = 1

Packed: TypeAlias = bytes | str
"""A digest as stored: 32 bytes, or the text itself when it is not a SHA-256."""
Notes: TypeAlias = dict[str, tuple[Packed, str]]


class IndexBroken(Exception):
    """The files became unreadable under us. They were put aside: open the index again and replay the log from 0."""


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is known of an id: the digest of its body, and its end state, empty while open."""

    digest: str
    state: str


class Index:
    """The index in the file `path` and, beside it, `path` + "-recent". Not safe for several processes at once."""

    def __init__(self, path: Path) -> None:
        self._sorted_path = path.absolute()
        self._recent_path = self._sorted_path.with_name(path.name + "-recent")
        self._overlay: Notes = {}
        self._absent: set[str] = set()
        """Ids that the sorted file does not have, as `prefetch` saw since the last commit."""
        self._thread: threading.Thread | None = None
        self._merging = False
        self._failed: Exception | None = None
        self._commits = 0
        self._sorted_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.OperationalError:
            raise  # locked, no room, no permission: not the files' fault
        except sqlite3.DatabaseError:
            self._put_aside()
            self._open()

    def _open(self) -> None:
        fresh = not (self._sorted_path.exists() and self._recent_path.exists())
        if fresh:
            self._put_aside()
        self._sorted = connect(self._sorted_path)
        self._recent = connect(self._recent_path)
        try:
            if fresh:
                self._create(secrets.token_hex(16))
            self._load()
        except BaseException:
            self._sorted.close()
            self._recent.close()
            raise

    def _create(self, pair: str) -> None:
        for db in (self._sorted, self._recent):
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE pair (name TEXT)")
            db.execute("INSERT INTO pair VALUES (?)", (pair,))
            db.execute(f"PRAGMA user_version = {_FORMAT}")
        self._sorted.execute("CREATE TABLE known (id TEXT PRIMARY KEY, digest, state TEXT) WITHOUT ROWID")
        for table in (0, 1):
            self._recent.execute(f"CREATE TABLE recent_{table} (n INTEGER PRIMARY KEY, id TEXT, digest, state TEXT)")
        self._recent.execute("CREATE TABLE stamp (position INTEGER, current INTEGER)")
        self._recent.execute("INSERT INTO stamp VALUES (0, 0)")
        for db in (self._sorted, self._recent):
            db.execute("COMMIT")

    def _load(self) -> None:
        """Read the stamp and the recent tables. Raises sqlite3.DatabaseError for anything but a sound pair."""
        names = [db.execute("SELECT name FROM pair").fetchone() for db in (self._sorted, self._recent)]
        formats = [db.execute("PRAGMA user_version").fetchone() for db in (self._sorted, self._recent)]
        stamp = self._recent.execute("SELECT position, current FROM stamp").fetchone()
        if names[0] != names[1] or formats != [(_FORMAT,), (_FORMAT,)] or stamp is None:
            raise sqlite3.DatabaseError("not a pair of this format")
        self._sorted.execute("SELECT id, digest, state FROM known LIMIT 1").fetchone()
        self._position: int = stamp[0]
        self._current: int = stamp[1]
        self._notes: list[Notes] = [{}, {}]
        self._rows = [0, 0]
        for table in (0, 1):
            for id, digest, state in self._recent.execute(f"SELECT id, digest, state FROM recent_{table} ORDER BY n"):
                _note(self._notes[table], id, digest, state)
                self._rows[table] += 1

    def _put_aside(self) -> None:
        for path in (self._sorted_path, self._recent_path):
            for suffix in ("", "-wal", "-shm"):
                old = path.with_name(path.name + suffix)
                if old.exists():
                    old.replace(old.with_name(old.name + ".broken"))

    @property
    def position(self) -> int:
        """The log position up to which the committed part stands; 0 for an empty index."""
        return self._position

    def lookup(self, ids: Iterable[str]) -> dict[str, Known]:
        """What is known of `ids`, notes that are not committed yet included; unknown ids are left out.

        Raises IndexBroken.
        """
        layers = (self._overlay, self._notes[self._current], self._notes[1 - self._current])
        found: dict[str, Known] = {}
        states: dict[str, str] = {}  # of ids whose digest lies deeper than their newest note
        below: list[str] = []
        for id in ids:
            for layer in layers:
                if (note := layer.get(id)) is not None:
                    state = states.setdefault(id, note[1])
                    if note[0]:
                        found[id] = Known(_text(note[0]), state)
                        break
            else:
                if id not in self._absent:
                    below.append(id)
        for at in range(0, len(below), LOOKUP_MAX):
            for id, digest, state in self._read(below[at : at + LOOKUP_MAX]):
                found[id] = Known(_text(digest), states.get(id, state))
        for id in states.keys() - found.keys():
            found[id] = Known("", states[id])
        return found

    def prefetch(self, ids: Iterable[str]) -> None:
        """Look at many ids at once, so that `lookup` of each of them need not ask the sorted file when it has none: what
        is noted meanwhile is in memory until after the next commit. Raises IndexBroken.
        """
        wanted = [id for id in ids if id not in self._absent]
        for at in range(0, len(wanted), LOOKUP_MAX):
            part = wanted[at : at + LOOKUP_MAX]
            self._absent.update(part)
            self._absent.difference_update(id for id, _, _ in self._read(part))

    def _read(self, ids: list[str]) -> list[tuple[str, Packed, str]]:
        marks = ",".join("?" * len(ids))
        try:
            return self._sorted.execute(f"SELECT id, digest, state FROM known WHERE id IN ({marks})", ids).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error

    def note(self, id: str, digest: str, state: str) -> None:
        """Know `id` with this digest ("": as it was) and state ("": open). The last note on an id wins."""
        _note(self._overlay, id, _packed(digest), state)

    def discard(self) -> None:
        """Forget what was noted since the last commit."""
        self._overlay = {}
        self._absent.clear()

    def commit(self, position: int) -> None:
        """Write what was noted, and that it stands for the log up to `position`, in one transaction.

        Durable at the next checkpoint: after a power cut the index may be older, never torn. Raises IndexBroken.
        """
        self._absent.clear()
        self._after_merge()
        notes, db = self._notes[self._current], self._recent
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                f"INSERT INTO recent_{self._current} (id, digest, state) VALUES (?, ?, ?)",
                [(id, digest, state) for id, (digest, state) in self._overlay.items()],
            )
            db.execute("UPDATE stamp SET position = ?", (position,))
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error
        for id, (digest, state) in self._overlay.items():
            _note(notes, id, digest, state)
        self._rows[self._current] += len(self._overlay)
        self._overlay, self._position = {}, position
        self._tend()

    def _tend(self) -> None:
        """Start a merge or a checkpoint when one is due."""
        self._commits += 1
        if self._rows[self._current] >= MERGE_ROWS:
            if self._rows[self._current] >= RECENT_ROWS_MAX and self._thread:
                self._thread.join()
                self._after_merge()
            if self._thread is None:
                self._switch()
        elif self._commits % COMMITS_A_LOOK == 0 and self._thread is None:
            wal = self._recent_path.with_name(self._recent_path.name + "-wal")
            if wal.stat().st_size >= CHECKPOINT_BYTES:
                self._start(False)

    def _switch(self) -> None:
        """Let the other, empty table take over and merge the full one."""
        if self._rows[1 - self._current]:  # left by a process that died while it merged: that one goes first
            self._start(True)
            return
        try:
            self._recent.execute("UPDATE stamp SET current = ?", (1 - self._current,))
        except sqlite3.DatabaseError as error:
            raise self._broken(error) from error
        self._current = 1 - self._current
        self._start(True)

    def _start(self, merge: bool) -> None:
        self._merging = merge
        self._thread = threading.Thread(target=self._in_background, args=(1 - self._current, merge), name="hive-index")
        self._thread.start()

    def _in_background(self, table: int, merge: bool) -> None:
        """Runs in a thread: one SQL statement each, so that the interpreter is free meanwhile."""
        try:
            if merge:
                merge_table(self._sorted_path, self._recent_path, table)
            db = connect(self._recent_path)
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            finally:
                db.close()
        except Exception as error:  # noqa: BLE001 - told to the writer at its next commit
            self._failed = error

    def _after_merge(self) -> None:
        """When the thread has ended: drop the merged table, or say that it failed."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread = None
        failed, self._failed = self._failed, None
        if isinstance(failed, sqlite3.DatabaseError):
            raise self._broken(failed) from failed
        if failed is not None:
            raise failed
        if self._merging:
            old = 1 - self._current
            self._recent.execute(f"DELETE FROM recent_{old}")
            self._notes[old], self._rows[old] = {}, 0

    def _broken(self, error: sqlite3.DatabaseError) -> Exception:
        """What to raise: the error itself when the disk is full or locked; else the files are put aside first."""
        if self._recent.in_transaction:
            self._recent.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            return error
        self.close()
        self._put_aside()
        return IndexBroken(f"{self._sorted_path} is damaged ({error}); it was put aside, open it again")

    def clear(self) -> None:
        """Forget everything; position 0."""
        self.close()
        for path in (self._sorted_path, self._recent_path):
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._overlay = {}
        self._absent.clear()
        self._open()

    def close(self) -> None:
        """Wait for the thread and close the files. What was noted and not committed is gone."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self._recent.close()
        self._sorted.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode to a private file in WAL mode, checkpointed by hand."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(
            f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES // 4}"
        )  # or its size would not fall when it begins anew
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    except BaseException:
        db.close()
        raise
    return db


def merge_table(sorted_path: Path, recent_path: Path, table: int) -> None:
    """Merge one recent table into the sorted file, durably. Doing it again changes nothing."""
    db = connect(sorted_path)
    try:
        db.execute("ATTACH ? AS young", (str(recent_path),))
        db.execute(
            f"INSERT INTO known SELECT id, digest, state FROM young.recent_{table} WHERE true ORDER BY id, n"
            " ON CONFLICT (id) DO UPDATE SET state = excluded.state,"
            " digest = CASE WHEN excluded.digest = '' THEN digest ELSE excluded.digest END"
        )
        db.execute("PRAGMA main.wal_checkpoint(TRUNCATE)")
    finally:
        db.close()


def _note(notes: Notes, id: str, digest: Packed, state: str) -> None:
    if not digest and (before := notes.get(id)) is not None:
        digest = before[0]
    notes[id] = (digest, state)


def _packed(digest: str) -> Packed:
    if len(digest) == 64:
        try:
            packed = bytes.fromhex(digest)
        except ValueError:
            return digest
        if packed.hex() == digest:
            return packed
    return digest


def _text(packed: Packed) -> str:
    return packed.hex() if isinstance(packed, bytes) else packed
