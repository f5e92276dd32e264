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
    rest = b""
    while chunk := await content.readany():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            yield _parse(block)
        if len(rest) > EVENT_BYTES_MAX:
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
