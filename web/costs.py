"""Prices, quotes before a submission, and what keeps a job out that its user cannot pay."""

from collections.abc import Sequence

from litestar import get, post, put
from litestar.params import JSONBody, RawBody

from events.catalog import LEDGER_SUBJECT, position_text
from events.job import Cost, price
from events.ledger import hold_of, user_account
from events.log import LogUnavailable
from events.spec import JobSpec
from events.units import MICRO, cpt_text
from projections.rows import JobRow
from services.asking import RefusedAnswer
from services.ledger import prices
from services.ledger.commands import SetPrices
from services.ledger.prices import Quote
from web.caller import ANYBODY, Caller, caller_of
from web.core import Core
from web.costs_schema import (
    JobQuote,
    PricesAnswer,
    PricesBody,
    PricesSetAnswer,
    QuoteLine,
    QuotesAnswer,
)
from web.params import CoreArg, problems
from web.problems import AnyRequest, Failed, bad_field
from web.refs import Place
from web.schema import JobCost
from web.submit import BODY_BYTES_MAX, new_ids, parse

FRESH_S = 2.0
RUNNING_MAX = 1000
"""Of a job that shows what it costs now, so many running tasks are looked at."""


def quotes_of(core: Core, specs: Sequence[JobSpec]) -> list[Quote]:
    """What these cost now."""
    listed, version = prices.list_of(core.money.view.books)
    return [prices.quote(listed, version, prices.shape_of(spec), round(spec.max_cpt * MICRO)) for spec in specs]


def check_caps(quotes: Sequence[Quote], specs: Sequence[JobSpec], place: Place) -> None:
    """Raise Failed for the first job that may cost more than its `max_cpt`."""
    for number, (quote, spec) in enumerate(zip(quotes, specs, strict=True)):
        if why := prices.above(quote, round(spec.max_cpt * MICRO)):
            field = f"{place(number)}max_cpt"
            raise bad_field(
                field, f"{field}: {why}", "ask for less, or raise max_cpt: POST /v1/quotes says what counts"
            )


async def costs_of(core: Core, caller: Caller, specs: Sequence[JobSpec], place: Place, key: str) -> list[Cost] | None:
    """What the jobs of a submission cost, None where nothing does. Those that were handed in before under this `key` are
    taken again, whatever their user has now. Raises Failed.
    """
    if not core.economy:
        return None
    quotes = quotes_of(core, specs)
    check_caps(quotes, specs, place)
    hold = sum(quote.hold for quote in quotes)
    if balance_of(core, caller) < hold and not (key and await core.reads.job(new_ids(1, caller.user, key)[0])):
        await _refresh(core)  # it may have got something a moment ago
        if (has := balance_of(core, caller)) < hold:
            what = "this job may" if len(quotes) == 1 else f"these {len(quotes)} jobs may"
            detail = (
                f"{what} cost {cpt_text(hold)} CPT, and you have {cpt_text(has)}: {cpt_text(hold - has)} are missing"
            )
            remedy = "ask for less (POST /v1/quotes says what counts), earn CPT with a worker, or have some sent to you"
            raise Failed(402, "insufficient-funds", detail, remedy=remedy)
    return [quote.cost for quote in quotes]


def balance_of(core: Core, caller: Caller) -> int:
    """What the caller can spend, µCPT."""
    return core.money.view.books.balance(user_account(caller.user))


async def _refresh(core: Core) -> None:
    try:
        await core.money.view.reached(await core.log.last(LEDGER_SUBJECT), FRESH_S)
    except LogUnavailable:
        return


@post(
    "/v1/quotes",
    needs="jobs:own",
    status_code=200,
    summary="What jobs would cost",
    description="Takes what POST /v1/jobs takes, and changes nothing.",
    responses=problems(422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def quote_jobs(core: CoreArg, request: AnyRequest, body: RawBody) -> QuotesAnswer:
    """Quote."""
    specs, _ = parse(body)
    quotes = quotes_of(core, specs)
    hold, balance = sum(quote.hold for quote in quotes), balance_of(core, caller_of(request))
    _, version = prices.list_of(core.money.view.books)
    missing = max(0, hold - balance) if core.economy else 0
    return QuotesAnswer(core.economy, version, hold, balance, missing, [_view(quote) for quote in quotes])


def _view(quote: Quote) -> JobQuote:
    lines = [QuoteLine(line.what, line.amount) for line in quote.lines]
    cost = quote.cost
    return JobQuote(cost.hold, cost.base, cost.per_hour, quote.limited, cost.each_ms, quote.factor_percent, lines)


@get("/v1/prices", needs=ANYBODY, summary="The price list", responses=problems())
async def show_prices(core: CoreArg) -> PricesAnswer:
    """What things cost."""
    listed, version = prices.list_of(core.money.view.books)
    return PricesAnswer(core.economy, version, {name: getattr(listed, name) for name in prices.NAMES})


@put(
    "/v1/prices",
    needs="users:all",
    summary="Set the price list",
    description="Jobs that were submitted before keep theirs.",
    responses=problems(422),
)
async def set_prices(core: CoreArg, request: AnyRequest, data: JSONBody[PricesBody]) -> PricesSetAnswer:
    """Set prices over the usual ones."""
    caller = caller_of(request)
    answer = await core.money.ask.ask([SetPrices(data.rates)], caller.by, cause=caller.via)
    (outcome,) = answer.outcomes
    if isinstance(outcome, RefusedAnswer):
        field = f"rates.{outcome.field}"
        raise bad_field(field, f"{field}: {outcome.detail}", "docs/prices.md has every price, its unit and its bounds")
    await core.money.view.reached(answer.position, FRESH_S)
    _, version = prices.list_of(core.money.view.books)
    return PricesSetAnswer(version, outcome.existing, position_text(answer.position))


async def cost_of(core: Core, row: JobRow, now: int) -> JobCost | None:
    """What an open job costs by now (ms), computed as it is asked for; None when it costs nothing, or is over."""
    hold = core.money.view.books.holds.get(hold_of(core.pool, row.job))
    if hold is None:
        return None
    cost, ran_ms = hold.cost, 0
    if row.running:
        page = await core.reads.tasks(row.job, "running", limit=RUNNING_MAX, detailed=False)
        ran_ms = sum(max(0, now - task.started_at) for task in page.rows if task.started_at)
    accruing = price(cost, 0, hold.ms + ran_ms) - price(cost, 0, hold.ms) + cost.base * row.running
    return JobCost(cost.base, cost.per_hour, hold.total, hold.charged, accruing, cost.prices, hold.stops_at)


ROUTES = [quote_jobs, show_prices, set_prices]
