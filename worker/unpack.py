"""Unpacks archives that strangers made: zip, and tar with what compresses it (gzip, bzip2, xz, zstd).

Only files and folders come out, inside the target, where nothing is yet but what we put there. Whatever else an archive
holds (links, devices, paths that lead out, encrypted files, the same path twice) refuses it as a whole, as does more
than the bounds allow: what its directory says is believed only as an upper bound, bytes are counted as they come.
Errors name entries by their number: their names are the user's. Blocking; runs in a thread.
"""

import bz2
import errno
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

import zstandard

from events.units import size_text

ENTRIES_MAX = 100_000
UNPACKED_BYTES_MAX = 256 * 1024**3
RATIO_MAX = 200
RATIO_FREE_BYTES = 64 * 1024**2
"""An archive may unpack to this much, however small it is: text of one letter compresses well."""
DEPTH_MAX = 64
PATH_BYTES_MAX = 2048
DIRECTORY_BYTES_MAX = 64 * 1024**2
"""Of a zip's directory, which is held in memory."""
HEADER_BYTES_MAX = 1024**2
"""Of what a tar says of one entry, which is held in memory."""
WINDOW_BYTES_MAX = 128 * 1024**2
"""Of what zstd and xz may ask for."""
CHUNK_BYTES = 256 * 1024
ROOM_BYTES_MIN = 256 * 1024**2
"""What is left free on the disk."""
FILE_MODE, FOLDER_MODE = 0o755, 0o700
_ENDS = struct.Struct("<4s4H2LH")
_ENDS64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_TEXT_MAX = 65535


class BadArchive(Exception):
    """It cannot be unpacked here; the text says why, without a word of the archive's."""


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Sink:
    """Writes entries below `target` and counts."""

    def __init__(self, target: str, packed: int, stopped: Callable[[], bool]) -> None:
        self._target, self._stopped = target, stopped
        self._most = min(UNPACKED_BYTES_MAX, max(packed * RATIO_MAX, RATIO_FREE_BYTES))
        self.entries = self.bytes = 0
        self._made: set[str] = set()

    def _path(self, name: str) -> str:
        """Where the entry goes. Raises BadArchive."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        bad = name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or (parts and ":" in parts[0])
        try:
            long = len(name.encode()) > PATH_BYTES_MAX or len(parts) > DEPTH_MAX
        except UnicodeEncodeError:
            bad, long = True, False
        if bad or long:
            raise BadArchive(f"entry {self.entries} has a path that is {'too long' if long else 'not inside it'}")
        return "/".join(parts)

    def entry(self) -> None:
        """Another one. Raises BadArchive."""
        self.entries += 1
        if self.entries > ENTRIES_MAX:
            raise BadArchive(f"it has more than {ENTRIES_MAX} entries, the limit")
        if self._stopped():
            raise BadArchive("the task was cancelled")

    def folder(self, name: str) -> None:
        """Make a folder."""
        if path := self._path(name):
            self._make(path)

    def _make(self, path: str) -> None:
        if path in self._made:
            return
        self._made.add(path)
        try:
            os.makedirs(f"{self._target}/{path}", FOLDER_MODE, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise BadArchive(f"entry {self.entries} is a file and a folder at once") from None

    def file(self, name: str, source: _Reads, executable: bool) -> None:
        """Write a file. Raises BadArchive, OSError."""
        path = self._path(name)
        if not path:
            raise BadArchive(f"entry {self.entries} is a file without a name")
        if "/" in path:
            self._make(path.rpartition("/")[0])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(f"{self._target}/{path}", flags, FILE_MODE if executable else FILE_MODE & ~0o111)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise BadArchive(f"entry {self.entries} is there already; each path may be in it once") from None
        try:
            while data := source.read(CHUNK_BYTES):
                self._count(len(data))
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def _count(self, more: int) -> None:
        self.bytes += more
        if self.bytes > self._most:
            raise BadArchive(f"it unpacks to more than {size_text(self._most)}, the limit for one of its size")
        found = os.statvfs(self._target)
        if found.f_bavail * found.f_frsize < ROOM_BYTES_MIN:
            raise BadArchive("the worker's disk is nearly full")
        if self._stopped():
            raise BadArchive("the task was cancelled")


def unpack(archive: int, target: str, stopped: Callable[[], bool] = lambda: False) -> tuple[int, int]:
    """Unpack the file with the descriptor `archive` below the folder `target`, which is made; how many entries and bytes.

    Ends soon once `stopped()`. Raises BadArchive; OSError when the disk refuses.
    """
    os.makedirs(target, FOLDER_MODE, exist_ok=True)
    with os.fdopen(os.dup(archive), "rb") as file:
        packed = os.fstat(archive).st_size
        sink = _Sink(target, packed, stopped)
        try:
            if zipfile.is_zipfile(file):
                _unzip(file, packed, sink)
            else:
                _untar(_opened(file), sink)
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            zlib.error,
            lzma.LZMAError,
            zstandard.ZstdError,
            EOFError,
        ) as error:
            raise BadArchive(f"it is damaged, or no archive: {type(error).__name__}") from None
        except (
            ValueError,
            RuntimeError,
            struct.error,
        ) as error:  # also what is not implemented, and too deep a recursion
            raise BadArchive(f"it cannot be read: {type(error).__name__}") from None
        except OSError as error:
            # What gzip and bz2 say of bytes that are not theirs, and what a place before the beginning is.
            if error.errno in (None, errno.EINVAL):
                raise BadArchive("it is damaged, or no archive") from None
            raise
    return sink.entries, sink.bytes


# Zip


def _unzip(file: IO[bytes], packed: int, sink: _Sink) -> None:
    if _directory_bytes(file, packed) > DIRECTORY_BYTES_MAX:
        raise BadArchive(f"its directory is larger than {size_text(DIRECTORY_BYTES_MAX)}, the limit")
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
        if len(found) > ENTRIES_MAX:
            raise BadArchive(f"it has {len(found)} entries; the limit is {ENTRIES_MAX}")
        if sum(info.compress_size for info in found) > packed:
            raise BadArchive("its entries overlap")
        for info in found:
            sink.entry()
            mode = info.external_attr >> 16
            if mode & 0o170000 not in (0, 0o100000, 0o040000):
                raise BadArchive(f"entry {sink.entries} is a link, or no file")
            if info.flag_bits & 1:
                raise BadArchive(f"entry {sink.entries} is encrypted")
            if info.is_dir():
                sink.folder(info.filename)
                continue
            with archive.open(info) as source:
                sink.file(info.filename, source, bool(mode & 0o111))


def _directory_bytes(file: IO[bytes], packed: int) -> int:
    """How large the zip says that its directory is."""
    start = max(packed - _ENDS.size - _TEXT_MAX, 0)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _ENDS.size > len(tail):
        raise BadArchive("it is damaged, or no archive")
    size = _ENDS.unpack_from(tail, at)[5]
    place = start + at - _LOCATOR.size
    if place >= 0:
        file.seek(place)
        locator = file.read(_LOCATOR.size)
        if locator.startswith(b"PK\x06\x07"):
            file.seek(place - _ENDS64.size)
            ends = file.read(_ENDS64.size)
            if len(ends) == _ENDS64.size and ends.startswith(b"PK\x06\x06"):
                return max(size if size != 2**32 - 1 else 0, _ENDS64.unpack(ends)[8])
    return size


# Tar


def _opened(file: IO[bytes]) -> _Reads:
    """What the tar is in, by its first bytes."""
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\0"):
        return _Xz(file)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).stream_reader(file, read_across_frames=True)
    return file


class _Xz:
    """xz with a bound of its memory, which lzma.LZMAFile has not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._new()

    def _new(self) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW_BYTES_MAX)

    def read(self, size: int, /) -> bytes:
        while True:
            raw = self._file.read(CHUNK_BYTES) if self._inner.needs_input and not self._inner.eof else b""
            if self._inner.eof:
                rest = self._inner.unused_data or self._file.read(CHUNK_BYTES)
                if not rest.strip(b"\0"):
                    return b""
                self._new()
                raw = rest
            elif not raw and self._inner.needs_input:
                raise EOFError
            if data := self._inner.decompress(raw, size):
                return data


class _Forward:
    """A stream as tarfile wants it: it goes forward, back by a little, and gives no more at once than is held anyway."""

    BACK = 512

    def __init__(self, source: _Reads) -> None:
        self._source = source
        self._at = 0
        self._last = b""
        self._again = b""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= HEADER_BYTES_MAX:
            raise BadArchive(f"what it says of one entry takes more than {size_text(HEADER_BYTES_MAX)}, the limit")
        found = bytearray(self._again[:size])
        self._again = self._again[size:]
        while len(found) < size and (data := self._source.read(min(CHUNK_BYTES, size - len(found)))):
            found += data
        self._at += len(found)
        self._last = (self._last + bytes(found[-self.BACK :]))[-self.BACK :]
        return bytes(found)

    def tell(self) -> int:
        return self._at

    def seek(self, place: int, _whence: int = 0, /) -> int:
        back = self._at - place
        if back > len(self._last):
            raise BadArchive("it is damaged, or no archive")
        if back > 0:
            self._again = self._last[-back:] + self._again
            self._last = self._last[:-back]
            self._at = place
        while self._at < place and self.read(min(CHUNK_BYTES, place - self._at)):
            pass
        return self._at


def _untar(source: _Reads, sink: _Sink) -> None:
    stream: Any = _Forward(source)
    with tarfile.open(fileobj=stream, mode="r:", errorlevel=1) as archive:
        for info in _members(archive):
            sink.entry()
            if info.isdir():
                sink.folder(info.name)
            elif info.isreg() and not info.issparse():
                content = archive.extractfile(info)
                assert content is not None
                sink.file(info.name, content, bool(info.mode & 0o111))
            else:
                raise BadArchive(f"entry {sink.entries} is a link, or no file")


def _members(archive: Any) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members = []  # they are not needed again, and there may be many
        yield info
