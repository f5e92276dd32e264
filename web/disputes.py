"""Disputes over HTTP: who paid opens one or withdraws it, an admin rules."""

import base64
import hashlib

from litestar import get, post
from litestar.params import FromPath, JSONBody

from events.catalog import position_text
from events.ledger import job_of, user_account
from projections.ledger import Dispute, Entry
from services.ledger.commands import OpenDispute, RuleDispute
from web.administer import record
from web.caller import Caller, caller_of
from web.core import Core
from web.ledger_ask import account_of, ask, no_transfer, opened
from web.ledger_schema import DisputeAnswer, DisputeBody, DisputesAnswer, DisputeView, RulingBody
from web.params import CoreArg, MinPosition, money_at_least, problems
from web.problems import AnyRequest, bad_field, not_found
from web.submit import ID_BYTES

OWN, SEES, READ, ALL = "money:own", ("money:own", "money:read"), "money:read", "money:all"
PAYS = frozenset({"transfer.posted", "charge.posted"})


def dispute_id(user: str, cites: str) -> str:
    """The id of this user's dispute of this payment: there is one."""
    raw = hashlib.sha256(f"{user}|{cites}".encode()).digest()[:ID_BYTES]
    return "d" + base64.b32encode(raw).decode().lower()


@post(
    "/v1/ledger/disputes",
    needs=OWN,
    summary="Dispute a payment",
    description="One that the caller paid. An admin rules; a payment is disputed once.",
    responses=problems(404, 409, 413, 422),
)
async def open_dispute(core: CoreArg, request: AnyRequest, data: JSONBody[DisputeBody]) -> DisputeAnswer:
    """Open one."""
    caller = caller_of(request)
    paid = await _paid(core, caller, data.cites)
    against = data.against or next(iter(paid))
    if against not in paid:
        raise bad_field("against", f"is {against!r}; by this was paid: {', '.join(paid)}")
    if not data.against and len(paid) > 1:
        raise bad_field("against", "is missing: several were paid by this", f"use one of {', '.join(paid)}")
    amount = data.amount or paid[against]
    if amount > paid[against]:
        raise bad_field("amount", f"is {amount}; {against} got {paid[against]} µCPT")
    reason = core.keys.seal(caller.user, data.reason.encode()) if data.reason else None
    id = dispute_id(caller.user, data.cites)
    outcome, position = await ask(core, caller, OpenDispute(id, caller.user, data.cites, amount, against, reason))
    return DisputeAnswer(id, outcome.existing, position_text(position))


async def _paid(core: Core, caller: Caller, cites: str) -> dict[str, int]:
    """What each account got of the caller by what is cited, in µCPT. Raises Failed when the caller paid nothing by it."""
    paid: dict[str, int] = {}
    entries = [entry for entry in await core.money.reads.of(cites) if entry.tag in PAYS]
    for entry in entries:
        if await _is_payer(core, caller, entry):
            paid[entry.credit] = paid.get(entry.credit, 0) + entry.amount
    paid.pop(user_account(caller.user), None)
    if not paid:
        raise no_transfer(cites)
    return paid


async def _is_payer(core: Core, caller: Caller, entry: Entry) -> bool:
    mine = user_account(caller.user)
    sort, _, name = entry.debit.partition(":")
    if sort == "hold":
        row = await core.reads.job(job_of(name)[1])
        return row is not None and row.owner == caller.user
    if sort == "pending":
        return any(one.credit == entry.debit and one.debit == mine for one in await core.money.reads.of(name))
    return entry.debit == mine


@get("/v1/ledger/disputes", needs=SEES, summary="Open disputes", responses=problems())
async def list_disputes(core: CoreArg, request: AnyRequest, min_position: MinPosition = "") -> DisputesAnswer:
    """The caller's own; with money:read everybody's."""
    caller = caller_of(request)
    await money_at_least(core, min_position)
    return DisputesAnswer(
        [
            _view(core, id, one)
            for id, one in core.money.view.books.disputes.items()
            if one.user == caller.user or caller.may(READ)
        ]
    )


def _view(core: Core, id: str, dispute: Dispute) -> DisputeView:
    return DisputeView(
        id, dispute.user, dispute.cites, dispute.amount, dispute.against, opened(core, dispute.reason), dispute.opened_at
    )  # fmt: skip


@post(
    "/v1/ledger/disputes/{id:str}/rule",
    needs=ALL,
    status_code=200,
    summary="Rule on a dispute",
    description="Upheld, an entry that cites the original gives the money back. A ruling is final.",
    responses=problems(402, 404, 409, 413, 422),
)
async def rule(core: CoreArg, request: AnyRequest, id: FromPath[str], data: JSONBody[RulingBody]) -> DisputeAnswer:
    """By an admin."""
    caller = caller_of(request)
    source = data.source
    if source and ":" not in source:
        source = await account_of(core, source, "source")
    reason = core.keys.seal(caller.user, data.reason.encode()) if data.reason else None
    outcome, position = await ask(core, caller, RuleDispute(id, data.ruling, data.amount, source, reason))
    if not outcome.existing:
        await record(core, caller, f"dispute.{data.ruling}", id)
    return DisputeAnswer(id, outcome.existing, position_text(position))


@post(
    "/v1/ledger/disputes/{id:str}/withdraw",
    needs=OWN,
    status_code=200,
    summary="Withdraw a dispute",
    responses=problems(404, 409),
)
async def withdraw(core: CoreArg, request: AnyRequest, id: FromPath[str]) -> DisputeAnswer:
    """By who opened it."""
    caller = caller_of(request)
    known = core.money.view.books.disputes.get(id)
    if known is None or known.user != caller.user:
        raise not_found("open dispute of yours", id, "list yours with GET /v1/ledger/disputes")
    outcome, position = await ask(core, caller, RuleDispute(id, "withdrawn"))
    return DisputeAnswer(id, outcome.existing, position_text(position))


ROUTES = [open_dispute, list_disputes, rule, withdraw]
