"""Answers that go on for long: server-sent events, with an end when the client or the server goes away.

What a client is too slow for is not kept for it: nothing more is made until it took what was sent, and one that takes
nothing for STALL_S is let go.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, cast

import structlog
from litestar import Litestar
from litestar.types import Receive, Scope, Send

PING_S = 15.0
STALL_S = 60.0
PING = b": ping\n\n"
GOODBYE = b": the server stops; come back with Last-Event-ID\n\n"
BROKE = b": something went wrong; come back with Last-Event-ID\n\n"
TOO_SLOW = b": nothing was taken for a minute; come back with Last-Event-ID\n\n"

_log = structlog.get_logger()


class Closing:
    """Says when the server stops, so that what would go on for ever ends."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __bool__(self) -> bool:
        return self.event.is_set()


def closing_of(app: Litestar) -> Closing:
    """The application's own."""
    state: Any = app.state
    return cast(Closing, state.closing)


def message(data: bytes, id: str = "", event: str = "") -> bytes:
    """One server-sent event; `data` has no line breaks."""
    head = f"id: {id}\n" if id else ""
    if event:
        head += f"event: {event}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


EVENTS = "text/event-stream; charset=utf-8"


class EventStream:
    """An ASGI answer of server-sent events, or of another `content_type`, out of `pieces`, which yields at least every
    PING_S.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], content_type: str = EVENTS) -> None:
        self._pieces, self._content_type = pieces, content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until there is no more, the client is gone, or the server stops."""
        headers = [(b"content-type", self._content_type.encode()), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        closing = closing_of(cast(Any, scope)["litestar_app"])
        sending = asyncio.ensure_future(self._send(send))
        watched: list[asyncio.Future[Any]] = [
            sending,
            asyncio.ensure_future(_gone(receive)),
            asyncio.ensure_future(closing.event.wait()),
        ]
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            last = _last(sending) if sending.done() else GOODBYE
        finally:
            for task in watched:
                task.cancel()
            await asyncio.gather(*watched, return_exceptions=True)
            await self._pieces.aclose()
        if self._content_type != EVENTS:
            last = b""  # comments are the events' own
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send(self, send: Send) -> bytes:
        async for piece in self._pieces:
            try:
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                return TOO_SLOW
        return b""


def _last(sending: "asyncio.Future[bytes]") -> bytes:
    """What is said at the end. What went wrong is in our log: the answer had begun, so it cannot be a problem."""
    error = sending.exception()
    if error is None:
        return sending.result()
    _log.error("stream.failed", exc_info=error)
    return BROKE


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class BytesStream:
    """An ASGI answer of bytes out of `pieces`, with the status and headers given."""

    def __init__(self, pieces: AsyncGenerator[bytes], status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._pieces, self._status, self._headers = pieces, status, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it. What fails before the first piece is a problem document; afterwards the connection breaks."""
        try:
            first = await anext(self._pieces, b"")
            await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in self._pieces:
                async with asyncio.timeout(STALL_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._pieces.aclose()
