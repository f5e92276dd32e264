"""Headers that every answer has, refusals too: what a browser must not do with it, and which other sites may read it.

They stand outside of the gate, which answers by itself; so does the answer to a browser that asks, without a key,
whether another site may send a request at all.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from litestar.config.cors import CORSConfig
from litestar.types import ASGIApp, Receive, Scope, Send

from infra.tls import is_loopback

HSTS_S = 365 * 24 * 3600
HOSTS_MAX = 256
SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
)
"""An answer that has one of these already keeps its own: a page needs its scripts."""
_HSTS = (b"strict-transport-security", b"max-age=%d" % HSTS_S)
_SEVERAL = {b"vary"}
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
ASKED = ("authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "range")
SHOWN = ("content-range", "etag", "hive-attempt-lease", "hive-next-offset", "retry-after", "www-authenticate")

_Headers = list[tuple[bytes, bytes]]


class SafeHeaders:
    """An ASGI application around another. `cors_origins`: the sites that may use the API from a browser, such as
    `https://hive.example.org`. Keys travel in a header of the request, so no site is sent the user's cookies.
    """

    def __init__(self, inner: ASGIApp, cors_origins: Sequence[str] = ()) -> None:
        self._inner = inner
        cors = CORSConfig(
            allow_origins=[*cors_origins], allow_methods=[*METHODS], allow_headers=[*ASKED], expose_headers=[*SHOWN]
        )
        self._cors = cors if cors_origins else None
        self._simple, self._preflight = _encoded(cors.simple_headers), _encoded(cors.preflight_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the inner one does, with these headers."""
        asked: Any = scope
        if asked["type"] != "http":
            await self._inner(scope, receive, send)
            return
        more = [*SAFE, _HSTS] if _strict(asked) else list(SAFE)
        if self._cors is not None:
            headers = dict(asked["headers"])
            origin = headers.get(b"origin", b"")
            more.append((b"vary", b"Origin"))
            if origin and self._cors.is_origin_allowed(origin.decode("latin-1")):
                more.append((b"access-control-allow-origin", origin))
                if asked["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                    await _no_content([*more, *self._preflight], send)
                    return
                more += self._simple
        tell: Any = send

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = message["headers"]
                names = {name for name, _ in given} - _SEVERAL
                message = {**message, "headers": [*given, *(one for one in more if one[0] not in names)]}
            await tell(message)

        await self._inner(scope, receive, answer)


def _strict(scope: Any) -> bool:
    """Whether browsers are to come by TLS alone from now on. Not to this machine: that is shared by other programs."""
    if scope["scheme"] != "https":
        return False
    return not _is_here(next((value for name, value in scope["headers"] if name == b"host"), b""))


@lru_cache(HOSTS_MAX)
def _is_here(host: bytes) -> bool:
    try:
        return is_loopback(urlsplit("//" + host.decode("latin-1")).hostname or "")
    except ValueError:
        return False


def _encoded(headers: dict[str, str]) -> _Headers:
    skipped = {"Vary", "Access-Control-Allow-Origin"}
    return [(name.lower().encode(), value.encode()) for name, value in headers.items() if name not in skipped]


async def _no_content(headers: _Headers, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
