"""Ends of attempts that the platform has not yet recorded, on disk: appended with one fsync a batch, dropped when they
are recorded. What a killed agent left is read at the next start and reported then.

A record is its length, its CRC and a msgpack `_Record`; a torn one at the end is ignored. Records go to numbered
segments, so that the oldest can be deleted while new ones are written.
"""

import os
import struct
import zlib
from pathlib import Path

import msgspec
import structlog

from events.protocol import Ended
from infra.files import sync_folder

SEGMENT_BYTES_MAX = 4 * 1024 * 1024
_HEADER = struct.Struct(">II")
_PREFIX = "reports."

_log = structlog.get_logger()


class _Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A saved batch, or batches that are recorded."""

    batch: int = 0
    items: list[Ended] = []
    forget: list[int] = []


_pack = msgspec.msgpack.Encoder().encode
_record_of = msgspec.msgpack.Decoder(_Record).decode


class Spool:
    """The spool in `folder`. `unreported`: what an earlier agent left, by batch, in order."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.unreported: dict[int, list[Ended]] = {}
        self._segment_of: dict[int, int] = {}
        self._left: dict[int, int] = {}
        """How many batches of each segment are still wanted."""
        segments = sorted(int(path.suffix[1:]) for path in folder.glob(f"{_PREFIX}*") if path.suffix[1:].isdigit())
        for segment in segments:
            self._load(segment)
        for segment in segments:
            if not self._left.get(segment):
                self._path(segment).unlink()
                self._left.pop(segment, None)
        self._segment = segments[-1] if segments else 0
        self._fd = -1
        self._size = 0
        self._open_next()

    def _path(self, segment: int) -> Path:
        return self._folder / f"{_PREFIX}{segment}"

    def _load(self, segment: int) -> None:
        data = self._path(segment).read_bytes()
        at = 0
        while at + _HEADER.size <= len(data):
            length, crc = _HEADER.unpack_from(data, at)
            payload = data[at + _HEADER.size : at + _HEADER.size + length]
            if len(payload) < length or zlib.crc32(payload) != crc:
                break
            at += _HEADER.size + length
            record = _record_of(payload)
            if record.items:
                self.unreported[record.batch] = record.items
                self._segment_of[record.batch] = segment
                self._left[segment] = self._left.get(segment, 0) + 1
            for batch in record.forget:
                self._drop(batch)
        if at < len(data):
            _log.warning("worker.spool_torn", segment=segment, bytes=len(data) - at)

    def _drop(self, batch: int) -> None:
        self.unreported.pop(batch, None)
        segment = self._segment_of.pop(batch, None)
        if segment is not None:
            self._left[segment] -= 1

    def _open_next(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._segment += 1
        self._size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path(self._segment), flags, 0o600)
        self._left[self._segment] = 0
        sync_folder(self._folder)

    def save(self, batch: int, items: list[Ended]) -> None:
        """Put a batch on disk. Blocks for an fsync: call it in a thread, one call at a time. Raises OSError."""
        if self._size > SEGMENT_BYTES_MAX:
            self._open_next()
        self._write(_Record(batch, items))
        os.fdatasync(self._fd)
        self._segment_of[batch] = self._segment
        self._left[self._segment] += 1

    def _write(self, record: _Record) -> None:
        payload = _pack(record)
        data = _HEADER.pack(len(payload), zlib.crc32(payload)) + payload
        wrote = os.write(self._fd, data)
        self._size += wrote
        if wrote < len(data):
            # A disk that is full: what follows a torn record could not be read.
            self._size = SEGMENT_BYTES_MAX + 1
            raise OSError("the disk is full")

    def forget(self, batches: list[int]) -> None:
        """These batches are recorded. Not fsynced: to report one twice does no harm. Not while `save` runs."""
        known = [batch for batch in batches if batch in self._segment_of]
        if not known:
            return
        for batch in known:
            self._drop(batch)
        for segment, left in list(self._left.items()):
            if not left and segment != self._segment:
                self._path(segment).unlink(missing_ok=True)
                del self._left[segment]
        if any(self._left.values()):
            self._write(_Record(forget=known))
        elif self._size:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
