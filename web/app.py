"""The Litestar application: routes, problems, the document, and the gate around all of it."""

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from web import blobs, events, jobs, tasks, workers
from web.auth import Gate
from web.core import Core
from web.events import Texts
from web.openapi import config
from web.problems import respond
from web.stream import Closing

BODY_BYTES_MAX = 1024**2
"""Of requests that do not say otherwise."""


def create_app(core: Core) -> Litestar:
    """The API over `core`. Serve it with `web.server.Server`, which ends its streams when it stops."""
    texts = Texts()
    app = Litestar(
        route_handlers=[*jobs.ROUTES, *tasks.ROUTES, *blobs.ROUTES, *events.ROUTES, *workers.ROUTES],
        dependencies={
            # One that most handlers take, and a second only where it does not matter: for two, Litestar starts tasks.
            "core": Provide(lambda: core, sync_to_thread=False),
            "texts": Provide(lambda: texts, sync_to_thread=False),
        },
        exception_handlers={Exception: respond},
        openapi_config=config(core.version),
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        state=State({"closing": Closing()}),
    )
    # Outermost, so that what has no route is closed too.
    app.asgi_handler = Gate(app.asgi_handler, core)
    return app
