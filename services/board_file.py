"""The board's snapshot as a file: a cache, written whole or not at all, ignored when anything about it differs.

It is written in pieces, so that a board of 100,000 open jobs holds up nobody for more than a millisecond.

A file is a header line (JSON: name, version, origin of the log), then pieces: a length of 4 bytes, then zstd.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from struct import Struct
from typing import TypeVar

import msgspec
import zstandard

from projections.base import Projection

State = TypeVar("State")
ZSTD_LEVEL = 1
PIECE_BYTES_MAX = 256 * 1024 * 1024

_LENGTH = Struct(">I")


class _Header(msgspec.Struct):
    name: str
    version: int
    origin: str


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(_Header).decode


def path_in(folder: Path) -> Path:
    """The board's snapshot among the snapshots in `folder`."""
    return folder / "board.snapshot"


async def write(path: Path, projection: Projection[State], state: State, origin: str) -> None:
    """Replace the snapshot at `path`. The state must not change until this returns; others get their turns between
    pieces. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    beside = path.with_name(f"{path.name}.new{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encode(_Header(projection.name, projection.version, origin)) + b"\n")
        async for piece in _compressed(projection.pack(state)):
            file.write(_LENGTH.pack(len(piece)))
            file.write(piece)
        await asyncio.to_thread(_sync, file.fileno())
    beside.replace(path)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


async def _compressed(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    for piece in pieces:
        yield await asyncio.to_thread(compressor.compress, piece)


def read(path: Path, projection: Projection[State], origin: str) -> State | None:
    """The state at `path`; None when there is none that this version and this log can use."""
    try:
        with path.open("rb") as file:
            header = _decode_header(file.readline(65536))
            if (header.name, header.version, header.origin) != (projection.name, projection.version, origin):
                return None
            return projection.unpack(_pieces(file.read()))
    except (OSError, msgspec.DecodeError, zstandard.ZstdError, ValueError, TypeError):
        return None


def _pieces(data: bytes) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    at = 0
    while at < len(data):
        if len(data) - at < _LENGTH.size:
            raise ValueError("the snapshot is cut short")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if len(data) - at < length:
            raise ValueError("the snapshot is cut short")
        yield decompressor.decompress(data[at : at + length], max_output_size=PIECE_BYTES_MAX)
        at += length
