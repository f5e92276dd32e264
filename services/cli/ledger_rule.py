"""`dispute ...`, and, for admins, `ledger ...`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.ledger import AMOUNT, LEG, account_text, cpt, key_option, parse_leg, with_hive

if TYPE_CHECKING:
    from web.client import AsyncHive

# Disputes


@click.group("dispute")
def dispute() -> None:
    """Payments of yours that were wrong: say so, and an admin rules."""


@command("open")
@click.argument("id")
@click.option("--reason", default="", help="Why; only you and the admins can read it.")
@click.option("--amount", type=AMOUNT, default=0, help="How much of it [all].")
@click.option("--against", default="", metavar="ACCOUNT", help="Which of several payees.")
def open_dispute(context: Context, id: str, reason: str, amount: int, against: str) -> None:
    """Dispute what you paid with a transfer, or what a job was charged."""

    async def do(hive: "AsyncHive") -> None:
        done = await hive.ledger.dispute(id, reason, amount=amount, against=against)
        _say_dispute(context, done.dispute, done, "there is one already" if done.existing else "open; an admin rules")

    with_hive(context, do)


def _say_dispute(context: Context, id: str, answer: object, what: str) -> None:
    if context.output.mode == "json":
        context.output.document(answer)
        return
    context.output.line(id)
    context.output.note(f"  {what}")


@command("list")
def list_disputes(context: Context) -> None:
    """List open disputes: yours, or, for admins, all."""

    async def show(hive: "AsyncHive") -> None:
        found, output = await hive.ledger.disputes(), context.output
        if output.mode == "json":
            output.document(found)
        elif output.mode == "quiet":
            for one in found:
                output.line(one.dispute)
        else:
            now = time.time()
            rows = [
                (one.dispute, cpt(one.amount), one.user, account_text(one.against), one.cites,
                 format.ago(one.opened_at, now), one.reason)
                for one in found
            ]  # fmt: skip
            output.table(("DISPUTE", "CPT", "BY", "AGAINST", "OF", "SINCE", "REASON"), rows, empty="none is open")

    with_hive(context, show)


@command("rule")
@click.argument("id")
@click.argument("ruling", type=click.Choice(["upheld", "rejected"]))
@click.option("--amount", type=AMOUNT, default=0, help="How much goes back [all that is disputed].")
@click.option("--from", "source", default="", metavar="ACCOUNT", help="Who makes it good [whom it is against].")
@click.option("--reason", default="", help="Why.")
def rule(
    context: Context, id: str, ruling: Literal["upheld", "rejected"], amount: int, source: str, reason: str
) -> None:
    """Rule on a dispute, for good. Upheld, an entry that cites the original gives the money back."""

    async def do(hive: "AsyncHive") -> None:
        done = await hive.ledger.rule(id, ruling, amount=amount, source=source, reason=reason)
        _say_dispute(context, id, done, f"{ruling}{' before' if done.existing else ''}")

    with_hive(context, do)


@command("withdraw")
@click.argument("id")
def withdraw(context: Context, id: str) -> None:
    """Withdraw a dispute of yours."""

    async def do(hive: "AsyncHive") -> None:
        _say_dispute(context, id, await hive.ledger.withdraw(id), "withdrawn")

    with_hive(context, do)


# The hive's own accounts


@click.group("ledger")
def ledger() -> None:
    """The hive's own accounts, for admins: where all CPT are, grants, issues, payouts, corrections."""


@command("overview")
def overview(context: Context) -> None:
    """Show where all CPT are."""

    async def show(hive: "AsyncHive") -> None:
        found, output = await hive.ledger.overview(), context.output
        if output.mode == "json":
            output.document(found)
            return
        names = ("supply", "supply_cap", "users", "held", "pending", "treasury", "fees")
        output.facts([(name.replace("_", " "), f"{cpt(getattr(found, name))} CPT") for name in names])
        more = ("accounts", "entries", "open_disputes")
        output.facts([(name.replace("_", " "), str(getattr(found, name))) for name in more])

    with_hive(context, show)


@command("pay")
@click.argument("kind", type=click.Choice(["grant", "issue", "payout", "correction"]))
@click.argument("legs", nargs=-1, type=LEG)
@click.option(
    "--from", "source", default="", help="mint, treasury, fees, or a user [grant, issue: mint; else treasury]."
)
@click.option("--file", "file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help="Lines WHO=CPT.")
@click.option("--memo", default="", help="A few words.")
@click.option("--cites", default="", metavar="ID", help="What a correction corrects.")
@key_option
def pay(
    context: Context,
    kind: Literal["grant", "issue", "payout", "correction"],
    legs: tuple[tuple[str, int], ...],
    source: str,
    file: Path | None,
    memo: str,
    cites: str,
    key: str,
) -> None:
    """Pay out of the hive's accounts to one or many (1000 at most), all or none.

    \b
    Examples:
      hivectl ledger pay issue treasury=5000
      hivectl ledger pay payout --file payouts.txt --idempotency-key november
      hivectl ledger pay correction bob=2 --cites tq3v5mnbd2krw7aef
    """
    wanted = [*legs, *(read_legs(file) if file else [])]
    if not wanted:
        raise Failure("nobody is named", "WHO=CPT, or --file", Exit.USAGE)

    async def do(hive: "AsyncHive") -> None:
        from web.ledger_schema import Leg

        payees: list[Leg] = [Leg(who, amount) for who, amount in wanted]
        payer = source or ("mint" if kind in ("grant", "issue") else "treasury")
        done = await hive.ledger.pay(kind, payer, payees, memo, cites=cites, idempotency_key=key)
        if context.output.mode == "json":
            context.output.document(done)
            return
        context.output.line(done.transfer)
        total = sum(leg.amount for leg in payees)
        before = " before; nothing was done now" if done.existing else ""
        context.output.note(f"  {cpt(total)} CPT to {format.count(len(payees), 'account')}{before}")

    with_hive(context, do)


def read_legs(file: Path) -> list[tuple[str, int]]:
    """WHO=CPT, one a line; empty lines and what is behind # are left out."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}", "", Exit.USAGE) from None
    found: list[tuple[str, int]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if said := line.partition("#")[0].strip():
            try:
                found.append(parse_leg(said))
            except ValueError as error:
                raise Failure(f"{file}, line {number}: {error}", "", Exit.USAGE) from None
    return found


for one in (open_dispute, list_disputes, rule, withdraw):
    dispute.add_command(one)
for one in (overview, pay):
    ledger.add_command(one)
COMMANDS = {"dispute": dispute, "ledger": ledger}
