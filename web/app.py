"""The Litestar application: routes, problems, the document, and the gate around all of it."""

from collections.abc import Awaitable, Callable

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from web import (
    blobs,
    costs,
    credentials,
    disputes,
    enrolments,
    events,
    expiry,
    jobs,
    keys,
    ledger,
    ledger_books,
    people,
    reports,
    results,
    rewards,
    secrets,
    tasks,
    users,
    workers,
)
from web.auth import Gate
from web.caller import NOBODY, check_needs
from web.core import Core
from web.events import Texts
from web.headers import SafeHeaders
from web.openapi import config
from web.params import OnlyKnown
from web.problems import AnyRequest, respond
from web.stream import Closing

BODY_BYTES_MAX = 1024**2
"""Of requests that do not say otherwise."""


ROUTES = [
    *jobs.ROUTES, *results.ROUTES, *tasks.ROUTES, *blobs.ROUTES, *expiry.ROUTES, *events.ROUTES, *workers.ROUTES, *keys.ROUTES, *enrolments.ROUTES,
    *credentials.ROUTES, *people.ROUTES, *users.ROUTES, *secrets.ROUTES, *reports.ROUTES,
    *ledger.ROUTES, *ledger_books.ROUTES, *disputes.ROUTES, *costs.ROUTES, *rewards.ROUTES,
]  # fmt: skip
OPEN_PATHS = frozenset(path for route in ROUTES if route.opt.get("needs") == NOBODY for path in route.paths)
"""What the gate lets through unasked: the handlers check for themselves, or are open to all."""


def _before(known: OnlyKnown) -> Callable[[AnyRequest], Awaitable[None]]:
    """What is looked at before anything is read or done: whether who asks may, and what it asks for."""

    async def check(request: AnyRequest) -> None:
        check_needs(request)
        known(request)

    return check


def create_app(core: Core) -> Litestar:
    """The API over `core`. Serve it with `web.server.Server`, which ends its streams when it stops."""
    texts = Texts()
    app = Litestar(
        route_handlers=ROUTES,
        dependencies={
            # One that most handlers take, and a second only where it does not matter: for two, Litestar starts tasks.
            "core": Provide(lambda: core, sync_to_thread=False),
            "people": Provide(lambda: core.people, sync_to_thread=False),
            "texts": Provide(lambda: texts, sync_to_thread=False),
        },
        # Not a guard: for each call of one Litestar copies the handler.
        before_request=_before(OnlyKnown()),
        exception_handlers={Exception: respond},
        openapi_config=config(core.version, OPEN_PATHS),
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        state=State({"closing": Closing()}),
    )
    # Outermost, so that what has no route is closed too, and no answer goes without these headers.
    app.asgi_handler = SafeHeaders(Gate(app.asgi_handler, core, OPEN_PATHS), core.network.cors_origins)
    return app
