"""structlog set-up: one line an event on stderr, JSON for machines or plain columns for people.

The standard library's loggers (uvicorn, asyncio, litestar) come out in the same form.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

LEVELS = ("debug", "info", "warning", "error")
_QUIET = ("uvicorn.access", "asyncio", "nats", "aiohttp.access")
"""Loggers of others that say little of use below a warning."""


_AS_DICT = ExceptionDictTransformer(show_locals=False)
_AS_TEXT = structlog.dev.plain_traceback
"""Traces back without the values of local variables: keys are among them."""


class BadLevel(ValueError):
    """The level's name is not one of LEVELS."""


def configure(json: bool, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stderr). May be called again; the last call holds.

    Colours only when the stream is a terminal. Raises BadLevel.
    """
    if level.lower() not in LEVELS:
        raise BadLevel(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=json, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor]
    if json:
        last = [structlog.processors.ExceptionRenderer(_AS_DICT), structlog.processors.JSONRenderer()]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), timestamp_key="at", pad_event_to=0, exception_formatter=_AS_TEXT
            )
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a second `configure` must reach loggers that were used before it
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
