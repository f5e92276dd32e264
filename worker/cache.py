"""Blobs on this machine, by digest: downloaded once, verified before every use, the least recently used dropped first."""

import asyncio
import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from events.base import Digest
from worker.api import Api

CACHE_BYTES_MAX = 10 * 1024**3
LINK_BYTES_MIN = 1024 * 1024
"""Smaller blobs are copied into a task's folder, larger ones linked: a copy cannot be spoilt for others."""
READ_BYTES = 1024 * 1024
MODE = 0o555
"""Inputs may be read, and run; not written."""

Source: TypeAlias = Callable[[int], Awaitable[int]]

_log = structlog.get_logger()


class _Entry:
    """A blob that is here. `mtime`: of the file when it was verified; 0: not since the agent started."""

    __slots__ = ("mtime", "size")

    def __init__(self, size: int, mtime: int) -> None:
        self.size, self.mtime = size, mtime


class Cache:
    """The cache in `folder`, of at most about `bytes_max` bytes."""

    def __init__(self, folder: Path, api: Api, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._folder, self._api, self._max = folder, api, bytes_max
        self._entries: OrderedDict[Digest, _Entry] = OrderedDict()
        self._coming: dict[Digest, asyncio.Future[None]] = {}
        self._bytes = self._names = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[float, str, int]] = []
        for file in folder.iterdir():
            if len(file.name) == 64:
                stat = file.stat()
                found.append((stat.st_atime, file.name, stat.st_size))
            else:
                file.unlink()  # a download that an earlier agent did not finish
        for _, name, size in sorted(found):
            self._entries[name] = _Entry(size, 0)
            self._bytes += size

    async def place(self, digest: Digest, ticket: str, target: str, source: Source | None = None) -> None:
        """Put the blob at the path `target`, read-only. It comes from the platform, or from `source`, which writes it to
        a file and says its size. Raises api.Unavailable, and OSError; and what `source` does.
        """
        while True:
            await self._have(digest, ticket, source)
            if await self._put(digest, target):
                return

    async def open(self, digest: Digest, ticket: str, source: Source | None = None) -> int:
        """A descriptor of the blob, verified, for reading; raises as `place` does."""
        while True:
            await self._have(digest, ticket, source)
            entry = self._entries[digest]
            try:
                fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._forget(digest)
                continue
            try:
                if await self._is_whole(digest, fd, entry):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    async def read(self, digest: Digest, ticket: str) -> bytes:
        """The blob's bytes. Raises api.Unavailable."""
        while True:
            await self._have(digest, ticket, None)
            data = await asyncio.to_thread(self._path(digest).read_bytes)
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            self._forget(digest)

    async def _have(self, digest: Digest, ticket: str, source: Source | None) -> None:
        """Return once the blob is here. Tasks that want the same one wait for one download."""
        while digest not in self._entries:
            coming = self._coming.get(digest)
            if coming is not None:
                # Another's failure may be its ticket's: then this one tries with its own.
                await asyncio.wait([coming])
                continue
            coming = self._coming[digest] = asyncio.get_running_loop().create_future()
            try:
                await self._download(digest, ticket, source)
            finally:
                del self._coming[digest]
                coming.set_result(None)
        self._entries.move_to_end(digest)

    async def _download(self, digest: Digest, ticket: str, source: Source | None) -> None:
        self._names += 1
        partial = self._folder / f"{os.getpid()}.{self._names}.part"
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = await (source(fd) if source else self._api.download(digest, ticket, fd))
            os.fchmod(fd, MODE)
            os.rename(partial, self._path(digest))
            self._entries[digest] = _Entry(size, os.fstat(fd).st_mtime_ns)
            self._bytes += size
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self._evict(digest)

    def _path(self, digest: Digest) -> Path:
        return self._folder / digest

    def _evict(self, keep: Digest) -> None:
        for digest in list(self._entries):
            if self._bytes <= self._max:
                return
            if digest != keep:
                self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._bytes -= entry.size
            self._path(digest).unlink(missing_ok=True)

    async def _put(self, digest: Digest, target: str) -> bool:
        """Copy or link a blob that is here; False when it was not what it should be, and is gone now."""
        entry, path = self._entries[digest], self._path(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._forget(digest)
            return False
        try:
            if entry.size < LINK_BYTES_MIN:
                return self._copy_small(digest, fd, target)
            if not await self._is_whole(digest, fd, entry):
                return False
            await asyncio.to_thread(_link_or_copy, str(path), fd, target)
            return True
        finally:
            os.close(fd)

    async def _is_whole(self, digest: Digest, fd: int, entry: _Entry) -> bool:
        """Whether the open file is what it should be; forgotten when it is not."""
        stat = os.fstat(fd)
        if stat.st_mtime_ns != entry.mtime or stat.st_size != entry.size:
            if await asyncio.to_thread(_digest, fd) != digest:
                _log.warning("worker.cache_damaged", digest=digest)
                self._forget(digest)
                return False
            entry.mtime = stat.st_mtime_ns
        return True

    def _copy_small(self, digest: Digest, fd: int, target: str) -> bool:
        data = os.pread(fd, LINK_BYTES_MIN, 0)
        if hashlib.sha256(data).hexdigest() != digest:
            _log.warning("worker.cache_damaged", digest=digest)
            self._forget(digest)
            return False
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            os.fchmod(out, MODE)
            os.write(out, data)
        finally:
            os.close(out)
        return True


def _digest(fd: int) -> str:
    seen, at = hashlib.sha256(), 0
    while data := os.pread(fd, READ_BYTES, at):
        seen.update(data)
        at += len(data)
    return seen.hexdigest()


def _link_or_copy(path: str, fd: int, target: str) -> None:
    try:
        os.link(path, target)
    except OSError:
        # Evicted meanwhile, or another file system: the open file is still whole.
        with os.fdopen(os.dup(fd), "rb") as source, open(target, "xb") as out:
            source.seek(0)
            shutil.copyfileobj(source, out, READ_BYTES)
            os.fchmod(out.fileno(), MODE)
