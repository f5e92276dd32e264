"""Sessions as requests carry them: an access token in `Authorization: Bearer`, or cookies for pages.

Cookies are HttpOnly and SameSite=Strict, and Secure unless the page is on this machine itself. A browser adds them by
itself, so a request that changes something must also repeat, in a header, what only a page of ours can know.
"""

import hmac
import time
from typing import Any
from urllib.parse import urlsplit

from litestar.datastructures import Cookie

from projections.access import Access
from services.accounts.roles import scopes_of
from services.accounts.sessions import REFRESH_MS, BadToken, Sessions, Tokens, stands
from web.caller import Caller
from web.problems import Failed, unauthorized

ACCESS_COOKIE, REFRESH_COOKIE, CSRF_COOKIE = "hive_access", "hive_refresh", "hive_csrf"
CSRF_HEADER = b"x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
AUTH_PATH = "/v1/auth"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def caller_by_session(
    scope: Any, token: str, sessions: Sessions, access: Access, address: str, *, by_cookie: bool
) -> Caller:
    """Whoever has this access token. Raises Failed: not a token, over, its user may not, or forged by another page."""
    try:
        session = sessions.check(token, time.time_ns() // 1_000_000)
    except BadToken as error:
        raise unauthorized(str(error)) from None
    if why := stands(access, session):
        raise unauthorized(why)
    if by_cookie:
        check_csrf(scope, sessions.csrf(session.family))
    return Caller(session.user, scopes_of(access.users[session.user].roles), f"session:{session.family}", address)


def check_csrf(scope: Any, expected: str) -> None:
    """Raise Failed unless a request that came with cookies changes nothing, or says what only our pages know."""
    if scope["method"] in SAFE_METHODS:
        return
    given = header_of(scope, CSRF_HEADER)
    if not hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode()):
        detail = "a request with cookies that changes something needs the header X-CSRF-Token"
        raise Failed(403, "csrf", detail, remedy=f"send what the cookie {CSRF_COOKIE} holds")


def check_own_page(scope: Any) -> None:
    """Raise Failed for what a form of another site could send: to ask for cookies, a request must be JSON."""
    if not header_of(scope, b"content-type").lower().startswith("application/json"):
        raise Failed(403, "csrf", "cookies are only given to a request with Content-Type application/json")


def header_of(scope: Any, name: bytes) -> str:
    """A header of the request, "" without."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def cookie_of(scope: Any, name: str) -> str:
    """A cookie of the request, "" without."""
    for part in header_of(scope, b"cookie").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""


def cookies_for(scope: Any, tokens: Tokens, csrf: str) -> list[Cookie]:
    """The cookies that hold the tokens."""
    return [
        _cookie(scope, ACCESS_COOKIE, tokens.access, "/"),
        _cookie(scope, REFRESH_COOKIE, tokens.refresh, AUTH_PATH),
        _cookie(scope, CSRF_COOKIE, csrf, "/", readable=True),
    ]


def no_cookies(scope: Any) -> list[Cookie]:
    """The same, taken away."""
    return [
        _cookie(scope, ACCESS_COOKIE, "", "/", 0),
        _cookie(scope, REFRESH_COOKIE, "", AUTH_PATH, 0),
        _cookie(scope, CSRF_COOKIE, "", "/", 0, readable=True),
    ]


def _cookie(
    scope: Any, name: str, value: str, path: str, max_age: int = REFRESH_MS // 1000, *, readable: bool = False
) -> Cookie:
    return Cookie(name, path, value, max_age=max_age, secure=_is_far(scope), httponly=not readable, samesite="strict")


def _is_far(scope: Any) -> bool:
    """Whether the page is elsewhere, as the browser names it: then it must come over TLS."""
    host = urlsplit(f"//{header_of(scope, b'host')}").hostname or ""
    return scope.get("scheme") == "https" or host not in LOOPBACK
