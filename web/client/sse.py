"""Reads server-sent events out of chunks of bytes."""

from collections.abc import AsyncGenerator
from typing import NamedTuple

from aiohttp import StreamReader

EVENT_BYTES_MAX = 64 * 1024 * 1024


class Sse(NamedTuple):
    """One event: its name ("" for none), the id to go on from ("" when it has none), its data (b"" for a ping)."""

    event: str
    id: str
    data: bytes


async def events(content: StreamReader) -> AsyncGenerator[Sse]:
    """The events as they come; a ping has no data. ValueError when one never ends."""
    held = bytearray()
    while chunk := await content.readany():
        seen = max(len(held) - 1, 0)  # nothing before it ends an event
        held += chunk
        at = 0
        while (end := held.find(b"\n\n", max(at, seen))) >= 0:
            yield _parse(bytes(held[at:end]))
            at = end + 2
        del held[:at]
        if len(held) > EVENT_BYTES_MAX:
            raise ValueError("a server-sent event without an end")


def _parse(block: bytes) -> Sse:
    event, id, data = "", "", b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"data":
            data = value
        elif name == b"id":
            id = value.decode()
        elif name == b"event":
            event = value.decode()
    return Sse(event, id, data)
