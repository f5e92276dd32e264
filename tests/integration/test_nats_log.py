"""The log on JetStream when things break: nothing twice, nothing missing, no answer invented."""

import asyncio
import json
import os
import signal
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from events.log import Conflict, Entry, LogUnavailable, Unsettled
from infra.link import Link
from infra.nats_log import APPEND_S, JetStreamLog
from infra.nats_reader import AHEAD_MAX
from tests.nats_support import eventually, linked, serving, until

SUBJECT = "evt.pool.a"


async def settle(log: JetStreamLog, data: bytes, expected: int) -> int:
    """What a writer does: the same bytes with the same guard until the answer is definite."""
    while True:
        try:
            return await log.append(SUBJECT, data, expected)
        except Unsettled:
            await asyncio.sleep(0.02)
        except Conflict:
            entry = await log.get(SUBJECT, expected + 1)
            assert entry is not None
            assert entry.data == data
            return entry.position


async def collect(batches: Any, into: list[Entry]) -> None:
    async for batch in batches:
        into += batch


async def consumers(link: Link) -> list[str]:
    names = json.loads((await link.request("$JS.API.CONSUMER.NAMES.EVENTS", b"", 5)).data)
    return list(names["consumers"] or [])


async def test_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        found: list[Entry] = []
        following = asyncio.create_task(collect(log.read(SUBJECT, 1), found))
        keeper = asyncio.create_task(server.keep())
        positions = [0]

        async def kill() -> None:
            for at in (150, 400, 650):
                await until(lambda at=at: len(positions) > at, f"{at} appends")
                os.kill(server.pid, signal.SIGKILL)

        killing = asyncio.create_task(kill())
        for n in range(900):
            positions.append(await settle(log, b"%d" % n, positions[-1]))
        await killing
        assert positions == list(range(901))
        await until(lambda: len(found) >= 900, "the reader has everything")
        assert [(e.position, e.data) for e in found] == [(n + 1, b"%d" % n) for n in range(900)]
        for task in (following, keeper):
            task.cancel()


async def test_a_server_that_hangs_leaves_an_append_unsettled_and_it_is_settled_by_sending_again(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        await log.append(SUBJECT, b"1", 0)
        os.kill(server.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(Unsettled):
            await log.append(SUBJECT, b"2", 1)
        assert time.monotonic() - started < APPEND_S + 1
        os.kill(server.pid, signal.SIGCONT)
        # The first try was on its way and is carried out: exactly once.
        assert await settle(log, b"2", 1) == 2
        assert await log.last(SUBJECT) == 2


async def test_without_a_link_nothing_is_certain(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not link.connected, "the link notices")
        with pytest.raises(Unsettled, match="not connected"):
            await log.append(SUBJECT, b"1", 0)
        with pytest.raises(LogUnavailable, match="not connected"):
            await log.last(SUBJECT)
        with pytest.raises(LogUnavailable):
            await log.get(SUBJECT, 1)


async def test_a_stream_that_is_missing_is_unsettled_and_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        log = JetStreamLog(link)
        with pytest.raises(Unsettled, match="nobody listens"):
            await log.append(SUBJECT, b"1", 0)
        with pytest.raises(LogUnavailable, match="stream not found"):
            await log.last(SUBJECT)


async def test_an_append_is_refused_by_another_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        with pytest.raises(Unsettled, match="expected stream does not match"):
            await JetStreamLog(link, "OTHER").append(SUBJECT, b"1", 0)
        assert await JetStreamLog(link).last(SUBJECT) == 0


async def test_a_reader_whose_consumer_is_deleted_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        found: list[Entry] = []
        following = asyncio.create_task(collect(log.read(SUBJECT, 1), found))
        for n in range(3):
            await log.append(SUBJECT, b"%d" % n, n)
            await until(lambda n=n: len(found) == n + 1, "the reader has it")
            (name,) = await consumers(link)
            await link.request(f"$JS.API.CONSUMER.DELETE.EVENTS.{name}", b"", 5)
        await until(lambda: len(found) == 3, "the reader has everything")
        following.cancel()


async def test_closing_a_reader_ends_its_consumer(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        batches: Any = JetStreamLog(link).read(SUBJECT, 1)
        async with aclosing(batches):
            assert await anext(batches) == []
            assert len(await consumers(link)) == 1

        async def ended() -> bool:
            return await consumers(link) == []

        await eventually(ended, "the consumer is gone")


async def test_a_closed_link_ends_its_readers(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        link = await Link.open(server.url, server.authority.platform, "test")
        found: list[Entry] = []
        following = asyncio.create_task(collect(JetStreamLog(link).read(SUBJECT, 1), found))
        await asyncio.sleep(0)
        await link.close()
        async with asyncio.timeout(10):
            with pytest.raises(LogUnavailable):
                await following


async def test_a_slow_caller_is_not_flooded(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        total = 4 * AHEAD_MAX
        for _ in range(total):
            await link.publish(SUBJECT, b"x")
        log = JetStreamLog(link)

        async def stored() -> bool:
            return await log.last(SUBJECT) == total

        await eventually(stored, "all are stored")
        batches: Any = log.read(SUBJECT, 1)
        async with aclosing(batches):
            first = await anext(batches)
            (name,) = await consumers(link)
            delivered = 0
            for _ in range(50):
                info = json.loads((await link.request(f"$JS.API.CONSUMER.INFO.EVENTS.{name}", b"", 5)).data)
                delivered = info["delivered"]["stream_seq"]
            assert len(first) <= delivered <= AHEAD_MAX
            seen = len(first)
            async for batch in batches:
                seen += len(batch)
                if seen == total:
                    break


async def test_an_idle_reader_outlives_its_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import nats_reader

    short = json.loads(nats_reader.PULL) | {"expires": 200_000_000, "idle_heartbeat": 50_000_000}
    monkeypatch.setattr(nats_reader, "PULL", json.dumps(short).encode())
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        found: list[Entry] = []
        pulls: list[str] = []
        await link.subscribe("$JS.API.CONSUMER.MSG.NEXT.EVENTS.*", lambda s, r, d: pulls.append(s))
        following = asyncio.create_task(collect(log.read(SUBJECT, 1), found))
        await until(lambda: len(pulls) >= 10, "requests have expired and were renewed")
        names = await consumers(link)
        await log.append(SUBJECT, b"x", 0)
        await until(lambda: len(found) == 1, "the reader has it")
        assert await consumers(link) == names
        following.cancel()
