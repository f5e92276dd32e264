"""What each role may do. Pure.

A scope is one thing that may be done. What a request may do is what its user's roles allow, narrowed to the role and
the scopes of the key that it came with. `own` scopes reach what belongs to the user, `all` scopes everything.
"""

from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from events.account import Role

Scope: TypeAlias = Literal[
    "jobs:own", "jobs:read", "jobs:all", "workers:read", "workers:own", "workers:all", "events:all", "users:read",
    "users:all", "hive:read", "money:own", "money:read", "money:all",
]  # fmt: skip
"""`jobs:own` submits, and reads and cancels the user's own; `jobs:read` reads everybody's; `jobs:all` cancels them, too.
`workers:own` brings in, drains, renames and lets go of the user's own, `workers:all` everybody's. `events:all` reads the
log of everybody, audit included, `events` of one's own come with the other scopes. `users:all` makes, changes and
erases users and their keys; every user looks after its own keys without a scope. `hive:read`: how the hive is.
`money:own` pays and sees one's own account, `money:read` sees everybody's, `money:all` pays out of the hive's, and rules.
"""

SCOPES: tuple[Scope, ...] = get_args(Scope)
ROLES: tuple[Role, ...] = get_args(Role)
KEPT_MAX = 1024
"""Answers kept: every request asks, and few combinations are in use."""

_READS: frozenset[Scope] = frozenset(
    {"jobs:read", "workers:read", "events:all", "users:read", "hive:read", "money:read"}
)
_OPERATES: frozenset[Scope] = frozenset({"jobs:own", "jobs:all", "workers:own", "workers:all", "money:own"})
SCOPES_OF: dict[Role, frozenset[Scope]] = {
    "admin": frozenset(SCOPES),
    "operator": _READS | _OPERATES,
    "user": frozenset({"jobs:own", "workers:read", "hive:read", "money:own"}),
    "owner": frozenset({"workers:own", "workers:read", "hive:read", "money:own"}),
    "observer": _READS,
}


@lru_cache(KEPT_MAX)
def scopes_of(roles: tuple[Role, ...], role: Role | Literal[""] = "", scopes: tuple[str, ...] = ()) -> frozenset[str]:
    """What somebody with `roles` may do, with a key narrowed to one `role` ("": none) and to `scopes` (none: all)."""
    held = set(roles)
    if role:
        held &= {role}
    allowed = frozenset[str]().union(*(SCOPES_OF[one] for one in held))
    wanted = frozenset(scopes)
    return allowed & wanted if wanted else allowed
