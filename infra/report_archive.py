"""Workers' reports as they sent them, with their signatures: what the facts that name their digests rest on.

Segments in one folder. The newest is `<number>.open`: records one after the other, each its length, its CRC and a msgpack
`Record`. When it is full, or at the next start, it becomes `<number>.zst` (zstd over the same bytes, by a thread) beside
`<number>.idx`: for each record the first 8 bytes of its digest and where it begins, sorted. The oldest segments go when all
of them take more than they may.

A record is written before its worker is told that the report is recorded, so it outlives a killed process; the disk has it
a second later (`SYNC_S`). What a power cut takes with it is the raw form of the last second's reports: the facts are in
the log, on the disk, and name digests that are not here.
"""

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog
import zstandard

from events.base import Digest, WorkerId
from infra.files import sync_folder
from infra.folder import make_private
from infra.signing import digest_of
from infra.threads import in_thread

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
SYNC_S = 1.0
LEVEL = 3
OPEN, SEALED, INDEX, PART = ".open", ".zst", ".idx", ".part"
_HEADER = struct.Struct(">II")
_ENTRY = struct.Struct(">8sI")

_log = structlog.get_logger()


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A report as it was sent (`body`): where its facts are in the log, whose it is, the public key that it was checked
    with, and the signature.
    """

    position: int
    pool: str
    worker: WorkerId
    key: str
    signature: bytes
    body: bytes


_pack = msgspec.msgpack.Encoder().encode
_record_of = msgspec.msgpack.Decoder(Record).decode


class ReportArchive:
    """The archive in `folder`, of `bytes_max` bytes at most (0: nothing is kept). `await run()` until cancelled."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._fd = -1
        self._size = 0
        self._dirty = False
        self._known: dict[bytes, int] = {}
        """Where records of the open segment begin, by the first bytes of their digest."""
        self._full: list[int] = []
        self._failed = False
        if bytes_max:
            make_private(folder)
            self._number = max((_number(path) for path in folder.iterdir()), default=0)
            self._full = sorted(_number(path) for path in folder.glob(f"*{OPEN}"))
            self._next()

    # Writing

    def add(self, record: Record, digest: Digest) -> None:
        """Take a report in. When the disk refuses it is not kept, which is logged once: work goes on."""
        if not self._bytes_max:
            return
        data = _framed(record)
        if self._size and self._size + len(data) > SEGMENT_BYTES_MAX:
            self._full.append(self._number)
            self._next()
        try:
            if os.pwrite(self._fd, data, self._size) < len(data):
                raise OSError("the disk is full")
        except OSError as error:  # the next one goes over what was written of this one
            if not self._failed:
                _log.error("reports.not_archived", why=str(error), worker=record.worker)
            self._failed = True
            return
        self._failed = False
        self._known[bytes.fromhex(digest[:16])] = self._size
        self._size += len(data)
        self._dirty = True

    def _next(self) -> None:
        """Begin another segment."""
        if self._fd >= 0:
            os.close(self._fd)
        self._number += 1
        self._fd = os.open(self._path(self._number, OPEN), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size, self._known = 0, {}

    async def run(self) -> None:
        """Have the disk keep what was taken in, seal full segments, and drop the oldest, until cancelled."""
        try:
            while self._bytes_max:
                full, self._full = self._full, []
                await in_thread(self._tidy, full)
                await asyncio.sleep(SYNC_S)
                if self._dirty:
                    self._dirty = False
                    await in_thread(_sync, os.dup(self._fd))
        finally:
            self.close()

    def close(self) -> None:
        """Have the disk keep what was taken in."""
        if self._fd >= 0:
            os.fdatasync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _tidy(self, full: list[int]) -> None:
        try:
            for number in full:
                self._seal(number)
            self._drop_oldest()
        except OSError as error:
            _log.error("reports.not_sealed", why=str(error))

    def _seal(self, number: int) -> None:
        raw = self._path(number, OPEN)
        data = raw.read_bytes()
        entries = sorted((bytes.fromhex(digest_of(record.body)[:16]), at) for at, record in _records(data))
        if entries:
            self._write(number, INDEX, b"".join(_ENTRY.pack(*entry) for entry in entries))
            self._write(number, SEALED, zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data))
        raw.unlink()

    def _write(self, number: int, kind: str, data: bytes) -> None:
        part = self._path(number, PART)
        with part.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path(number, kind))
        sync_folder(self._folder)

    def _drop_oldest(self) -> None:
        sealed = sorted(_number(path) for path in self._folder.glob(f"*{SEALED}"))
        sizes = {number: self._bytes_of(number) for number in sealed}
        left = self._bytes_max - SEGMENT_BYTES_MAX - sum(sizes.values())
        for number in sealed:
            if left >= 0:
                break
            for kind in (SEALED, INDEX):
                self._path(number, kind).unlink(missing_ok=True)
            left += sizes[number]

    def _bytes_of(self, number: int) -> int:
        with contextlib.suppress(FileNotFoundError):
            return sum(self._path(number, kind).stat().st_size for kind in (SEALED, INDEX))
        return 0

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number:010d}{kind}"

    # Reading

    def has(self, digest: Digest) -> bool:
        """Whether the open segment has a report with this digest."""
        return bytes.fromhex(digest[:16]) in self._known

    async def find(self, digest: Digest) -> Record | None:
        """The report with this digest; None when it is not, or no more, here. `digest`: 64 hexadecimal digits."""
        if not self._bytes_max:
            return None
        at = self._known.get(bytes.fromhex(digest[:16]))
        if at is not None:
            record = _at(os.pread(self._fd, self._size - at, at), 0)
            return record if record is not None and digest_of(record.body) == digest else None
        return await in_thread(self._search, digest)

    def _search(self, digest: Digest) -> Record | None:
        """Look in the segments, the newest first."""
        for path in sorted(self._folder.glob(f"*{SEALED}"), reverse=True):
            try:
                starts = _look_up(path.with_suffix(INDEX).read_bytes(), bytes.fromhex(digest[:16]))
                data = zstandard.ZstdDecompressor().decompress(path.read_bytes()) if starts else b""
            except (FileNotFoundError, zstandard.ZstdError):
                continue  # it was dropped just now, or is damaged
            for at in starts:
                record = _at(data, at)
                if record is not None and digest_of(record.body) == digest:
                    return record
        return None


def _sync(fd: int) -> None:
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _framed(record: Record) -> bytes:
    payload = _pack(record)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _at(data: bytes, at: int) -> Record | None:
    """The record that begins there; None for what is torn or damaged."""
    if at + _HEADER.size > len(data):
        return None
    length, crc = _HEADER.unpack_from(data, at)
    payload = data[at + _HEADER.size : at + _HEADER.size + length]
    if len(payload) < length or zlib.crc32(payload) != crc:
        return None
    try:
        return _record_of(payload)
    except msgspec.DecodeError:
        return None


def _records(data: bytes) -> Iterator[tuple[int, Record]]:
    """Each record and where it begins, up to the end or to a torn one."""
    at = 0
    while (record := _at(data, at)) is not None:
        yield at, record
        at += _HEADER.size + _HEADER.unpack_from(data, at)[0]


def _look_up(index: bytes, key: bytes) -> list[int]:
    """Where records with this key begin."""
    low, high = 0, len(index) // _ENTRY.size
    while low < high:
        middle = (low + high) // 2
        if _ENTRY.unpack_from(index, middle * _ENTRY.size)[0] < key:
            low = middle + 1
        else:
            high = middle
    found: list[int] = []
    while low * _ENTRY.size < len(index) and _ENTRY.unpack_from(index, low * _ENTRY.size)[0] == key:
        found.append(_ENTRY.unpack_from(index, low * _ENTRY.size)[1])
        low += 1
    return found
