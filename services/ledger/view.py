"""Balances as a process that answers requests knows them: the ledger's log folded in memory, and followed.

A balance is there to be read some milliseconds after the transfer was acknowledged; who must see its own waits for the
position that the answer named.
"""

import asyncio

import structlog

from events import catalog
from events.catalog import LEDGER_SUBJECT, Unknown
from events.log import Log, LogUnavailable
from projections import levels
from projections.ledger import Books, apply
from projections.levels import Rewards
from services.hosting import Snapshots
from services.ledger.state import Ledger

RETRY_S = 0.5

_log = structlog.get_logger()


class LedgerView:
    """`books` and `rewards` may be looked at."""

    def __init__(self, log: Log, snapshots: Snapshots[Ledger]) -> None:
        self.books, self.rewards = Books(), Rewards()
        self.position = 0
        self.unknown = 0
        self._log, self._snapshots = log, snapshots
        self._caught_up = asyncio.Event()
        self._grown = asyncio.Event()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        await self._load()
        while True:
            try:
                async for entries in self._log.read(LEDGER_SUBJECT, self.position + 1):
                    for entry in entries:
                        message = catalog.decode(entry.data)
                        for event in message.events():
                            self._take(event, message.at)
                        self.position = entry.position
                    if not entries:
                        self._caught_up.set()
                    self._grown.set()
                    self._grown = asyncio.Event()
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _load(self) -> None:
        while True:
            try:
                last = await self._log.last(LEDGER_SUBJECT)
                break
            except LogUnavailable:
                await asyncio.sleep(RETRY_S)
        if (found := self._snapshots.latest(last)) is not None:
            self.position, self.books, self.rewards = found[0], found[1].books, found[1].rewards

    def _take(self, event: catalog.AnyEvent | Unknown, at: int) -> None:
        if isinstance(event, Unknown):
            # Written by a newer version. Should it move money, what is shown is short of it until this one is upgraded.
            self.unknown += 1
            _log.warning("ledger.unknown_event", tag=event.tag)
        apply(self.books, event, at)
        levels.apply(self.rewards, event, at)

    async def wait_caught_up(self) -> None:
        """Until the end of the log was seen."""
        await self._caught_up.wait()

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until `position` is folded here; whether it is."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position:
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True
