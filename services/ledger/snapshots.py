"""Snapshots of the ledger: read by a writer or a view that starts, written by a follower (see `services.follower`)."""

from pathlib import Path

import msgspec
import structlog

from infra.snapshots import SnapshotFiles
from services.ledger import model
from services.ledger.state import Ledger, load, save

_log = structlog.get_logger()


class LedgerSnapshots:
    """The ledger's snapshots in a folder."""

    def __init__(self, folder: Path) -> None:
        self._files = SnapshotFiles(folder, "ledger", model.VERSION)

    def latest(self, last: int) -> tuple[int, Ledger] | None:
        """The newest one at or before `last`."""
        found = self._files.latest(last)
        if found is None:
            return None
        try:
            return found[0], load(found[1])
        except msgspec.DecodeError as error:
            _log.warning("snapshot.unreadable", position=found[0], why=str(error))
            return None

    def save(self, position: int, state: Ledger) -> None:
        """Keep `state` as of `position`."""
        self._files.save(position, save(state))
