"""How far the tables are, for a process that does not write them: the same questions as to a `TableWriter`, by asking."""

import asyncio

from infra import tables
from infra.database import Database, DatabaseAway, DatabaseRefused

LOOK_S_MIN = 0.05
"""How often a waiting reader looks."""
LOOK_S_MAX = 1.0
"""How often it is looked when nobody waits."""


class TableWatcher:
    """`position`, `away`, `live`, `skipped` as in `TableWriter`; what was skipped only the writer knows."""

    def __init__(self, database: Database) -> None:
        self.position = 0
        self.away = ""
        self.live = False
        self.skipped = 0
        self.build = 0
        self._database = database

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S_MAX)

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until readers see everything up to `position`; whether they do. Does not wait for a Postgres that is away."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position or not self.live:
                    await self._look()
                    if self.away:
                        return False
                    await asyncio.sleep(LOOK_S_MIN)
        except TimeoutError:
            return False
        return True

    def look_again(self) -> None:
        """The process that writes the tables finds out by itself."""

    async def _look(self) -> None:
        try:
            rows = await self._database.fetch(tables.LIVE_POSITION)
        except DatabaseAway as error:
            self.away = str(error)
            return
        except DatabaseRefused:
            rows = []
        self.live = bool(rows)
        self.away = ""
        self.position, self.build = rows[0] if rows else (0, 0)
