"""The Log port: one suite, run on the log in memory and on JetStream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from events.log import READ_BATCH_MAX, Conflict, Entry, Log, MemoryLog
from infra.nats_log import JetStreamLog
from tests.nats_support import WAIT_S, linked, serving


@pytest.fixture(params=["memory", "jetstream"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    if request.param == "memory":
        yield MemoryLog()
        return
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        yield JetStreamLog(link)


async def append_all(log: Log, subject: str, bodies: list[bytes]) -> list[int]:
    positions: list[int] = []
    for body in bodies:
        positions.append(await log.append(subject, body, positions[-1] if positions else await log.last(subject)))
    return positions


async def read_until_caught_up(log: Log, subject: str, start: int) -> list[Entry]:
    found: list[Entry] = []
    async with asyncio.timeout(WAIT_S), aclosing(reader(log, subject, start)) as batches:
        async for batch in batches:
            if not batch:
                return found
            assert len(batch) <= READ_BATCH_MAX
            found += batch
    raise AssertionError("the log ended")


def reader(log: Log, subject: str, start: int) -> Any:
    return log.read(subject, start)


async def following(batches: Any) -> list[Entry]:
    async with asyncio.timeout(WAIT_S):
        return list(await anext(batches))


async def test_an_append_answers_ascending_positions_from_1(log: Log) -> None:
    assert await append_all(log, "evt.pool.a", [b"1", b"2"]) == [1, 2]
    assert await log.append("evt.pool.b", b"3", 0) == 3


async def test_last_is_the_guard_of_the_next_append(log: Log) -> None:
    assert await log.last("evt.pool.a") == 0
    first = await log.append("evt.pool.a", b"1", 0)
    await log.append("evt.pool.b", b"other", 0)
    assert await log.last("evt.pool.a") == first
    assert await log.last("evt.pool.*") == first + 1
    assert await log.append("evt.pool.a", b"2", first) == await log.last("evt.pool.a")


@pytest.mark.parametrize("guard", [0, 1, 3, 99])
async def test_a_stale_or_invented_guard_is_a_conflict_and_appends_nothing(log: Log, guard: int) -> None:
    await append_all(log, "evt.pool.a", [b"1", b"2"])
    await log.append("evt.pool.b", b"3", 0)
    with pytest.raises(Conflict):
        await log.append("evt.pool.a", b"no", guard)
    assert await log.last("evt.pool.a") == 2
    assert [e.data for e in await read_until_caught_up(log, "evt.>", 1)] == [b"1", b"2", b"3"]


async def test_a_first_append_with_a_guard_is_a_conflict(log: Log) -> None:
    with pytest.raises(Conflict):
        await log.append("evt.pool.a", b"1", 7)


async def test_of_racing_appends_with_one_guard_one_wins(log: Log) -> None:
    start = await log.append("evt.pool.a", b"0", 0)
    tries = [log.append("evt.pool.a", b"%d" % n, start) for n in range(20)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert await log.last("evt.pool.a") == start + 1


async def test_the_same_bytes_again_conflict_and_the_first_after_the_guard_is_ours(log: Log) -> None:
    """How a writer settles an append whose answer it missed."""
    position = await log.append("evt.pool.a", b"mine", 0)
    with pytest.raises(Conflict):
        await log.append("evt.pool.a", b"mine", 0)
    assert await log.get("evt.pool.a", 1) == Entry(position, "evt.pool.a", b"mine")


async def test_get_is_the_first_entry_at_or_after_a_position(log: Log) -> None:
    await append_all(log, "evt.pool.a", [b"1", b"2"])
    await log.append("evt.pool.b", b"3", 0)
    await log.append("evt.pool.a", b"4", 2)
    assert await log.get("evt.pool.a", 0) == Entry(1, "evt.pool.a", b"1")
    assert await log.get("evt.pool.a", 2) == Entry(2, "evt.pool.a", b"2")
    assert await log.get("evt.pool.a", 3) == Entry(4, "evt.pool.a", b"4")
    assert await log.get("evt.pool.*", 3) == Entry(3, "evt.pool.b", b"3")
    assert await log.get("evt.pool.a", 5) is None
    assert await log.get("evt.pool.none", 1) is None


@pytest.mark.parametrize("body", [b"", b"\r\n+OK\r\nPUB x 0\r\n", bytes(range(256)), b"x" * 512 * 1024])
async def test_any_bytes_come_back_as_they_were(log: Log, body: bytes) -> None:
    position = await log.append("evt.pool.a", body, 0)
    assert await log.get("evt.pool.a", 1) == Entry(position, "evt.pool.a", body)
    assert await read_until_caught_up(log, "evt.pool.a", 1) == [Entry(position, "evt.pool.a", body)]


async def test_reading_an_empty_log_says_so(log: Log) -> None:
    assert await read_until_caught_up(log, "evt.pool.a", 1) == []


async def test_a_read_starts_where_it_is_told(log: Log) -> None:
    await append_all(log, "evt.pool.a", [b"%d" % n for n in range(10)])
    assert [e.position for e in await read_until_caught_up(log, "evt.pool.a", 0)] == list(range(1, 11))
    assert [e.position for e in await read_until_caught_up(log, "evt.pool.a", 4)] == list(range(4, 11))
    assert await read_until_caught_up(log, "evt.pool.a", 11) == []


async def test_a_read_brings_only_its_subject(log: Log) -> None:
    for n in range(6):
        subject = f"evt.pool.{'ab'[n % 2]}"
        await log.append(subject, b"%d" % n, await log.last(subject))
    assert [e.position for e in await read_until_caught_up(log, "evt.pool.b", 1)] == [2, 4, 6]
    assert [e.position for e in await read_until_caught_up(log, "evt.>", 3)] == [3, 4, 5, 6]


async def test_a_reader_that_waits_gets_what_comes_and_is_told_when_there_is_no_more(log: Log) -> None:
    first = await log.append("evt.pool.a", b"1", 0)
    async with aclosing(reader(log, "evt.pool.a", 1)) as batches:
        assert [e.position for e in await following(batches)] == [first]
        assert await following(batches) == []
        for _ in range(3):
            waiting = asyncio.ensure_future(following(batches))
            position = await log.append("evt.pool.a", b"2", await log.last("evt.pool.a"))
            assert [e.position for e in await waiting] == [position]
            assert await following(batches) == []


async def test_a_read_from_beyond_the_end_brings_nothing_earlier(log: Log) -> None:
    await append_all(log, "evt.pool.a", [b"1", b"2"])
    async with aclosing(reader(log, "evt.pool.a", 5)) as batches:
        assert await following(batches) == []
        await append_all(log, "evt.pool.a", [b"3", b"4", b"5", b"6"])
        found: list[int] = []
        while len(found) < 2:
            found += [e.position for e in await following(batches)]
        assert found == [5, 6]


async def test_a_long_read_brings_everything_once_in_order(log: Log) -> None:
    positions = await append_all(log, "evt.pool.a", [b"%d" % n for n in range(3 * READ_BATCH_MAX + 7)])
    found = await read_until_caught_up(log, "evt.pool.a", 1)
    assert [e.position for e in found] == positions
    assert [e.data for e in found] == [b"%d" % n for n in range(len(positions))]


async def test_large_messages_are_read_whole(log: Log) -> None:
    await append_all(log, "evt.pool.a", [bytes([n]) * 512 * 1024 for n in range(24)])
    found = await read_until_caught_up(log, "evt.pool.a", 1)
    assert [(e.position, e.data[0], len(e.data)) for e in found] == [(n + 1, n, 512 * 1024) for n in range(24)]


async def test_two_readers_do_not_disturb_each_other(log: Log) -> None:
    await append_all(log, "evt.pool.a", [b"%d" % n for n in range(50)])
    one, two = await asyncio.gather(
        read_until_caught_up(log, "evt.pool.a", 1), read_until_caught_up(log, "evt.pool.a", 26)
    )
    assert (len(one), len(two)) == (50, 25)
