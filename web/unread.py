"""Bodies that nobody reads: a request is answered, and refused, before all of it came. Most clients look for the answer
only when they have sent everything, and a connection that is closed on them while they send shows them none. So what
still comes is read and thrown away, within bounds, before the connection is closed.
"""

import asyncio
import contextlib
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

UNREAD_BYTES_MAX = 64 * 1024**2
UNREAD_S_MAX = 5.0
_CLOSE = (b"connection", b"close")


class ReadsOut:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the inner one does; when it left some of the body, throw that away before the answer ends."""
        headers: dict[bytes, bytes] = dict(scope["headers"]) if scope["type"] == "http" else {}
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            await self._inner(scope, receive, send)
            return
        body = _Body(receive, waits=b"expect" in headers)
        tell: Any = send

        async def answer(message: Any) -> None:
            if body.done:
                await tell(message)
            elif message["type"] == "http.response.start":
                # For those who look already: what they go on to send is no request of its own.
                others = [header for header in message["headers"] if header[0] != b"connection"]
                await tell({**message, "headers": [*others, _CLOSE]})
            elif message.get("more_body", False):
                await tell(message)
            else:
                await tell({**message, "more_body": True})
                await body.throw_away()
                await tell({"type": "http.response.body", "body": b"", "more_body": False})

        await self._inner(scope, body.receive, answer)


class _Body:
    """What comes of a request's body. `waits`: the client sends it only once it is asked for, by reading it."""

    def __init__(self, receive: Receive, waits: bool) -> None:
        self._receive, self._waits = receive, waits
        self.done = False

    async def receive(self) -> Any:
        """The next message."""
        self._waits = False
        message: Any = await self._receive()
        self.done = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def throw_away(self) -> None:
        """Read to the end, or as far as the bounds go."""
        left = 0 if self._waits else UNREAD_BYTES_MAX
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNREAD_S_MAX):
                while left > 0 and not self.done:
                    left -= len((await self.receive()).get("body", b""))
