"""Snapshots of the pool: read by a writer that starts, written by a follower (see `services.follower`)."""

from pathlib import Path

import msgspec
import structlog

from infra.snapshots import SnapshotFiles
from services.pool import model
from services.pool.state import Pool, load, save

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
