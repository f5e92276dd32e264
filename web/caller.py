"""Who asks: put beside each request by the gate, looked at by the guard before a handler runs, and by handlers for what
only its owner may see.

Every route says what it needs (`needs=` on the handler): a scope or some, of which one is enough; ANYBODY with a key
of any kind; or NOBODY for what checks for itself, or is open. A route that does not say is closed.
"""

from typing import Any, cast

import msgspec

from events.base import UserId
from web.problems import AnyRequest, Failed

ANYBODY = "anybody"
NOBODY = "nobody"
OPEN_DOCUMENTS = "/schema"
"""Litestar's own handlers, of the OpenAPI document: for anybody who may come in."""
JOBS_READ = ("jobs:own", "jobs:read")
WORKERS_CHANGE = ("workers:own", "workers:all")
_KEY = "hive.caller"


class Caller(msgspec.Struct, frozen=True):
    """Who asks. `scopes`: what it may do. `via`: with what it came in (`key:<id>`, `session:<id>`). `ticket`: a worker
    with a ticket, which the gate has found to open just this request.
    """

    user: UserId
    scopes: frozenset[str]
    via: str
    address: str = ""
    ticket: bool = False

    @property
    def by(self) -> str:
        """As events name it."""
        return f"user:{self.user}" if self.user else self.via

    def may(self, *scopes: str) -> bool:
        """Whether it has one of these scopes."""
        return not self.scopes.isdisjoint(scopes)

    def sees(self, owner: UserId, *scopes: str) -> bool:
        """Whether it may have what is `owner`'s: its own, or with one of these scopes everybody's."""
        return self.ticket or owner == self.user or self.may(*scopes)


def put_caller(scope: Any, caller: Caller) -> None:
    """Say who asks with this request."""
    scope[_KEY] = caller


def caller_of(request: AnyRequest) -> Caller:
    """Who asks. KeyError where nobody was let in."""
    scope: Any = request.scope
    return cast(Caller, scope[_KEY])


def check_needs(request: AnyRequest) -> None:
    """Raise Failed unless who asks may have this route."""
    if request.method == "OPTIONS":
        return  # Litestar's own answer, which names the methods of the path and does nothing
    needs: Any = request.route_handler.opt.get("needs")
    if needs == NOBODY:
        return
    caller = caller_of(request)
    if caller.ticket or needs == ANYBODY:
        return
    if needs is None:
        if request.scope["path"].startswith(OPEN_DOCUMENTS):
            return
        raise forbidden("nobody may have this")
    wanted = (needs,) if isinstance(needs, str) else needs
    if not caller.may(*wanted):
        raise forbidden(f"it needs {' or '.join(wanted)}, which you or your key do not have")


def forbidden(detail: str) -> Failed:
    """Who asks is known, and may not."""
    return Failed(403, "forbidden", detail, remedy="ask an admin for a role that may, or use another key")
