"""Disconnects workers that were shut out: what the accounts say, done at the server, again until it is done.

The server keeps what was revoked on disk, so that this is done once; after a restart it is looked at again.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.access import AccessView

RETRY_S_MIN, RETRY_S_MAX = 0.2, 10.0

_log = structlog.get_logger()


class ShutOut:
    """Watches `access`. `revoke(public_key)` has the server refuse this key, and end what it has open."""

    def __init__(self, access: AccessView, revoke: Callable[[str], Awaitable[object]]) -> None:
        self._access, self._revoke = access, revoke
        self._done: dict[str, int] = {}
        self._wake = asyncio.Event()
        access.on_event(lambda event, at: self._wake.set())

    async def run(self) -> None:
        """Until cancelled."""
        await self._access.wait_caught_up()
        pause = RETRY_S_MIN
        while True:
            self._wake.clear()
            try:
                await self._all()
                pause = RETRY_S_MIN
                await self._wake.wait()
            except Exception as error:  # noqa: BLE001 - whatever keeps the server from it, it must be tried again
                _log.warning("shut_out.not_done", why=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S_MAX)

    async def _all(self) -> None:
        wanted = dict(self._access.state.shut_out)
        new = {public_key: since for public_key, since in wanted.items() if self._done.get(public_key) != since}
        # At once: the server is told of many as of one.
        await asyncio.gather(*(self._revoke(public_key) for public_key in new))
        self._done |= new
        for gone in self._done.keys() - wanted.keys():
            del self._done[gone]
