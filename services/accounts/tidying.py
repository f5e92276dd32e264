"""Keeps `IdentityStore` and keyring in step with the log, whatever crashed between two steps, and writes down when API
keys were last used.

An erased user's key and row are destroyed; a name whose registration never came to be is freed after PENDING_MS; the
first admin gets a row, so that a link can set a password. Every control plane does this: twice done is once done.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Any

import structlog

from events.account import KeyId, UserErased
from events.base import UserId
from events.catalog import ACCOUNTS_SUBJECT
from events.log import Log, LogUnavailable
from infra.database import DatabaseAway, DatabaseRefused
from services.accounts.first import ADMIN
from services.accounts.names import fold
from services.accounts.people import PeopleParts

PENDING_MS = 10 * 60_000
"""Longer than any registration takes: its command is given up after 30 s."""
TEND_S = 60.0
"""How often it looks, and how often uses of keys are written down."""
RETRY_S = 1.0
REACHED_S = 5.0
USES_MAX = 100_000

_log = structlog.get_logger()


class KeyUses:
    """When API keys were last used, collected and written down together."""

    def __init__(self) -> None:
        self._uses: OrderedDict[KeyId, tuple[UserId, int]] = OrderedDict()

    def note(self, key: KeyId, user: UserId, now: int) -> None:
        """The key was used at `now` (ms)."""
        self._uses[key] = (user, now)
        if len(self._uses) > USES_MAX:
            self._uses.popitem(last=False)

    def at(self, key: KeyId) -> int:
        """When it was last used, of what is not written down yet; 0: not."""
        return self._uses.get(key, ("", 0))[1]

    def take(self) -> dict[KeyId, tuple[UserId, int]]:
        """What is to be written down now."""
        uses, self._uses = self._uses, OrderedDict()
        return uses

    def put_back(self, uses: dict[KeyId, tuple[UserId, int]]) -> None:
        """It could not be written down."""
        self._uses = OrderedDict({**uses, **self._uses})


class Tidying:
    """Runs beside `People`, in each process that has one. Make it before the access view runs, so that it hears all."""

    def __init__(self, parts: PeopleParts, log: Log, uses: KeyUses) -> None:
        self._parts, self._log, self._uses = parts, log, uses
        self._erased: dict[UserId, None] = {}
        self._wake = asyncio.Event()
        parts.access.on_event(parts.keyring.heard)
        parts.access.on_event(self._heard)

    def _heard(self, event: Any, at: int) -> None:
        if isinstance(event, UserErased):
            self._erased[event.user] = None
            self._wake.set()

    async def run(self) -> None:
        """Tidy until cancelled. While Postgres is away, it waits."""
        await self._parts.access.wait_caught_up()
        users = self._parts.access.state.users
        self._parts.keyring.compare(users)
        self._erased |= {name: None for name, user in users.items() if user.state == "erased"}
        while True:
            self._wake.clear()
            try:
                await self.once()
            except (DatabaseAway, DatabaseRefused, LogUnavailable) as error:
                _log.warning("people.waits", why=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), TEND_S)
            except TimeoutError:
                continue

    async def once(self, now: int = 0) -> None:
        """Do all there is to do at `now` (ms; 0: as the clock says). Raises DatabaseAway, LogUnavailable."""
        now = now or time.time_ns() // 1_000_000
        await self._write_uses()
        await self._finish_erasing()
        await self._settle_pending(now)
        await self._parts.store.forget_over(now)
        await self._parts.failures.forget_over()
        await self._ensure_admin(now)

    async def _write_uses(self) -> None:
        uses = self._uses.take()
        if not uses:
            return
        try:
            await self._parts.store.note_uses(uses)
        except DatabaseAway:
            self._uses.put_back(uses)
            raise

    async def _finish_erasing(self) -> None:
        """Of those that the log says are erased, destroy what is left."""
        erased = [*self._erased]
        if left := await self._parts.store.known(erased):
            await self._parts.store.remove_users(left)
        for user in erased:
            self._erased.pop(user, None)

    async def _settle_pending(self, now: int) -> None:
        """Registrations that did not come to their end: the log says what became of them."""
        users = await self._parts.store.pending(now - PENDING_MS)
        if not users:
            return
        access = self._parts.access
        # What is not known here may just not have been read yet.
        if not await access.reached(await self._log.last(ACCOUNTS_SUBJECT), REACHED_S):
            return
        for user in users:
            if user in access.state.users:
                await self._parts.store.set_registered(user)
            else:
                await self._parts.keyring.destroy(user)
                await self._parts.store.remove_users([user])

    async def _ensure_admin(self, now: int) -> None:
        known = self._parts.access.state.users.get(ADMIN)
        if known is None or known.state == "erased" or await self._parts.store.user(ADMIN) is not None:
            return
        await self._parts.store.add_user(ADMIN, ADMIN, fold(ADMIN), "", now)
        await self._parts.store.set_registered(ADMIN)
