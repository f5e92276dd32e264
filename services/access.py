"""Who may come in, as a process that answers requests knows it: the accounts' log folded in memory, and followed.

A revoked key is refused as soon as the fact arrives, some milliseconds after it was acknowledged.
"""

import asyncio
from collections.abc import Callable

import structlog

from events import catalog
from events.catalog import ACCOUNTS_SUBJECT, AnyEvent
from events.log import Log, LogUnavailable
from projections.access import Access, apply

RETRY_S = 0.5

_log = structlog.get_logger()


class AccessView:
    """`state` may be looked at. `on_event(event, at)` is called for each event after it was folded."""

    def __init__(self, log: Log) -> None:
        self.state = Access()
        self.position = 0
        self.unknown = 0
        self._log = log
        self._caught_up = asyncio.Event()
        self._grown = asyncio.Event()
        self._listeners: list[Callable[[AnyEvent, int], None]] = []

    def on_event(self, call: Callable[[AnyEvent, int], None]) -> None:
        """Call this for each event that comes, from now on."""
        self._listeners.append(call)

    async def run(self) -> None:
        """Follow the log until cancelled."""
        while True:
            try:
                async for entries in self._log.read(ACCOUNTS_SUBJECT, self.position + 1):
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

    def _take(self, event: AnyEvent, at: int) -> None:
        if not apply(self.state, event, at):
            # Written by a newer version: what it means is not known, so nothing rests on it here.
            self.unknown += 1
            _log.warning("access.unknown_event", tag=getattr(event, "tag", ""))
            return
        for call in self._listeners:
            call(event, at)

    @property
    def caught_up(self) -> bool:
        """Whether the end of the log was seen."""
        return self._caught_up.is_set()

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
