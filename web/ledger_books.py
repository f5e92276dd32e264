"""The ledger as a whole, for those who may see everybody's: where all CPT are, every account, and the log to audit."""

import heapq
from collections.abc import AsyncGenerator
from contextlib import aclosing

from litestar import get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery
from litestar.response import Stream

from events.catalog import LEDGER_SUBJECT, position_text
from events.ledger import FEES, TREASURY
from events.log import Entry
from services.ledger.audit import export_line, head_line
from web.ledger_schema import AccountsAnswer, AccountView, OverviewAnswer
from web.params import LIMIT, CoreArg, Limit, MinPosition, money_at_least, problems

READ = "money:read"


@get("/v1/ledger/overview", needs=READ, summary="Where all CPT are", responses=problems())
async def overview(core: CoreArg, min_position: MinPosition = "") -> OverviewAnswer:
    """Out of memory."""
    await money_at_least(core, min_position)
    view = core.money.view
    sums = {"user": 0, "hold": 0, "pending": 0}
    for account, amount in view.books.balances.items():
        sort = account.partition(":")[0]
        if sort in sums:
            sums[sort] += amount
    books = view.books
    return OverviewAnswer(
        books.supply, core.money.supply_cap, sums["user"], sums["hold"], sums["pending"], books.balance(TREASURY),
        books.balance(FEES), len(books.balances), books.entries, len(books.disputes), position_text(view.position),
    )  # fmt: skip


@get("/v1/ledger/accounts", needs=READ, summary="Every account", responses=problems())
async def accounts(
    core: CoreArg, after: FromQuery[str] = "", limit: Limit = LIMIT, min_position: MinPosition = ""
) -> AccountsAnswer:
    """By name; those that have nothing are left out."""
    await money_at_least(core, min_position)
    view = core.money.view
    names = heapq.nsmallest(limit + 1, (name for name in view.books.balances if name > after))
    found = [AccountView(name, view.books.balance(name)) for name in names[:limit]]
    return AccountsAnswer(found, found[-1].account if len(names) > limit else None, position_text(view.position))


@get(
    "/v1/ledger/export",
    needs=READ,
    summary="The ledger's log, to audit",
    description="One message a line, as it is on the log; what is sealed stays so. See docs/ledger.md.",
    media_type="application/x-ndjson",
    responses={
        200: ResponseSpec(bytes, generate_examples=False, description="The log", media_type="application/x-ndjson"),
        **problems(),
    },
)
async def export(core: CoreArg) -> Stream:
    """From the first message to the last one as of now."""
    last = await core.log.last(LEDGER_SUBJECT)

    async def lines() -> AsyncGenerator[bytes]:
        yield head_line(last)
        if not last:
            return
        reader: AsyncGenerator[list[Entry]] = core.log.read(LEDGER_SUBJECT, 1)
        async with aclosing(reader) as batches:
            async for batch in batches:
                yield b"".join(export_line(one.position, one.data) for one in batch if one.position <= last)
                if batch and batch[-1].position >= last:
                    return

    headers = {"Content-Disposition": 'attachment; filename="ledger.ndjson"'}
    return Stream(lines(), media_type="application/x-ndjson", headers=headers)


ROUTES = [overview, accounts, export]
