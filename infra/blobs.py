"""Blobs: bytes named by their SHA-256, in a folder, durable before they are acknowledged and verified when read.

`<root>/<first 2 digits>/<digest>`; what is being written lies in `<root>/incoming` until it has its name. A blob whose
bytes changed on the disk is moved to `<root>/damaged`, so that it is missing and may be put again.
A modification time is when a blob was last wanted: putting it again, or asking whether it is missing, touches it.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Protocol

from events.base import Digest
from events.protocol import Blob
from events.spec import DIGEST
from infra.files import make_folder, sync_folder
from infra.threads import in_thread

CHUNK_BYTES = 1024 * 1024
"""Of one hop to a thread; what one transfer holds in memory is twice this."""
SIZE_BYTES_MAX = 1024**4
INCOMING_AGE_S = 86400.0
"""A file in `incoming` that nobody wrote to for so long is left over from a crash."""
LISTED_MIN = 5000
"""How many blobs are listed at a time, at least."""
VERIFIED_MAX = 4096
"""How many files are remembered as verified, for reads of parts."""


class _Hash(Protocol):
    """What hashlib.sha256() returns, whose class has no public name."""

    def update(self, data: bytes, /) -> None: ...


class BlobMissing(Exception):
    """There is no such blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"there is no blob {digest[:80]!r}; upload it first")
        self.digest = digest


class BlobMismatch(Exception):
    """The bytes are not the ones that the digest names."""

    def __init__(self, expected: Digest, got: Digest) -> None:
        super().__init__(
            f"the bytes are {got}, not {expected[:80]}: they changed on the way or on the disk; send them again"
        )
        self.expected, self.got = expected, got


class BlobTooLarge(Exception):
    """More bytes than allowed."""

    def __init__(self, size_max: int) -> None:
        super().__init__(f"the blob is larger than {size_max} bytes, the limit; split it")
        self.size_max = size_max


class Blobs:
    """The blobs in the folder `root`, which is made if it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._incoming = self._root / "incoming"
        self._verified: OrderedDict[tuple[Digest, int, int], None] = OrderedDict()
        for folder in (self._incoming, self._root / "damaged"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear_incoming()

    def _clear_incoming(self) -> None:
        oldest = time.time() - INCOMING_AGE_S
        for path in self._incoming.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
        for path in (self._root / "expired").glob("*"):
            os.replace(path, self._path(path.name))  # it was being looked at when a process was killed

    def _path(self, digest: Digest) -> Path:
        if not DIGEST.match(digest):
            raise BlobMissing(digest)
        return self._root / digest[:2] / digest

    def open(self, digest: Digest) -> Path:
        """Where the blob lies, for reading only; its bytes are not verified. Raises BlobMissing."""
        path = self._path(digest)
        if not path.is_file():
            raise BlobMissing(digest)
        return path

    def size(self, digest: Digest) -> int | None:
        """Its length in bytes; None when there is no such blob."""
        try:
            return self._path(digest).stat().st_size
        except (FileNotFoundError, BlobMissing):
            return None

    async def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Which of `digests` are not here, in order; the others are touched, so that their upload may be skipped."""
        return await in_thread(lambda: [digest for digest in digests if not self._touch(digest)])

    def _touch(self, digest: Digest) -> bool:
        try:
            os.utime(self._path(digest))
        except (FileNotFoundError, BlobMissing):
            return False
        return True

    async def put_bytes(self, data: bytes) -> Blob:
        """Store `data`; durable when this returns."""
        return await in_thread(self._put_bytes, data)

    def _put_bytes(self, data: bytes) -> Blob:
        incoming = _Incoming(self._incoming)
        try:
            incoming.write(data)
            return self._keep(incoming, None)
        finally:
            incoming.close()

    async def put_stream(
        self, digest: Digest | None, chunks: AsyncIterator[bytes], size_max: int = SIZE_BYTES_MAX
    ) -> Blob:
        """Store what `chunks` yields; durable when this returns, and named only if it is what `digest` says.

        Raises BlobMismatch, or BlobTooLarge beyond `size_max` bytes; then nothing is kept.
        """
        incoming = _Incoming(self._incoming)
        try:
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if incoming.size + len(waiting) > size_max:
                    raise BlobTooLarge(size_max)
                if len(waiting) >= CHUNK_BYTES:
                    await in_thread(incoming.write, waiting)
                    waiting = bytearray()
            return await in_thread(self._finish, incoming, waiting, digest)
        finally:
            incoming.close()

    def _finish(self, incoming: "_Incoming", rest: bytes | bytearray, digest: Digest | None) -> Blob:
        incoming.write(rest)
        return self._keep(incoming, digest)

    def _keep(self, incoming: "_Incoming", expected: Digest | None) -> Blob:
        digest = incoming.hash.hexdigest()
        if expected is not None and digest != expected:
            raise BlobMismatch(expected, digest)
        target = self._path(digest)
        make_folder(target.parent, self._root)
        if self.size(digest) == incoming.size:
            os.utime(target)
        else:
            incoming.name_durably(target)
        # Also for a duplicate: whoever put it first may not have come this far.
        sync_folder(target.parent)
        return Blob(digest, incoming.size)

    async def read(self, digest: Digest) -> bytes:
        """The whole blob, verified. Raises BlobMissing or BlobMismatch."""
        return await in_thread(self._read, digest)

    def _read(self, digest: Digest) -> bytes:
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise BlobMissing(digest) from None
        self._check(digest, hashlib.sha256(data).hexdigest())
        return data

    async def stream(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes]:
        """Bytes `start` to before `end`, in chunks. Raises BlobMissing or BlobMismatch.

        Of a changed blob, whole reads raise before their last chunk, reads of a part before their first.
        """
        file = self._open(digest)
        try:
            size = os.fstat(file).st_size
            stop = size if end is None else min(end, size)
            whole = start == 0 and stop == size
            if not whole:
                await in_thread(self._verify, digest, file)
            running = hashlib.sha256()
            if whole and not size:
                self._check(digest, running.hexdigest())
            at = start
            while at < stop:
                data = await in_thread(_read_and_hash, file, at, min(CHUNK_BYTES, stop - at), running)
                at += len(data)
                if whole and (at >= stop or not data):
                    self._check(digest, running.hexdigest())
                if not data:
                    return
                yield data
        finally:
            os.close(file)

    async def unwanted_since(self, before: float, after: str = "") -> list[tuple[Digest, int]]:
        """Some blobs, with their sizes, that nobody has wanted since `before` (s since 1970), from the one after `after` on,
        by digest; none when there is no more.
        """
        return await in_thread(self._unwanted_since, before, after)

    def _unwanted_since(self, before: float, after: str) -> list[tuple[Digest, int]]:
        found: list[tuple[Digest, int]] = []
        for folder in sorted(path for path in self._root.iterdir() if len(path.name) == 2 and path.name >= after[:2]):
            for path in sorted(folder.iterdir()):
                if path.name > after and DIGEST.match(path.name):
                    stat = path.stat()
                    if stat.st_mtime < before:
                        found.append((path.name, stat.st_size))
            if len(found) >= LISTED_MIN:
                break
        return found

    async def expire(self, digests: list[Digest], before: float) -> tuple[int, int]:
        """Delete those of the blobs that nobody has wanted since `before`; how many that were, and their bytes."""
        return await in_thread(self._expire, digests, before)

    def _expire(self, digests: list[Digest], before: float) -> tuple[int, int]:
        count = size = 0
        expired = self._root / "expired"
        expired.mkdir(mode=0o700, exist_ok=True)
        for digest in digests:
            path, aside = self._path(digest), expired / digest
            try:
                # First it is made missing, then looked at: whoever wants it from here on is told to upload it.
                os.replace(path, aside)
            except FileNotFoundError:
                continue
            stat = aside.stat()
            if stat.st_mtime >= before:
                os.replace(aside, path)
                continue
            aside.unlink()
            count, size = count + 1, size + stat.st_size
        return count, size

    def _open(self, digest: Digest) -> int:
        try:
            return os.open(self._path(digest), os.O_RDONLY)
        except FileNotFoundError:
            raise BlobMissing(digest) from None

    def _verify(self, digest: Digest, file: int) -> None:
        """Check the whole file once; later reads of parts believe it while it keeps its inode and size."""
        found = os.fstat(file)
        key = (digest, found.st_ino, found.st_size)
        if key in self._verified:
            return
        running, at = hashlib.sha256(), 0
        while data := _read_and_hash(file, at, CHUNK_BYTES, running):
            at += len(data)
        self._check(digest, running.hexdigest())
        self._verified[key] = None
        while len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)

    def _check(self, digest: Digest, got: Digest) -> None:
        if got != digest:
            with contextlib.suppress(FileNotFoundError):  # another reader noticed it too
                os.replace(self._path(digest), self._root / "damaged" / digest)
            raise BlobMismatch(digest, got)


def _read_and_hash(file: int, at: int, count: int, running: _Hash) -> bytes:
    data = os.pread(file, count, at)
    running.update(data)
    return data


class _Incoming:
    """A file without its name yet, and the digest of what was written so far."""

    def __init__(self, folder: Path) -> None:
        fd, name = tempfile.mkstemp(dir=folder)
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._path: Path | None = Path(name)
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        self.hash.update(view)
        self.size += len(view)
        while view:
            view = view[self._file.write(view) :]

    def name_durably(self, target: Path) -> None:
        assert self._path is not None
        os.fsync(self._file.fileno())
        os.replace(self._path, target)
        self._path = None

    def close(self) -> None:
        """Close, and drop what got no name."""
        self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
