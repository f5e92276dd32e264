"""The files of `infra.outputs`: blocking, called in threads; `size` and `end_of` may be called from anywhere."""

import contextlib
import hashlib
import os
import shutil
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import msgspec

from events.base import Digest, JobId
from events.protocol import Piece, Progress
from infra.files import make_folder, sync_folder, write_all
from infra.folder import write_atomic

Key: TypeAlias = tuple[JobId, int, int]
"""Job, index, lease."""

OPEN_FILES_MAX = 256
FILES_A_FOLDER = 1000
SYNC_THREADS = 8
"""fsyncs of different files share the file system's journal commits when they run together."""
CUT = "cut"

_encode = msgspec.json.Encoder().encode
_progress_of = msgspec.json.Decoder(Progress).decode
_HEADER = struct.Struct(">BIQ")
_SCAN_BYTES = 1024 * 1024
_CUT_TEXT = b"hive: output beyond this point was dropped: the attempt reached its limit of %d bytes\n"


class _Open:
    """An attempt's file. `size`: on the disk; `written`: with what is not synced yet; `end`: as in its `.end` file."""

    __slots__ = ("end", "fd", "size", "written")

    def __init__(self, fd: int, size: int, end: str) -> None:
        self.fd, self.size, self.written, self.end = fd, size, size, end


class OutputFiles:
    """Files of at most `bytes_max` bytes each, below `root`. `append` and `seal` take turns."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root, self._bytes_max = root, bytes_max
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # `_folders`: those with new names that are not synced yet.
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self._sealing: set[Key] = set()
        self._folders: set[Path] = set()
        self._lock = threading.Lock()
        self._syncers = ThreadPoolExecutor(SYNC_THREADS, "hive-output-sync")

    def _folder(self, job: JobId, index: int) -> Path:
        return self._root / job[-2:] / job / str(index // FILES_A_FOLDER)

    def path(self, key: Key) -> Path:
        """Where an attempt's output lies."""
        job, index, lease = key
        return self._folder(job, index) / f"{index}-{lease}.out"

    def append(self, pieces: list[Piece]) -> list[int]:
        """See Outputs.append_many."""
        safe: list[int] = []
        touched: dict[Key, _Open] = {}
        with self._lock:
            try:
                for piece in pieces:
                    safe.append(self._take(piece, touched))
                    if len(touched) >= OPEN_FILES_MAX:
                        self._sync(touched)
                self._sync(touched)
            except BaseException:
                self._undo(touched)
                raise
        return safe

    def _take(self, piece: Piece, touched: dict[Key, _Open]) -> int:
        """Write what is new in `piece`; the offset up to which this file will be safe after the next sync."""
        key = (piece.job, piece.index, piece.lease)
        file = self._file(key)
        end = piece.offset + len(piece.data)
        if file.end or key in self._sealing:
            return max(end, file.size)  # nothing more is taken; the sender need not keep it
        if piece.offset > file.written or end <= file.written:
            return file.written
        data = memoryview(piece.data)[file.written - piece.offset :]
        touched[key] = file
        if end > self._bytes_max:
            self._cut(key, file, data)
            return end
        write_all(file.fd, data, file.written)
        file.written = end
        return end

    def _file(self, key: Key) -> _Open:
        if file := self._open.get(key):
            self._open.move_to_end(key)
            return file
        path = self.path(key)
        end = self._end_on_disk(path)
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            make_folder(path.parent, self._root)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            self._folders.add(path.parent)
        file = self._open[key] = _Open(fd, os.fstat(fd).st_size, end)
        return file

    def _sync(self, touched: dict[Key, _Open]) -> None:
        """Make what was written durable, and only then visible; then close what was not used for longest."""
        if len(touched) == 1 and not self._folders:
            os.fsync(next(iter(touched.values())).fd)
        else:
            for _ in self._syncers.map(os.fsync, [file.fd for file in touched.values()]):
                pass
            for _ in self._syncers.map(sync_folder, self._folders):
                pass
        for file in touched.values():
            file.size = file.written
        touched.clear()
        self._folders.clear()
        while len(self._open) > OPEN_FILES_MAX:
            _, old = self._open.popitem(last=False)
            os.close(old.fd)

    def _undo(self, touched: dict[Key, _Open]) -> None:
        """After an error: what was not synced must not count as known when it is sent again."""
        for key, file in touched.items():
            with contextlib.suppress(OSError):
                os.ftruncate(file.fd, file.size)
            os.close(file.fd)
            del self._open[key]

    def _cut(self, key: Key, file: _Open, data: memoryview) -> None:
        """End the file below the bound: whole frames, then a mark that says so."""
        text = _CUT_TEXT % self._bytes_max
        room = self._bytes_max - _HEADER.size - len(text)
        write_all(file.fd, data[: max(room - file.written, 0)], file.written)
        at, last_ms = _last_boundary(file.fd, min(os.fstat(file.fd).st_size, max(room, 0)))
        os.ftruncate(file.fd, at)
        write_all(file.fd, _HEADER.pack(0, len(text), last_ms) + text, at)
        os.fsync(file.fd)
        self._write_end(self.path(key), CUT)
        file.size = file.written = at + _HEADER.size + len(text)
        file.end = CUT

    def _end_on_disk(self, path: Path) -> str:
        try:
            return path.with_suffix(".end").read_text("ascii")
        except FileNotFoundError:
            return ""

    def _write_end(self, path: Path, end: str) -> None:
        write_atomic(path.with_suffix(".end"), end.encode("ascii"))

    def size(self, key: Key) -> int:
        """Bytes on the disk; 0 when there is no such file."""
        if file := self._open.get(key):
            return file.size
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return 0

    def end_of(self, key: Key) -> str:
        """The digest of a sealed file, CUT of one at its bound, empty while more may come."""
        if file := self._open.get(key):
            return file.end
        return self._end_on_disk(self.path(key))

    def read(self, key: Key, offset: int, limit: int) -> bytes:
        """See Outputs.read."""
        limit = min(limit, self.size(key) - offset)
        if limit <= 0:
            return b""
        with open(self.path(key), "rb", buffering=0) as file:
            return os.pread(file.fileno(), limit, offset)

    def note(self, told: list[Progress]) -> None:
        """See Outputs.note."""
        for one in told:
            path = self.path((one.job, one.index, one.lease))
            with contextlib.suppress(OSError):  # it is said again, or does not matter any more
                make_folder(path.parent, self._root)
                new = path.with_suffix(".new")
                new.write_bytes(_encode(one))
                new.replace(path.with_suffix(".now"))

    def progress(self, attempts: list[Key]) -> dict[Key, Progress]:
        """See Outputs.progress."""
        found: dict[Key, Progress] = {}
        for key in attempts:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found[key] = _progress_of(self.path(key).with_suffix(".now").read_bytes())
        return found

    def leases(self, job: JobId, index: int) -> list[int]:
        """See Outputs.leases."""
        prefix = f"{index}-"
        try:
            names = os.listdir(self._folder(job, index))
        except FileNotFoundError:
            return []
        return sorted(int(n[len(prefix) : -4]) for n in names if n.startswith(prefix) and n.endswith(".out"))

    def forget_all(self, kept: Callable[[JobId], bool], before: float, dry: bool) -> list[JobId]:
        """See Outputs.forget_all."""
        gone: list[JobId] = []
        for folder in self._root.glob("??/*"):
            if not kept(folder.name) and folder.stat().st_mtime < before:
                gone.append(folder.name)
                if not dry:
                    with self._lock:
                        for key in [key for key in self._open if key[0] == folder.name]:
                            os.close(self._open.pop(key).fd)
                    shutil.rmtree(folder, ignore_errors=True)
        return gone

    def seal(self, key: Key) -> Digest | None:
        """See Outputs.seal."""
        path = self.path(key)
        with self._lock:
            end = self.end_of(key)
            if end and end != CUT:
                return end
            if not path.exists():
                return None
            self._sealing.add(key)
        try:
            digest = _digest(path)  # may take seconds; others append meanwhile
            with self._lock:
                self._write_end(path, digest)
                if file := self._open.pop(key, None):
                    os.close(file.fd)
        finally:
            self._sealing.discard(key)
        return digest

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._open.values():
                os.close(file.fd)
            self._open.clear()
        self._syncers.shutdown()


def _digest(path: Path) -> Digest:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_boundary(fd: int, size: int) -> tuple[int, int]:
    """Where the last frame that is complete within `size` bytes ends, and its time."""
    at, last_ms, held, start = 0, 0, b"", 0
    while at + _HEADER.size <= size:
        if at + _HEADER.size > start + len(held):
            start, held = at, os.pread(fd, _SCAN_BYTES, at)
        _, length, at_ms = _HEADER.unpack_from(held, at - start)
        if at + _HEADER.size + length > size:
            break
        at, last_ms = at + _HEADER.size + length, at_ms
    return at, last_ms
