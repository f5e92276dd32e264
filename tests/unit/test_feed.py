"""The feed: every listener gets every record once and in order, or is told what it missed."""

import asyncio
from pathlib import Path

import pytest

from events.log import MemoryLog
from projections.board import BOARD, fold
from services import board_file, feed
from services.feed import Feed, Lagged, Ring, record_of
from services.projector import Projector
from tests.read_support import SUBJECT, append, entries, job_id, log_of, message, submitted

WAIT_S = 10


def records(count: int) -> list[feed.Record]:
    return [record_of(entry) for entry in entries(message(n, submitted(n)) for n in range(count))]


async def test_listeners_get_what_comes_and_the_slow_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RING_RECORDS_MAX", 10)
    ring = Ring(0)
    quick, slow = Feed(ring, 1, ring.end), Feed(ring, 1, ring.end)
    got: list[int] = []
    for record in records(100):
        ring.push([record], [1])
        got += [one.position for one in await quick.take(0)]
    assert got == list(range(1, 101))
    with pytest.raises(Lagged) as lagged:
        await slow.take(0)
    assert lagged.value.position == 1
    assert ring.position - ring.floor <= 20


async def test_the_ring_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RING_BYTES_MAX", 100)
    ring = Ring(0)
    for record in records(30):
        ring.push([record], [40])
    assert ring.position - ring.floor <= 2
    assert ring.place_of(30) is not None
    assert ring.place_of(5) is None


async def running(projector: Projector) -> "asyncio.Task[None]":
    task = asyncio.create_task(projector.run())
    async with asyncio.timeout(WAIT_S):
        await projector.wait_caught_up()
    return task


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_follower_reads_the_old_from_the_log_and_goes_on_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "RING_RECORDS_MAX", 20)
    log = log_of(message(n, submitted(n)) for n in range(1200))
    projector = Projector(log, None, tmp_path, subject=SUBJECT)
    task = await running(projector)
    seen: list[int] = []
    async with asyncio.timeout(WAIT_S), projector.follow(3) as follower:
        async for batch in follower:
            seen += [record.position for record in batch]
            if len(seen) == 1000:
                await append(log, *(message(n, submitted(n)) for n in range(1200, 1300)))
            if seen[-1] >= 1300:
                break
    assert seen == list(range(3, 1301))
    await ended(task)


async def test_a_follower_of_what_is_not_there_yet_waits_for_it(tmp_path: Path) -> None:
    log = MemoryLog()
    projector = Projector(log, None, tmp_path, subject=SUBJECT)
    task = await running(projector)
    live, later = projector.subscribe(), projector.follow(3)
    first = asyncio.create_task(anext(live))
    third = asyncio.create_task(anext(later))
    await append(log, *(message(n, submitted(n)) for n in range(3)))
    async with asyncio.timeout(WAIT_S):
        assert (await first)[0].position == 1
        assert (await third)[0].position == 3
    await ended(task)


async def test_the_board_goes_on_from_its_snapshot_of_the_same_log_only(tmp_path: Path) -> None:
    log = log_of(message(n, submitted(n)) for n in range(5))
    await ended(await running(Projector(log, None, tmp_path, subject=SUBJECT)))
    assert (tmp_path / "board.snapshot").stat().st_mode & 0o777 == 0o600

    again = Projector(log, None, tmp_path, subject=SUBJECT)
    await append(log, message(5, submitted(5)))
    task = await running(again)
    assert (again.ring.floor, again.position) == (5, 6)
    whole = BOARD.initial()
    for entry in log.entries:
        fold(whole, record_of(entry).message, entry.position)
    assert again.board == whole
    await ended(task)

    other = Projector(log_of([message(77, submitted(0))] * 9), None, tmp_path, subject=SUBJECT)
    task = await running(other)
    assert other.ring.floor == 0
    await ended(task)


async def test_a_damaged_snapshot_is_as_good_as_none(tmp_path: Path) -> None:
    board, path = BOARD.initial(), tmp_path / "board.snapshot"
    for position, record in enumerate(records(3000), 1):
        fold(board, record.message, position)
    await board_file.write(path, BOARD, board, "m0")
    assert board_file.read(path, BOARD, "m0") == board
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert board_file.read(path, BOARD, "m0") is None
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    assert board_file.read(path, BOARD, "m0") is None


async def test_what_is_no_message_is_counted_and_passed(tmp_path: Path) -> None:
    log = MemoryLog()
    await log.append(SUBJECT, b"not json", 0)
    await append(log, message(1, submitted(1)))
    projector = Projector(log, None, tmp_path, subject=SUBJECT)
    task = await running(projector)
    assert projector.status().unreadable == 1
    assert projector.board.find(job_id(1)) is not None
    await ended(task)
