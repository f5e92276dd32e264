"""What the ledger's history answers, out of the tables: pages of entries, months, one fact's postings.

Balances are not asked for here: they are in memory (`services.ledger.view`).
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from events.base import Sealed
from events.ledger import AccountId
from infra import tables
from projections.ledger import Entry
from services.ledger.transfers import POSTINGS_MAX
from services.ledger.view import LedgerView
from services.reads import BadCursor, Reads

NUMBER_MAX = 2**63 - 1
PAGE_ROWS = 1000
ROWS_OF_FACT_MAX = 2 * POSTINGS_MAX


class Month(msgspec.Struct, frozen=True, gc=False):
    """An account in a span of time, in µCPT: what it had before, what came, what went. `low`, `high`: its entries have
    numbers from the one on and below the other.
    """

    opening: int
    came: int
    went: int
    low: int
    high: int


class LedgerReads:
    """The questions. Raises ReadsUnavailable while the tables are away."""

    def __init__(self, reads: Reads, view: LedgerView) -> None:
        self._reads, self._view = reads, view

    async def _rows(self, sql: str, *arguments: Any) -> list[Any]:
        # At least what the balances hold, so that nobody sees a balance without the entry that made it.
        return await self._reads.rows(self._view.position, sql, *arguments)

    async def page(
        self, account: AccountId, cursor: str = "", limit: int = 100, low: int = 0, high: int = NUMBER_MAX
    ) -> tuple[list[Entry], str]:
        """Entries of an account, newest first, and the cursor of the next page ("": none). Raises BadCursor."""
        number, n = _place(cursor) if cursor else (NUMBER_MAX, 0)
        rows = await self._rows(tables.list_entries(), account, number, n, low, high, limit + 1)
        entries = [_entry(row) for row in rows[:limit]]
        return entries, f"{entries[-1].number}.{entries[-1].n}" if len(rows) > limit else ""

    async def each(self, account: AccountId, low: int, high: int) -> AsyncIterator[Entry]:
        """Every entry of an account with a number from `low` on and below `high`, oldest first."""
        number, n, sql = low, -1, tables.list_entries("ASC")
        while True:
            rows = await self._rows(sql, account, number, n, low, high, PAGE_ROWS)
            for row in rows:
                yield _entry(row)
            if len(rows) < PAGE_ROWS:
                return
            number, n = rows[-1][-1], rows[-1][1]

    async def month(self, account: AccountId, begin: int, end: int) -> Month:
        """The account from the moment `begin` on until before `end` (ms)."""
        low, high = await self._first_since(begin), await self._first_since(end)
        ((before, gone),) = await self._rows(tables.SUM_ENTRIES, account, 0, low)
        ((came, went),) = await self._rows(tables.SUM_ENTRIES, account, low, high)
        return Month(before - gone, came, went, low, high)

    async def of(self, id: str) -> list[Entry]:
        """The postings of the facts with this id, in order."""
        return [_entry(row) for row in await self._rows(tables.FIND_ENTRIES, id, ROWS_OF_FACT_MAX)]

    async def _first_since(self, moment: int) -> int:
        rows = await self._rows(tables.FIRST_ENTRY_SINCE, moment)
        return rows[0][0] if rows else NUMBER_MAX


def _place(cursor: str) -> tuple[int, int]:
    number, _, n = cursor.partition(".")
    if not number.isdecimal() or not n.isdecimal() or len(cursor) > 30:
        raise BadCursor(f"{cursor!r} is not a cursor; use the `next` that a page gave")
    return min(int(number), NUMBER_MAX), int(n)


def _entry(row: Any) -> Entry:
    id, n, tag, kind, debit, credit, amount, at, cites, memo_key, memo_data, by, number = row
    memo = Sealed(memo_key, memo_data) if memo_key else None
    return Entry(id, n, tag, kind, debit, credit, amount, at, cites, memo, by, number)
