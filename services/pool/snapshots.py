"""Snapshots of the pool: read by a writer that starts, written by a follower.

The follower is a short-lived process of low priority, started when the log has grown by SNAPSHOT_EVERY messages since
the last snapshot. The leader never writes one: it would stop deciding meanwhile.
`python -m services.pool.snapshots DATA` is that follower.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import msgspec
import structlog

from events import catalog
from events.catalog import pool_subject
from events.log import Log
from infra import settings as settings_
from infra.connect import open_platform
from infra.folder import Folder
from infra.logging import configure
from infra.nats_log import JetStreamLog
from infra.snapshots import SnapshotFiles
from services.pool import model
from services.pool.state import Pool, load, save

SNAPSHOT_EVERY = 20_000
NICE = 10

_log = structlog.get_logger()


class PoolSnapshots:
    """The pool's snapshots in a folder."""

    def __init__(self, folder: Path, pool: str) -> None:
        self._files = SnapshotFiles(folder, f"pool-{pool}", model.VERSION)

    def latest(self, last: int) -> tuple[int, Pool] | None:
        """The newest one at or before `last`."""
        found = self._files.latest(last)
        if found is None:
            return None
        try:
            return found[0], load(found[1])
        except msgspec.DecodeError as error:
            _log.warning("snapshot.unreadable", position=found[0], why=str(error))
            return None

    def save(self, position: int, state: Pool) -> None:
        """Keep `state` as of `position`."""
        self._files.save(position, save(state))


async def follow_once(log: Log, snapshots: PoolSnapshots, pool: str) -> int:
    """Fold from the latest snapshot to the end of the log and save; the position reached."""
    subject = pool_subject(pool)
    last = await log.last(subject)
    position, state = snapshots.latest(last) or (0, Pool(pool))
    if position >= last:
        return position
    async with contextlib.aclosing(log.read(subject, position + 1)) as batches:
        async for batch in batches:
            for entry in batch:
                message = catalog.decode(entry.data)
                for event in message.events():
                    model.evolve(state, event, message.at)
                position = entry.position
            if position >= last:
                break
    snapshots.save(position, state)
    return position


class Snapshotter:
    """Starts the follower when it is due. One at a time; it ends with this process."""

    def __init__(self, data: Path, every: int = SNAPSHOT_EVERY) -> None:
        self._data, self._every = data, every
        self._saved = self._now = 0
        self._due = asyncio.Event()

    def reached(self, position: int) -> None:
        """The log has grown to `position`."""
        self._now = position
        if position - self._saved >= self._every:
            self._due.set()

    async def run(self, start: int = 0) -> None:
        """Start followers when due, until cancelled; the last snapshot was at `start`."""
        self._saved = start
        while True:
            await self._due.wait()
            target = self._now
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.pool.snapshots", str(self._data), start_new_session=True
            )
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                raise
            if code:
                _log.warning("snapshot.failed", code=code)
            self._saved = target
            self._due.clear()


async def _main(data: Path) -> None:
    folder = Folder(data)
    settings = settings_.load(folder.root)
    link = await open_platform(folder, settings, "hive snapshot")
    try:
        position = await follow_once(
            JetStreamLog(link), PoolSnapshots(folder.path("snapshots"), settings.pool), settings.pool
        )
        _log.info("snapshot.saved", position=position)
    finally:
        await link.close()


if __name__ == "__main__":
    os.nice(NICE)
    configure(json=False, level="info")
    asyncio.run(_main(Path(sys.argv[1])))
