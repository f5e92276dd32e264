"""Who may come in. Everything is closed but /health: the admin key opens all, a worker's ticket only what it names.

The gate stands outside of the router, so that a path that does not exist is closed as well.
"""

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from typing import Any, cast

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from events.base import Digest, JobId
from events.catalog import pool_subject
from events.spec import TaskText
from infra.sealing import KeyDestroyed
from infra.tickets import PUT, BadTicket, Ticket
from services.reads import after_of
from web.core import Core
from web.problems import MEDIA_TYPE, Failed, encode, failed_of

OPEN_PATHS = frozenset({"/health"})
RESULTS_KEPT_MAX = 200_000
"""How many digests of jobs' results are remembered, for tickets: about 30 MB."""
RESULTS_PAGE = 1000
REACHED_S = 5.0

_BLOB = re.compile(r"/v1/blobs/([^/]+)\Z")
_RESULTS = re.compile(r"/v1/jobs/([^/]+)/results\Z")
_text_of = msgspec.json.Decoder(TaskText).decode


class Gate:
    """An ASGI application around another."""

    def __init__(self, inner: ASGIApp, core: Core) -> None:
        self._inner, self._core = inner, core
        self._key = _hash(core.admin_key)
        self._door = TicketDoor(core)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer with a problem."""
        asked: Any = scope
        if asked["type"] != "http":
            await send(cast(Any, {"type": "websocket.close", "code": 1008}))
            return
        if asked["path"] not in OPEN_PATHS:
            try:
                await self._check(asked)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is closed and answered as a problem
                await _refuse(failed_of(error), send)
                return
        await self._inner(scope, receive, send)

    async def _check(self, scope: Any) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, secret = given.decode("latin-1").partition(" ")
        secret = secret.strip()
        match scheme.lower():
            case "bearer":
                if not hmac.compare_digest(_hash(secret), self._key):
                    raise _unauthorized("the key is wrong")
            case "ticket":
                await self._door.check(scope["method"], scope["path"], secret)
            case "":
                raise _unauthorized("there is no key")
            case _:
                raise _unauthorized(f"{scheme[:20]!r} is no way to come in here")


def _hash(key: str) -> bytes:
    """Compared instead of the keys themselves, so that neither content nor length shows in the time it takes."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _unauthorized(detail: str) -> Failed:
    remedy = "send `Authorization: Bearer <key>`; on the hive's machine the key is in keys/admin.key of its data folder"
    return Failed(401, "unauthorized", detail, remedy=remedy, headers={"WWW-Authenticate": "Bearer"})


def _forbidden(detail: str) -> Failed:
    return Failed(403, "forbidden", detail, remedy="a ticket opens the blobs of its own job; use the admin key")


async def _refuse(failed: Failed, send: Send) -> None:
    body = encode(failed.problem)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in failed.headers.items()]
    # What the client was about to send is not read: the connection cannot be used again.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": failed.problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class TicketDoor:
    """What workers' tickets open: the blobs they name, those that the manifest they name lists, and results of jobs."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._results: OrderedDict[JobId, set[bytes]] = OrderedDict()
        self._kept = 0
        self._each: OrderedDict[JobId, Digest] = OrderedDict()

    async def check(self, method: str, path: str, text: str) -> None:
        """Raise Failed unless the ticket allows the request."""
        try:
            ticket = self._core.tickets.check(text, time.time_ns() // 1_000_000)
        except BadTicket as error:
            raise _unauthorized(str(error)) from None
        if blob := _BLOB.match(path):
            await self._check_blob(method, blob[1], ticket)
            return
        found = _RESULTS.match(path)
        if found is None or method != "GET" or found[1] not in ticket.results_of():
            raise _forbidden(f"this ticket does not open {method} {path[:100]}")

    async def _check_blob(self, method: str, digest: Digest, ticket: Ticket) -> None:
        if method == "PUT" and PUT in ticket.roots:
            return
        if method in ("GET", "HEAD") and (ticket.opens(digest) or await self._reaches(digest, ticket)):
            return
        raise _forbidden(f"this ticket does not open {method} of the blob {digest[:80]}")

    async def _reaches(self, digest: Digest, ticket: Ticket) -> bool:
        for job in ticket.results_of():
            if await self._is_result(job, digest):
                return True
        each = await self._each_of(ticket.job)
        return bool(each) and ticket.opens(each) and await self._core.manifests.names(each, digest)

    async def _each_of(self, job: JobId) -> Digest:
        """The manifest of the ticket's job, "" when it has none."""
        if (each := self._each.get(job)) is not None:
            return each
        if self._core.reads.live_job(job) is None:
            # The worker can be quicker than our reading of the log.
            await self._core.reads.reached(await self._core.log.last(pool_subject(self._core.pool)), REACHED_S)
        row = await self._core.reads.job(job)
        if row is None:
            return ""
        try:
            each = _text_of(self._core.sealer.open(row.text)).each
        except KeyDestroyed:
            each = ""
        self._each[job] = each
        if len(self._each) > RESULTS_PAGE:
            self._each.popitem(last=False)
        return each

    async def _is_result(self, job: JobId, digest: Digest) -> bool:
        try:
            wanted = bytes.fromhex(digest)
        except ValueError:
            return False
        known = self._results.get(job)
        if known is not None and wanted in known:
            self._results.move_to_end(job)
            return True
        cursor = ""
        while True:
            page = await self._core.reads.results(job, after_of(cursor), RESULTS_PAGE)
            self._keep(job, {bytes.fromhex(row.digest) for row in page.rows})
            if any(row.digest == digest for row in page.rows):
                return True
            if not (cursor := page.next):
                return False

    def _keep(self, job: JobId, digests: set[bytes]) -> None:
        known = self._results.setdefault(job, set())
        self._results.move_to_end(job)
        before = len(known)
        known |= digests
        self._kept += len(known) - before
        while self._kept > RESULTS_KEPT_MAX and len(self._results) > 1:
            self._kept -= len(self._results.popitem(last=False)[1])
        if self._kept > RESULTS_KEPT_MAX:
            self._results.clear()
            self._kept = 0
