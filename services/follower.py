"""The follower: writes the snapshots that the writers of pool and ledger and the board start from.

It is a short-lived process of low priority, started when enough was written since the last snapshots. The processes
that decide and answer never write them while they work: they would stop doing so meanwhile.
`python -m services.follower DATA` is that process; it prints the position of what it saved.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import structlog

from events import catalog
from events.catalog import LEDGER_SUBJECT, pool_subject
from events.log import Log
from infra import settings as settings_
from infra.connect import open_platform
from infra.folder import Folder
from infra.logging import configure
from infra.nats_log import JetStreamLog
from projections.board import BOARD
from services import board_file
from services.ledger import model as ledger_model
from services.ledger.snapshots import LedgerSnapshots
from services.ledger.state import Ledger
from services.pool import model
from services.pool.snapshots import PoolSnapshots
from services.pool.state import Pool

SUBJECT = "evt.>"
SNAPSHOT_WORK = 250_000
"""Snapshots are due after so many events, which are folded again in about a second..."""
MESSAGE_WORK = 5
"""...where a message costs as much as so many more."""
NICE = 10

_log = structlog.get_logger()


async def follow_once(log: Log, folder: Path, pool: str) -> int:
    """Fold from the latest snapshots in `folder` to the end of the log, and save both; the position reached."""
    subject, pools, path = pool_subject(pool), PoolSnapshots(folder, pool), board_file.path_in(folder)
    first, last = await log.get(SUBJECT, 1), await log.last(SUBJECT)
    if first is None:
        return 0
    at, state = pools.latest(last) or (0, Pool(pool))
    board = board_file.read(path, BOARD, catalog.decode(first.data).id)
    board = board if board is not None and board.position <= last else BOARD.initial()
    began = (at, board.position)
    position = min(began)
    if position >= last:
        return position
    async with contextlib.aclosing(log.read(SUBJECT, position + 1)) as batches:
        async for batch in batches:
            for entry in batch:
                message = catalog.decode(entry.data)
                if entry.subject == subject and entry.position > at:
                    model.fold(state, message)
                    at = entry.position
                BOARD.apply(board, message, entry.position)
                position = entry.position
            if position >= last:
                break
    if at > began[0]:
        pools.save(at, state)
    if board.position > began[1]:
        await board_file.write(path, BOARD, board, board.origin)
    return position


async def follow_ledger(log: Log, folder: Path) -> int:
    """The same for the ledger, which mostly says little: so it is read by itself, from its own position."""
    snapshots, last = LedgerSnapshots(folder), await log.last(LEDGER_SUBJECT)
    began, state = snapshots.latest(last) or (0, Ledger())
    at = began
    if at >= last:
        return at
    async with contextlib.aclosing(log.read(LEDGER_SUBJECT, at + 1)) as batches:
        async for batch in batches:
            for entry in batch:
                message = catalog.decode(entry.data)
                ledger_model.fold(state, message)
                at = entry.position
            if at >= last:
                break
    snapshots.save(at, state)
    return at


class Snapshotter:
    """Starts the follower when it is due. One at a time; it ends with this process."""

    def __init__(self, data: Path, every: int = SNAPSHOT_WORK) -> None:
        self._data, self._every = data, every
        self._position = self._work = self._saved = 0
        self._due = asyncio.Event()

    def committed(self, position: int, events: int) -> None:
        """The log was folded up to `position`, `events` further than at the last call. What is in the last snapshots already
        does not count: a start without any folds the whole log, and one follower is enough for that.
        """
        if position > self._saved:
            self._work += events + MESSAGE_WORK * max(0, position - (self._position or position))
        self._position = position
        if self._work >= self._every:
            self._due.set()

    async def run(self) -> None:
        """Start followers when due, until cancelled."""
        while True:
            await self._due.wait()
            self._begin()
            self._saved = max(self._saved, await self.follow())
            if self._position <= self._saved:
                self._begin()

    def _begin(self) -> None:
        self._work = 0
        self._due.clear()

    async def follow(self) -> int:
        """Run a follower; the position of the snapshots that it leaves, 0 when it failed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.follower", str(self._data), stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            said, _ = await process.communicate()
            if process.returncode:
                _log.warning("snapshot.failed", code=process.returncode)
                return 0
            return int(said)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise


async def _main(data: Path) -> None:
    folder = Folder(data)
    settings = settings_.load(folder.root)
    link = await open_platform(folder, settings, "hive snapshot")
    try:
        log, snapshots = JetStreamLog(link), folder.path("snapshots")
        await follow_ledger(log, snapshots)
        position = await follow_once(log, snapshots, settings.pool)
        _log.info("snapshot.saved", position=position)
        sys.stdout.write(f"{position}\n")  # to the Snapshotter
    finally:
        await link.close()


if __name__ == "__main__":
    os.nice(NICE)
    configure(json=False, level="info")
    asyncio.run(_main(Path(sys.argv[1])))
