"""Money over HTTP: balance, transfers, what waits, months, and the hive's own accounts."""

import csv
import io
import re
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Literal

from litestar import get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Stream

from events.catalog import position_text
from events.ledger import AccountId, user_account
from projections.base import position_in
from projections.ledger import Entry, Pending
from services.ledger.commands import PostPending, VoidPending
from services.ledger.transfers import PENDING_MS_MIN, cpt
from services.reads import BadCursor
from web.administer import record
from web.caller import Caller, caller_of, forbidden
from web.core import Core
from web.jobs import Key
from web.ledger_ask import account_of, ask, new_id, no_transfer, opened, postings_of, transfer_of
from web.ledger_schema import (
    BalanceAnswer,
    EntriesAnswer,
    EntryView,
    Leg,
    PaymentBody,
    PendingAnswer,
    PostBody,
    PostingView,
    StatementAnswer,
    TransferAnswer,
    TransferBody,
    TransferView,
)
from web.params import LIMIT, CoreArg, Limit, MinPosition, money_at_least, problems
from web.problems import AnyRequest, bad_field
from web.submit import check_key

OWN = "money:own"
SEES = ("money:own", "money:read")
READ = "money:read"
ALL = "money:all"
BODY_BYTES_MAX = 256 * 1024
PENDING_SHOWN_MAX = 1000
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])\Z")
CSV = "text/csv; charset=utf-8"
CSV_HEAD = ("at", "id", "fact", "kind", "amount_cpt", "amount_micro", "other", "memo", "cites", "position")


def _account(caller: Caller, user: str) -> str:
    """Whose account is asked for: the caller's own, or with READ anybody's. Raises Failed."""
    wanted = user or caller.user
    if wanted != caller.user and not caller.may(READ):
        raise forbidden(f"the account of another needs {READ}")
    if wanted == caller.user and not caller.may(*SEES):
        raise forbidden(f"it needs {' or '.join(SEES)}")
    return wanted


@get("/v1/ledger/balance", needs=SEES, summary="What a user has", responses=problems())
async def balance(
    core: CoreArg, request: AnyRequest, user: FromQuery[str] = "", min_position: MinPosition = ""
) -> BalanceAnswer:
    """Out of memory. `user`: another than the caller."""
    wanted = _account(caller_of(request), user)
    await money_at_least(core, min_position)
    view, account = core.money.view, user_account(wanted)
    waiting = 0
    if account in view.books.waiting:
        waiting = sum(_amount(one) for one in view.books.pending.values() if one.postings[0].debit == account)
    return BalanceAnswer(wanted, view.books.balance(account), waiting, position_text(view.position))


def _amount(pending: Pending) -> int:
    return sum(posting.amount for posting in pending.postings)


@post(
    "/v1/ledger/transfers",
    needs=OWN,
    summary="Pay other users",
    description="What is answered with 201 is on disk. The same Idempotency-Key never pays twice, also a year later.",
    responses=problems(402, 404, 409, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def transfer(
    core: CoreArg, request: AnyRequest, data: JSONBody[TransferBody], idempotency_key: Key = ""
) -> TransferAnswer:
    """From the caller's own account."""
    caller = caller_of(request)
    check_key(idempotency_key)
    legs = _legs(data)
    postings = await postings_of(core, user_account(caller.user), legs, own=False, alone=not data.legs)
    waits = round(data.pending_s * 1000)
    if 0 < waits < PENDING_MS_MIN:
        raise bad_field("pending_s", f"is {data.pending_s:g}; a transfer waits {PENDING_MS_MIN / 1000:g} s or longer")
    if data.kind == "refund" and not data.cites:
        raise bad_field("cites", "is missing: a refund names the transfer that it gives back")
    id = new_id("t", caller.user, idempotency_key)
    command = transfer_of(core, caller, id, data.kind, postings, data.memo, data.cites, waits)
    outcome, position = await ask(core, caller, command)
    return TransferAnswer(id, outcome.existing, outcome.balance or 0, position_text(position))


def _legs(data: TransferBody) -> list[Leg]:
    alone = bool(data.to or data.amount)
    if alone == bool(data.legs):
        raise bad_field("to", "is needed, with `amount`, or `legs` in their place")
    if not alone:
        return data.legs
    if not (data.to and data.amount):
        raise bad_field("amount" if data.to else "to", "is missing")
    return [Leg(data.to, data.amount)]


@post(
    "/v1/ledger/payments",
    needs=ALL,
    summary="Pay out of the hive's own accounts",
    description="Grants, issues, bulk payouts, corrections. The act is written down with who did it.",
    responses=problems(402, 404, 409, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def pay(
    core: CoreArg, request: AnyRequest, data: JSONBody[PaymentBody], idempotency_key: Key = ""
) -> TransferAnswer:
    """All legs or none."""
    caller = caller_of(request)
    check_key(idempotency_key)
    if data.kind == "correction" and not data.cites:
        raise bad_field("cites", "is missing: a correction names what it corrects")
    source = await account_of(core, data.source, "source")
    postings = await postings_of(core, source, data.legs, own=True)
    id = new_id("t", caller.user, idempotency_key)
    command = transfer_of(core, caller, id, data.kind, postings, data.memo, data.cites)
    outcome, position = await ask(core, caller, command)
    if not outcome.existing:
        await record(core, caller, f"ledger.{data.kind}", id)
    return TransferAnswer(id, outcome.existing, outcome.balance or 0, position_text(position))


@get("/v1/ledger/pending", needs=SEES, summary="Transfers that wait", responses=problems())
async def list_pending(core: CoreArg, request: AnyRequest, min_position: MinPosition = "") -> PendingAnswer:
    """That the caller pays or is to get; with money:read everybody's. At most 1000."""
    caller = caller_of(request)
    await money_at_least(core, min_position)
    mine, found = user_account(caller.user), list[TransferView]()
    for id, one in core.money.view.books.pending.items():
        if len(found) < PENDING_SHOWN_MAX and (caller.may(READ) or mine in _parties(one)):
            found.append(_of_pending(core, id, one))
    return PendingAnswer(found)


def _parties(pending: Pending) -> set[AccountId]:
    return {pending.postings[0].debit, *(posting.credit for posting in pending.then)}


def _of_pending(core: Core, id: str, pending: Pending) -> TransferView:
    payer = pending.postings[0].debit
    postings = [PostingView(payer, posting.credit, posting.amount) for posting in pending.then]
    memo = opened(core, pending.memo)
    return TransferView(
        id, "pending", pending.kind, postings, memo, pending.cites, pending.at, pending.expires_at
    )  # fmt: skip


@get("/v1/ledger/transfers", needs=SEES, summary="What came and went", responses=problems())
async def list_entries(
    core: CoreArg,
    request: AnyRequest,
    user: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
    limit: Limit = LIMIT,
    min_position: MinPosition = "",
) -> EntriesAnswer:
    """Newest first."""
    account = user_account(_account(caller_of(request), user))
    await money_at_least(core, min_position)
    entries, more = await _page(core, account, cursor, limit, 0, 2**63 - 1)
    return EntriesAnswer(entries, more)


async def _page(
    core: Core, account: AccountId, cursor: str, limit: int, low: int, high: int
) -> tuple[list[EntryView], str | None]:
    try:
        entries, more = await core.money.reads.page(account, cursor, limit, low, high)
    except BadCursor as error:
        raise bad_field("cursor", str(error), status=400) from None
    return [_view(core, account, entry) for entry in entries], more or None


def _view(core: Core, account: AccountId, entry: Entry) -> EntryView:
    came = entry.credit == account
    return EntryView(
        entry.id, entry.n, entry.tag, entry.kind, entry.amount if came else -entry.amount,
        entry.debit if came else entry.credit, opened(core, entry.memo), entry.cites, entry.at,
        position_text(position_in(entry.number)),
    )  # fmt: skip


@get("/v1/ledger/transfers/{id:str}", needs=SEES, summary="Show a transfer", responses=problems(404))
async def show_transfer(
    core: CoreArg, request: AnyRequest, id: FromPath[str], min_position: MinPosition = ""
) -> TransferView:
    """One that the caller pays or gets; with money:read anybody's."""
    caller = caller_of(request)
    await money_at_least(core, min_position)
    if (pending := core.money.view.books.pending.get(id)) is not None:
        if caller.may(READ) or user_account(caller.user) in _parties(pending):
            return _of_pending(core, id, pending)
        raise no_transfer(id)
    entries = await core.money.reads.of(id)
    accounts = {account for entry in entries for account in (entry.debit, entry.credit)}
    if not entries or not (caller.may(READ) or user_account(caller.user) in accounts):
        raise no_transfer(id)
    first, last = entries[0], entries[-1]
    postings = [PostingView(entry.debit, entry.credit, entry.amount) for entry in entries]
    state: Literal["posted", "voided"] = "voided" if last.tag == "transfer.voided" else "posted"
    return TransferView(id, state, first.kind, postings, opened(core, first.memo), first.cites, first.at, 0)


@post(
    "/v1/ledger/transfers/{id:str}/post",
    needs=(OWN, ALL),
    status_code=200,
    summary="Carry a pending transfer through",
    responses=problems(404, 409, 413, 422),
)
async def post_pending(
    core: CoreArg, request: AnyRequest, id: FromPath[str], data: JSONBody[PostBody]
) -> TransferAnswer:
    """By who pays, or an admin."""
    caller = caller_of(request)
    payer, _ = await _who(core, caller, id)
    if payer != user_account(caller.user) and not caller.may(ALL):
        raise forbidden("who pays posts a transfer; who is to get it may void it")
    outcome, position = await ask(core, caller, PostPending(id, data.amount))
    return TransferAnswer(id, outcome.existing, core.money.view.books.balance(payer), position_text(position))


@post(
    "/v1/ledger/transfers/{id:str}/void",
    needs=(OWN, ALL),
    status_code=200,
    summary="Give back what a pending transfer set aside",
    responses=problems(404, 409),
)
async def void_pending(core: CoreArg, request: AnyRequest, id: FromPath[str]) -> TransferAnswer:
    """By who pays, who is to get it, or an admin."""
    caller = caller_of(request)
    payer, _ = await _who(core, caller, id)
    outcome, position = await ask(core, caller, VoidPending(id))
    return TransferAnswer(id, outcome.existing, core.money.view.books.balance(payer), position_text(position))


async def _who(core: Core, caller: Caller, id: str) -> tuple[AccountId, set[AccountId]]:
    """Who pays a transfer that waits or waited, and who is to get it. Raises Failed unless the caller is one of them."""
    if (pending := core.money.view.books.pending.get(id)) is not None:
        payer, parties = pending.postings[0].debit, _parties(pending)
    else:
        entries = await core.money.reads.of(id)
        if not entries:
            raise no_transfer(id)
        payer = entries[0].debit
        parties = {account for entry in entries for account in (entry.debit, entry.credit)}
    if user_account(caller.user) not in parties and not caller.may(ALL):
        raise no_transfer(id)
    return payer, parties


def _bounds(month: str) -> tuple[str, int, int]:
    """A month (this one when empty) as text, and its first moment and that of the next one, in ms. Raises Failed."""
    month = month or datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m")
    found = _MONTH.match(month)
    if found is None or not 1970 <= int(found[1]) <= 9998:
        raise bad_field("month", f"is {month[:20]!r}; write it like 2026-11", status=400)
    year, number = int(found[1]), int(found[2])
    begin = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return month, round(begin.timestamp() * 1000), round(end.timestamp() * 1000)


@get("/v1/ledger/statement", needs=SEES, summary="A month of an account", responses=problems())
async def statement(
    core: CoreArg,
    request: AnyRequest,
    month: FromQuery[str] = "",
    user: FromQuery[str] = "",
    cursor: FromQuery[str] = "",
    limit: Limit = LIMIT,
    min_position: MinPosition = "",
) -> StatementAnswer:
    """What it had, what came and went (UTC), and the lines, newest first."""
    wanted = _account(caller_of(request), user)
    month, begin, end = _bounds(month)
    await money_at_least(core, min_position)
    account = user_account(wanted)
    found = await core.money.reads.month(account, begin, end)
    entries, more = await _page(core, account, cursor, limit, found.low, found.high)
    net = found.came - found.went
    return StatementAnswer(
        wanted, month, found.opening, found.came, found.went, net, found.opening + net, entries, more
    )  # fmt: skip


@get(
    "/v1/ledger/statement.csv",
    needs=SEES,
    summary="A month of an account as CSV",
    media_type=CSV,
    responses={
        200: ResponseSpec(bytes, generate_examples=False, description="A line each", media_type=CSV),
        **problems(),
    },
)
async def statement_csv(
    core: CoreArg, request: AnyRequest, month: FromQuery[str] = "", user: FromQuery[str] = ""
) -> Stream:
    """Every line, oldest first."""
    wanted = _account(caller_of(request), user)
    month, begin, end = _bounds(month)
    account = user_account(wanted)
    found = await core.money.reads.month(account, begin, end)

    async def lines() -> AsyncGenerator[bytes]:
        yield _csv(CSV_HEAD)
        async for entry in core.money.reads.each(account, found.low, found.high):
            one = _view(core, account, entry)
            at = datetime.fromtimestamp(one.at / 1000, UTC).isoformat(timespec="milliseconds")
            about = at, one.id, one.fact, one.kind, cpt(one.amount), str(one.amount), one.other
            yield _csv((*about, _inert(one.memo), one.cites, one.position))

    headers = {"Content-Disposition": f'attachment; filename="statement-{month}.csv"'}
    return Stream(lines(), media_type=CSV, headers=headers)


def _csv(fields: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(fields)
    return text.getvalue().encode()


def _inert(memo: str) -> str:
    """A memo that no spreadsheet takes for a formula."""
    return f"'{memo}" if memo[:1] in ("=", "+", "-", "@", "\t", "\r") else memo


ROUTES = [
    balance, transfer, pay, list_pending, list_entries, show_transfer, post_pending, void_pending, statement,
    statement_csv,
]  # fmt: skip
