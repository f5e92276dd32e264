"""The follower: what it saves is what the log folds to, from nothing and from its last snapshots."""

import asyncio
from pathlib import Path

from events import catalog
from events.log import MemoryLog
from projections.board import BOARD
from services import board_file
from services.follower import MESSAGE_WORK, Snapshotter, follow_once
from services.pool import model
from services.pool.snapshots import PoolSnapshots
from services.pool.state import Pool, save
from tests.read_support import append, log_of, message, submitted

POOL = "main"


async def check(folder: Path, log: MemoryLog) -> None:
    """The snapshots in `folder` are the fold of the whole log."""
    state, board = Pool(POOL), BOARD.initial()
    for entry in log.entries:
        told = catalog.decode(entry.data)
        BOARD.apply(board, told, entry.position)
        model.fold(state, told)
    found = PoolSnapshots(folder, POOL).latest(len(log.entries))
    assert found is not None
    assert (found[0], save(found[1])) == (len(log.entries), save(state))
    assert board_file.read(board_file.path_in(folder), BOARD, board.origin) == board


async def test_it_saves_what_the_log_folds_to_and_goes_on_from_there(tmp_path: Path) -> None:
    log = log_of([message(n, submitted(n)) for n in range(5)])
    assert await follow_once(log, tmp_path, POOL) == 5
    await check(tmp_path, log)
    await append(log, message(5, submitted(5)))
    assert await follow_once(log, tmp_path, POOL) == 6
    await check(tmp_path, log)
    assert await follow_once(log, tmp_path, POOL) == 6


async def test_snapshots_that_are_gone_or_damaged_are_made_again(tmp_path: Path) -> None:
    log = log_of([message(n, submitted(n)) for n in range(5)])
    await follow_once(log, tmp_path, POOL)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    await append(log, message(5, submitted(5)))
    assert await follow_once(log, tmp_path, POOL) == 6
    await check(tmp_path, log)


async def test_an_empty_log_has_no_snapshot(tmp_path: Path) -> None:
    assert await follow_once(MemoryLog(), tmp_path, POOL) == 0
    assert not list(tmp_path.iterdir())


async def test_it_is_due_after_enough_events_however_many_messages_hold_them(tmp_path: Path) -> None:
    started: list[int] = []

    class Counted(Snapshotter):
        async def follow(self) -> int:
            started.append(1)
            return 0

    for events, messages in ((1000, 1), (0, 1000 // MESSAGE_WORK + 1)):
        started.clear()
        snapshotter = Counted(tmp_path, every=1000)
        task = asyncio.create_task(snapshotter.run())
        snapshotter.committed(1, 0)
        await asyncio.sleep(0)
        assert not started
        snapshotter.committed(1 + messages, events)
        for _ in range(5):
            await asyncio.sleep(0)
        assert started
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_the_last_snapshots_hold_already_does_not_count(tmp_path: Path) -> None:
    started: list[int] = []
    done = asyncio.Event()

    class Counted(Snapshotter):
        async def follow(self) -> int:
            started.append(1)
            await done.wait()
            return 100

    snapshotter = Counted(tmp_path, every=1000)
    task = asyncio.create_task(snapshotter.run())

    async def folded(first: int, last: int) -> int:
        for position in range(first, last + 1):
            snapshotter.committed(position, 200)
            for _ in range(5):
                await asyncio.sleep(0)
        return len(started)

    assert await folded(1, 20) == 1
    done.set()
    assert await folded(21, 100) == 1, "a start that folds the whole log"
    assert await folded(101, 104) == 1
    assert await folded(105, 106) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
