"""`quote` and `prices`: what jobs cost, before they are handed in."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from events.units import MICRO, cpt_text
from services.cli import format, inputs
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.submit import check, spec_of, submit

if TYPE_CHECKING:
    from events.spec import JobSpec
    from web.client import AsyncHive
    from web.costs_schema import JobQuote, QuotesAnswer


@command("quote", context_settings={"allow_interspersed_args": False})
def quote(context: Context, words: tuple[str, ...], **asked: Any) -> int:
    """Say what a job would cost, and hand in nothing. Takes what `submit` takes.

    Exit code 3 when you have less than that, or it is more than --max-cpt.

    \b
    Example:
      hivectl quote --count 100 --cpus 2 --time-limit 10m -- python3 work.py
    """
    return asyncio.run(ask_quote(context, words, asked))


_OWN = {parameter.name for parameter in quote.params} | {"quotes", "waits", "idempotency_key"}
quote.params[:0] = [parameter for parameter in submit.params if parameter.name not in _OWN]


async def ask_quote(context: Context, words: tuple[str, ...], asked: dict[str, Any]) -> int:
    """Quote the job that `submit` would hand in."""
    spec = spec_of(words, asked, inputs.planned(asked))
    check(spec)
    async with context.client() as hive:
        return await show_quote(context, hive, spec)


async def show_quote(context: Context, hive: "AsyncHive", spec: "JobSpec") -> int:
    """Print what the job would cost; the exit code says whether it can be had."""
    answer = await hive.costs.quote([spec])
    output, (job,) = context.output, answer.jobs
    if output.mode == "json":
        output.document(answer)
    else:
        output.facts(quote_facts(answer, job, spec.count))
    most = round(spec.max_cpt * MICRO)
    if answer.economy and most and job.hold > most:
        output.note(f"this is more than --max-cpt {cpt_text(most)}: it would be refused")
        return Exit.REFUSED
    if answer.missing:
        output.note(f"you have {cpt_text(answer.balance)} CPT: {cpt_text(answer.missing)} are missing")
        return Exit.REFUSED
    return Exit.OK


def quote_facts(answer: "QuotesAnswer", job: "JobQuote", count: int) -> list[tuple[str, str]]:
    """A quote for people."""
    lines = [line for line in job.lines if line.what != "base"]
    held = "at most, by its time limit" if job.limited else f"enough for {format.span(job.each_ms / 1000)} of each task"
    facts = [
        ("set aside", f"{cpt_text(job.hold)} CPT, {held}; what is not used comes back"),
        ("each task", f"{cpt_text(job.base)} CPT" + (f", {format.count(count, 'task')}" if count > 1 else "")),
        ("each hour", f"{cpt_text(job.per_hour)} CPT a task"),
        *((f"  {line.what}", cpt_text(line.amount)) for line in lines),
    ]
    if job.priority_percent != 100:
        facts.append(("priority", f"{job.priority_percent} % of the usual price"))
    if not job.limited:
        facts.append(("", "more is set aside while it runs; a --time-limit bounds what it can cost"))
    facts.append(
        ("prices", answer.prices if answer.economy else f"{answer.prices}; jobs cost nothing here (economy = off)")
    )
    return facts


@command("prices")
@click.argument("rates", nargs=-1, metavar="[NAME=µCPT...]")
@click.option("--usual", is_flag=True, help="Set the usual prices again.")
def show_prices(context: Context, rates: tuple[str, ...], usual: bool) -> None:
    """Show the price list; with NAME=µCPT set those prices (admins), over the usual ones.

    \b
    Examples:
      hivectl prices
      hivectl prices cpu_hour=2000000 base=0
    """
    asyncio.run(_prices(context, _rates_of(rates) if rates else {} if usual else None))


def _rates_of(rates: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for rate in rates:
        name, equals, value = rate.partition("=")
        if not equals or not value.isdecimal():
            raise Failure(
                f"{rate!r} is not NAME=µCPT with a whole number", "hivectl prices cpu_hour=2000000", Exit.USAGE
            )
        found[name] = int(value)
    return found


async def _prices(context: Context, rates: dict[str, int] | None) -> None:
    async with context.client() as hive:
        if rates is not None:
            done = await hive.costs.set_prices(rates)
            context.output.note(
                f"{'these are' if done.existing else 'set:'} the prices {done.prices}, for jobs from now on"
            )
        found = await hive.costs.prices()
    if context.output.mode == "json":
        context.output.document(found)
        return
    if not found.economy:
        context.output.note("jobs cost nothing here: the setting `economy` is off")
    rows = [
        (name, f"{value:,}", cpt_text(value) if name.endswith("hour") else "") for name, value in found.rates.items()
    ]
    context.output.table(("PRICE", "µCPT", "CPT"), rows)


COMMANDS = {"quote": quote, "prices": show_prices}
