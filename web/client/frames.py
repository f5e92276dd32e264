"""Reads frames of output (see web.telling) out of chunks of bytes."""

import struct
from collections.abc import AsyncGenerator
from typing import Literal

import msgspec
from aiohttp import StreamReader

from web.client.sse import Sse
from web.client.types import Piece

HEADER = struct.Struct(">BIQ")
CONTROL = 255
ACCEPT = "application/vnd.hive.frames"
FRAME_BYTES_MAX = 64 * 1024 * 1024
HELD_BYTES_MAX = 128 * 1024 * 1024
_NAMES: dict[int, Literal["stdout", "stderr", "mark", "emit"]] = {1: "stdout", 2: "stderr", 3: "emit"}


class _Control(msgspec.Struct, frozen=True):
    event: str = ""
    id: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_control_of = msgspec.json.Decoder(_Control).decode


async def frames(content: StreamReader) -> AsyncGenerator[tuple[Sse, list[Piece]]]:
    """What happened, and the pieces before it: only what is before a place is told, for the rest comes again after a break.
    ValueError for what are no frames.
    """
    held, pieces, size = bytearray(), list[Piece](), 0
    while chunk := await content.readany():
        held += chunk
        at = 0
        while len(held) - at >= HEADER.size:
            stream, length, when = HEADER.unpack_from(held, at)
            if length > FRAME_BYTES_MAX or size > HELD_BYTES_MAX:
                raise ValueError("these are no frames of output")
            end = at + HEADER.size + length
            if len(held) < end:
                break
            data = bytes(memoryview(held)[at + HEADER.size : end])
            at = end
            if stream != CONTROL:
                pieces.append(Piece(_NAMES.get(stream, "mark"), data, when))
                size += length
                continue
            try:
                control = _control_of(data)
            except msgspec.DecodeError:
                raise ValueError("these are no frames of output") from None
            yield Sse(control.event, control.id, bytes(control.data)), pieces
            pieces, size = [], 0
        del held[:at]
