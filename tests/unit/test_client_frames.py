"""Output as frames, from the hive's mouth to the client's ear, however the bytes are cut."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.client.frames import frames
from web.client.sse import Sse, events
from web.client.types import Piece
from web.telling import Events, Frames


class Content:
    """An answer's body that comes in these chunks."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
        self._chunks = [data[start:end] for start, end in itertools.pairwise(places) if end > start]

    async def readany(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


FOUND = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(0, 2**50), st.binary(max_size=200)), max_size=8)


@given(st.lists(FOUND, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_what_is_told_is_heard_whatever_the_cuts(told: list[Any], cuts: list[int]) -> None:
    telling, data, at = Frames(), b"", 0
    for found in told:
        placed = []
        for stream, when, payload in found:
            at += 13 + len(payload)
            placed.append((stream, when, payload, at))
        data += telling.printed(placed, 7) + telling.ping()
    data += telling.event("end", {"state": "succeeded"}, f"7-{at}")

    async def hear() -> tuple[list[Piece], list[Sse]]:
        content: Any = Content(data, cuts)
        pieces: list[Piece] = []
        heard: list[Sse] = []
        async for event, more in frames(content):
            pieces += more
            heard.append(event)
        return pieces, heard

    pieces, heard = asyncio.run(hear())
    names = {0: "mark", 1: "stdout", 2: "stderr", 3: "emit"}
    assert [(p.stream, p.at, p.data) for p in pieces] == [(names[s], w, d) for found in told for s, w, d in found]
    assert heard[-1] == Sse("end", f"7-{at}", b'{"state":"succeeded"}')


@given(st.lists(st.binary(max_size=50), max_size=6), st.lists(st.integers(0, 10_000), max_size=10))
def test_events_are_heard_whatever_the_cuts(told: list[bytes], cuts: list[int]) -> None:
    telling = Events()
    data = telling.ping() + b"".join(telling.printed([(1, 5, payload, 9)], 7) for payload in told)

    async def hear() -> list[Sse]:
        content: Any = Content(data, cuts)
        return [event async for event in events(content) if event.data]

    assert len(asyncio.run(hear())) == len(told)


async def test_what_follows_the_last_place_is_not_told_yet() -> None:
    telling = Frames()
    whole = telling.printed([(1, 5, b"first", 18)], 7)
    cut = telling.printed([(1, 5, b"second", 40)], 7)[:-3]
    content: Any = Content(whole + cut, [])
    found = [(event.id, [piece.data for piece in pieces]) async for event, pieces in frames(content)]
    assert found == [("7-18", [b"first"])]


@pytest.mark.parametrize("data", [b"\x01" + b"\xff" * 20, b"\xff\0\0\0\x02" + b"\0" * 8 + b"no"])
async def test_what_are_no_frames_is_refused(data: bytes) -> None:
    content: Any = Content(data, [])
    with pytest.raises(ValueError, match="no frames"):
        async for _ in frames(content):
            pass
