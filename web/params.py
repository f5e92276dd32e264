"""Parameters that many handlers take, and the refusal of those that a path does not know."""

from typing import Annotated, TypeAlias

from litestar import Litestar
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter, SkipValidation
from litestar.routes import HTTPRoute

from events.catalog import LEDGER_SUBJECT, position_of
from web.core import Core
from web.problems import MEDIA_TYPE, AnyRequest, Failed, bad_field, refuse_position
from web.schema import LIMIT_DEFAULT, LIMIT_MAX, Problem

REACHED_S_MAX = 10.0

CoreArg: TypeAlias = NamedDependency[SkipValidation[Core]]
Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX, description=f"At most so many, up to {LIMIT_MAX}")]
MinPosition: TypeAlias = Annotated[
    str,
    QueryParameter(description="Wait until what the hive knew at this position is known here (up to 10 s, then 503)"),
]
LIMIT = LIMIT_DEFAULT


class OnlyKnown:
    """Refuses query parameters that the path does not declare, before anything is read or done: a mistyped filter
    would answer with everything. What is declared is read from the handlers, as the document is.
    """

    def __init__(self) -> None:
        self._known: dict[object, frozenset[str]] = {}

    def __call__(self, request: AnyRequest) -> None:
        """Raise Failed for the first parameter that the path does not know."""
        if not request.scope["query_string"]:
            return
        if not self._known:
            self._known = _declared(request.app)
        known = self._known[request.route_handler]
        for name in request.query_params:
            if name not in known:
                detail = f"{name[:60]!r} is not a parameter of this path"
                remedy = f"use {', '.join(sorted(known))}" if known else "this path has no parameters"
                raise bad_field(name[:60], detail, remedy, status=400)


def _declared(app: Litestar) -> dict[object, frozenset[str]]:
    """The names of the query parameters of each handler."""
    return {
        handler: frozenset(parameter.field_alias for parameter in model.expected_query_params)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler, model in route.route_handler_map.values()
    }


async def at_least(core: Core, position: str) -> None:
    """Wait until reads hold `position` ("": now). Raises Failed: not a position, or not reached in time."""
    if not position:
        return
    try:
        wanted = position_of(position)
    except ValueError:
        refuse_position(position)
    if core.reads.position >= wanted or await core.reads.reached(wanted, REACHED_S_MAX):
        return
    raise _not_reached(position)


def _not_reached(position: str) -> Failed:
    detail = f"position {position} is not reached yet after {REACHED_S_MAX:g} s"
    return Failed(
        503, "unavailable", detail, field="min_position", remedy="try again in a moment", headers={"Retry-After": "1"}
    )


async def money_at_least(core: Core, position: str) -> None:
    """Wait until balances hold `position` ("": now). Raises Failed: not a position, or not reached in time."""
    if not position:
        return
    try:
        wanted = position_of(position)
    except ValueError:
        refuse_position(position)
    # Positions are of the whole log; the ledger's part of it may end before.
    wanted = min(wanted, await core.log.last(LEDGER_SUBJECT)) if core.money.view.position < wanted else 0
    if not await core.money.view.reached(wanted, REACHED_S_MAX):
        raise _not_reached(position)


ALWAYS = (400, 401, 403, 429, 500, 503)
_SAYS = {
    400: "A parameter or the body is not what is expected",
    401: "The key is missing or wrong",
    402: "Who pays has too little",
    403: "Who asks, or the key or ticket, may not have this",
    404: "There is no such thing",
    409: "It conflicts with what is",
    410: "It was there, and is destroyed",
    413: "The body is too large",
    416: "There is nothing in the range asked for",
    422: "A value is not possible; `field` names it",
    429: "Asked too often; Retry-After says how long to wait",
    500: "A mistake of ours; `trace` names its entry in the log",
    503: "A part of the hive is away; try again",
    507: "The disk is nearly full",
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The problem documents that a route answers with, for OpenAPI; those of ALWAYS are possible everywhere."""
    return {
        status: ResponseSpec(Problem, generate_examples=False, description=_SAYS[status], media_type=MEDIA_TYPE)
        for status in sorted({*statuses, *ALWAYS})
    }
