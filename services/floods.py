"""Disconnects workers that flood, and lets them come back after a while: it may have been a mistake. Only so are the
others rid of it, as everything that it sends goes through the one connection on which the pool is asked.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

import structlog

from events.base import WorkerId
from services.access import AccessView

SHUT_OUT_S, SHUT_OUT_S_MAX = 60.0, 3600.0
"""For so long the first time, and twice as long each time that it floods again."""
FORGET_S = 3600.0
"""Who behaved for so long begins anew."""

_log = structlog.get_logger()


class Floods:
    """`revoke(public_key)` has the server end what this key has open. None: that is not ours to say, of an external NATS."""

    def __init__(
        self,
        access: AccessView,
        revoke: Callable[[str], Awaitable[object]] | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access, self._revoke, self._monotonic = access, revoke, monotonic
        self._out: dict[WorkerId, tuple[int, float]] = {}
        """How often in a row, and until when."""
        self._noticed: dict[WorkerId, None] = {}
        self._wake = asyncio.Event()

    def noticed(self, worker: WorkerId) -> None:
        """A worker floods: it is disconnected soon, and let in again after a while."""
        now = self._monotonic()
        self._out = {name: (times, until) for name, (times, until) in self._out.items() if now - until < FORGET_S}
        times, until = self._out.get(worker, (0, now))
        if until <= now:  # else it is the same flood, which is noticed until it is over
            self._out[worker] = times + 1, now + min(SHUT_OUT_S_MAX, SHUT_OUT_S * 2**times)
        self._noticed[worker] = None
        self._wake.set()

    def wait_s(self, worker: WorkerId) -> int:
        """For how many seconds the worker gets no credential; 0: it may come in."""
        _, until = self._out.get(worker, (0, 0.0))
        return max(0, math.ceil(until - self._monotonic()))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            noticed, self._noticed = self._noticed, {}
            for worker in noticed:
                await self._disconnect(worker)

    async def _disconnect(self, worker: WorkerId) -> None:
        known = self._access.state.workers.get(worker)
        if known is None or self._revoke is None:
            return
        try:
            await self._revoke(known.public_key)
        except Exception as error:  # noqa: BLE001 - whatever keeps the server from it, the flood is noticed again
            _log.warning("flood.not_disconnected", worker=worker, why=str(error))
        else:
            _log.warning("flood.disconnected", worker=worker, for_s=self.wait_s(worker))
