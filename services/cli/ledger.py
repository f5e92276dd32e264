"""`balance`, `transfer`, `transfers`, `pending ...` and `statement`."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.options import DURATION, Parsed

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.ledger_schema import EntryView, TransferAnswer, TransferView

MICRO = 1_000_000
LINES = 50
_AMOUNT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))?\Z")
ENTRY_HEADS = ("WHEN", "CPT", "FROM/TO", "WHAT", "ID", "MEMO")
WAITING_HEADS = ("ID", "CPT", "FROM", "TO", "ENDS", "MEMO")


def parse_amount(text: str) -> int:
    """µCPT in an amount of CPT such as 5 or 1.25. Raises ValueError."""
    found = _AMOUNT.match(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not an amount of CPT; write it like 5 or 1.25, with six decimals at most")
    return int(found[1]) * MICRO + int((found[2] or "").ljust(6, "0"))


def parse_leg(text: str) -> tuple[str, int]:
    """Who gets how much (µCPT), from WHO=AMOUNT. Raises ValueError."""
    who, equals, amount = text.rpartition("=")
    if not equals or not who:
        raise ValueError(f"{text!r} is not WHO=AMOUNT, such as bob=1.25")
    return who, parse_amount(amount)


AMOUNT = Parsed("CPT", parse_amount)
LEG = Parsed("WHO=CPT", parse_leg)
_user = click.option("--user", default="", help="Of another user (id); needs the right to see everybody's.")
key_option = click.option(
    "--idempotency-key",
    "key",
    default="",
    help="A text of your own: with the same one this is done once, however often you ask.",
)


def cpt(amount: int) -> str:
    """µCPT as CPT, exactly."""
    from services.ledger.transfers import cpt as exact

    return exact(amount)


def with_hive(context: Context, work: "Callable[[AsyncHive], Coroutine[Any, Any, None]]") -> None:
    """Do `work` with a client of the hive."""

    async def run() -> None:
        async with context.client() as hive:
            await work(hive)

    asyncio.run(run())


def account_text(name: str) -> str:
    """An account as people read it: a user's by its id alone."""
    return name.removeprefix("user:")


# What one has


@command("balance")
@_user
def balance(context: Context, user: str) -> None:
    """Show what you have, in CPT."""

    async def show(hive: "AsyncHive") -> None:
        found, output = await hive.ledger.balance(user), context.output
        if output.mode == "json":
            output.document(found)
            return
        output.line(cpt(found.balance) if output.mode == "quiet" else f"{cpt(found.balance)} CPT")
        if found.pending:
            output.note(f"  {cpt(found.pending)} CPT more wait in transfers: hivectl pending list")

    with_hive(context, show)


@command("transfer")
@click.argument("to")
@click.argument("amount", type=AMOUNT)
@click.option("--also", "more", multiple=True, type=LEG, help="Pay another one in the same transfer; all or none.")
@click.option("--memo", default="", help="A few words, which only the two of you and the hive can read.")
@click.option("--tip", is_flag=True, help="It is a tip.")
@click.option("--refund", default="", metavar="ID", help="It gives back what came with this transfer.")
@click.option(
    "--pending", type=DURATION, default=0.0, help="Only set it aside, for so long, such as 2h; see `pending`."
)
@key_option
def transfer(
    context: Context,
    to: str,
    amount: int,
    more: tuple[tuple[str, int], ...],
    memo: str,
    tip: bool,
    refund: str,
    pending: float,
    key: str,
) -> None:
    """Pay AMOUNT CPT to the user TO (a name, or an id).

    \b
    Examples:
      hivectl transfer bob 1.5 --memo "for the coffee"
      hivectl transfer bob 10 --pending 2h
    """
    if tip and refund:
        raise Failure("--tip and --refund exclude each other", "leave one out", Exit.USAGE)
    if more and (tip or refund):
        raise Failure("--also goes with plain transfers alone", "make several transfers", Exit.USAGE)

    async def pay(hive: "AsyncHive") -> None:
        from web.ledger_schema import Leg

        if more:
            legs = [Leg(to, amount), *(Leg(who, part) for who, part in more)]
            done = await hive.ledger.transfer_many(legs, memo, pending_s=pending, idempotency_key=key)
        else:
            kind: Literal["transfer", "tip", "refund"] = "tip" if tip else "refund" if refund else "transfer"
            done = await hive.ledger.transfer(
                to, amount, memo, kind=kind, cites=refund, pending_s=pending, idempotency_key=key
            )
        _say_done(context, done, "set aside" if pending else "paid")

    with_hive(context, pay)


def _say_done(context: Context, done: "TransferAnswer", what: str) -> None:
    output = context.output
    if output.mode == "json":
        output.document(done)
        return
    output.line(done.transfer)
    before = " before; nothing was done now" if done.existing else ""
    output.note(f"  {what}{before}; {cpt(done.balance)} CPT are left")


# What was


@command("transfers")
@click.argument("id", required=False)
@_user
@click.option("--limit", type=click.IntRange(1, 1000), default=LINES, show_default=True, help="Lines at most.")
@click.option("--cursor", default="", help="Go on where a page ended.")
def transfers(context: Context, id: str | None, user: str, limit: int, cursor: str) -> None:
    """Show what came and went, newest first, or everything about one transfer."""

    async def show(hive: "AsyncHive") -> None:
        output = context.output
        if id:
            _show_one(context, await hive.ledger.show(id))
            return
        page = await hive.ledger.entries(user, cursor=cursor, limit=limit)
        if output.mode == "json":
            output.document(page)
            return
        _lines(context, page.entries)
        if page.next:
            output.note(f"more: --cursor {page.next}")

    with_hive(context, show)


def _lines(context: Context, entries: "list[EntryView]") -> None:
    output = context.output
    if output.mode == "quiet":
        for one in entries:
            output.line(one.id)
        return
    rows = [
        (format.clock(one.at), ("+" if one.amount > 0 else "") + cpt(one.amount), account_text(one.other),
         one.kind or one.fact, one.id, one.memo)
        for one in entries
    ]  # fmt: skip
    output.table(ENTRY_HEADS, rows, empty="nothing came or went")


def _show_one(context: Context, one: "TransferView") -> None:
    output = context.output
    if output.mode == "json":
        output.document(one)
        return
    output.facts(
        [
            ("transfer", one.id), ("state", one.state), ("kind", one.kind), ("at", format.clock(one.at)),
            ("ends", format.clock(one.expires_at) if one.expires_at else ""), ("cites", one.cites), ("memo", one.memo),
        ]
    )  # fmt: skip
    for posting in one.postings:
        output.line(f"  {cpt(posting.amount)} CPT from {account_text(posting.debit)} to {account_text(posting.credit)}")


@command("statement")
@click.option("--month", default="", metavar="YYYY-MM", help="Which month, in UTC [this one].")
@_user
@click.option("--csv", "as_csv", is_flag=True, help="Every line as CSV, oldest first.")
@click.option("--limit", type=click.IntRange(1, 1000), default=LINES, show_default=True, help="Lines at most.")
def statement(context: Context, month: str, user: str, as_csv: bool, limit: int) -> None:
    """Show a month: what you had, what came and went, and what that leaves.

    \b
    Example:
      hivectl statement --month 2026-11 --csv > november.csv
    """

    async def show(hive: "AsyncHive") -> None:
        output = context.output
        if as_csv:
            output.raw(await hive.ledger.statement_csv(month, user))
            return
        found = await hive.ledger.statement(month, user, limit=limit)
        if output.mode == "json":
            output.document(found)
            return
        _lines(context, found.entries)
        output.facts(
            [
                ("month", found.month), ("opening", cpt(found.opening)), ("came", cpt(found.came)),
                ("went", cpt(found.went)), ("net", cpt(found.net)), ("closing", f"{cpt(found.closing)} CPT"),
            ]
        )  # fmt: skip
        if found.next:
            output.note(f"the newest {limit} lines are shown; all of them: --csv")

    with_hive(context, show)


# What waits


@click.group("pending")
def pending() -> None:
    """Transfers that wait: set aside with `transfer --pending`, to be posted or voided."""


@command("list")
def list_pending(context: Context) -> None:
    """List those that you pay or are to get."""

    async def show(hive: "AsyncHive") -> None:
        found, output = await hive.ledger.pending(), context.output
        if output.mode == "json":
            output.document(found)
        elif output.mode == "quiet":
            for one in found:
                output.line(one.id)
        else:
            now = time.time()
            rows = [
                (one.id, cpt(part.amount), account_text(part.debit), account_text(part.credit),
                 "in " + format.span(one.expires_at / 1000 - now), one.memo)
                for one in found for part in one.postings
            ]  # fmt: skip
            output.table(WAITING_HEADS, rows, empty="nothing waits")

    with_hive(context, show)


@command("post")
@click.argument("id")
@click.option("--amount", type=AMOUNT, default=0, help="Only so much; the rest goes back to you.")
def post(context: Context, id: str, amount: int) -> None:
    """Pay what you set aside."""

    async def do(hive: "AsyncHive") -> None:
        _say_done(context, await hive.ledger.post(id, amount), "paid")

    with_hive(context, do)


@command("void")
@click.argument("id")
def void(context: Context, id: str) -> None:
    """Give back what was set aside: to you, or, when you were to get it, to who paid."""

    async def do(hive: "AsyncHive") -> None:
        _say_done(context, await hive.ledger.void(id), "given back")

    with_hive(context, do)


for one in (list_pending, post, void):
    pending.add_command(one)
COMMANDS = {
    "balance": balance,
    "transfer": transfer,
    "transfers": transfers,
    "statement": statement,
    "pending": pending,
}
