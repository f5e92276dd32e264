"""The gate: who may come in, and as whom. Everything is closed but the routes that check for themselves.

It stands outside of the router, so that a path that does not exist is closed as well. What somebody who came in may
have is the guard's to say (see `web.caller`).
"""

import hashlib
import time
from typing import Any, cast

from litestar.types import ASGIApp, Receive, Scope, Send

from services.accounts.roles import scopes_of
from web.caller import Caller, put_caller
from web.core import Core
from web.problems import MEDIA_TYPE, Failed, encode, failed_of, unauthorized
from web.rates import Rates
from web.sessions import ACCESS_COOKIE, caller_by_session, cookie_of
from web.tickets import TicketDoor

KEY_PREFIX = "hive_"
_NO_SCOPES: frozenset[str] = frozenset()


class Gate:
    """An ASGI application around another. `open_paths`: those whose handlers check for themselves."""

    def __init__(self, inner: ASGIApp, core: Core, open_paths: frozenset[str]) -> None:
        self._inner, self._core, self._open = inner, core, open_paths
        self._door = TicketDoor(core)
        self._rates = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer with a problem."""
        asked: Any = scope
        if asked["type"] != "http":
            await send(cast(Any, {"type": "websocket.close", "code": 1008}))
            return
        if asked["path"] not in self._open:
            try:
                caller = await self._caller(asked)
                self._check_rate(caller)
                put_caller(asked, caller)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is closed and answered as a problem
                await _refuse(failed_of(error), send)
                return
        await self._inner(scope, receive, send)

    async def _caller(self, scope: Any) -> Caller:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, secret = given.decode("latin-1").partition(" ")
        secret = secret.strip()
        match scheme.lower():
            case "bearer" if secret.startswith(KEY_PREFIX):
                return self._by_key(secret, address_of(scope))
            case "bearer":
                return self._by_session(scope, secret, by_cookie=False)
            case "ticket":
                ticket = await self._door.check(scope["method"], scope["path"], secret)
                return Caller("", _NO_SCOPES, f"worker:{ticket.worker}", address_of(scope), ticket=True)
            case "" if token := cookie_of(scope, ACCESS_COOKIE):
                return self._by_session(scope, token, by_cookie=True)
            case "":
                raise unauthorized("there is no key")
            case _:
                raise unauthorized(f"{scheme[:20]!r} is no way to come in here")

    def _by_session(self, scope: Any, token: str, *, by_cookie: bool) -> Caller:
        sessions, access = self._core.people.sessions, self._core.access.state
        return caller_by_session(scope, token, sessions, access, address_of(scope), by_cookie=by_cookie)

    def _by_key(self, text: str, address: str) -> Caller:
        access = self._core.access.state
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
        now = time.time_ns() // 1_000_000
        key = access.key(digest, now)
        if key is None:
            raise unauthorized("the key is unknown, revoked or expired")
        name, roles = access.key_of[digest], access.users[key.user].roles
        self._core.people.uses.note(name, key.user, now)
        return Caller(key.user, scopes_of(roles, key.role, key.scopes), f"key:{name}", address)

    def _check_rate(self, caller: Caller) -> None:
        if caller.ticket:
            return
        per_min = self._core.limits_of(caller.user).requests_per_min
        now, key = time.monotonic(), self._core.access.state.keys.get(caller.via.removeprefix("key:"))
        wait_s = self._rates.take(caller.via, key.requests_per_min if key is not None else 0, now)
        wait_s = wait_s or self._rates.take(caller.user, per_min, now)
        if wait_s:
            raise Failed(
                429, "too-many-requests", "more requests in a minute than you may make",
                remedy="wait a moment, or send many jobs in one request", headers={"Retry-After": str(wait_s)},
            )  # fmt: skip


def address_of(scope: Any) -> str:
    """Where the request came from, behind a trusted proxy as that says; "" where that is not known."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _refuse(failed: Failed, send: Send) -> None:
    body = encode(failed.problem)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in failed.headers.items()]
    # What the client was about to send is not read: the connection cannot be used again.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": failed.problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
