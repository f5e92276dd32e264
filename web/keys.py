"""API keys: make, list, rotate, revoke. A key may look after keys that may do no more than itself."""

import contextlib
import time

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from infra.database import DatabaseAway
from infra.sealing import KeyAway, KeyDestroyed, SealBroken
from projections.access import Key
from services.accounts.commands import IssueKey, RevokeKey
from services.accounts.keys import digest_of, id_of, new_text, prefix_of
from services.accounts.roles import scopes_of
from web import schema
from web.administer import administer
from web.caller import ANYBODY, Caller, caller_of, forbidden
from web.core import Core
from web.keys_schema import KeyBody, KeysAnswer, KeyView, NewKey, RotateBody
from web.params import CoreArg, problems
from web.problems import AnyRequest, not_found


def _now() -> int:
    return time.time_ns() // 1_000_000


def _scopes(core: Core, key: Key) -> frozenset[str]:
    return scopes_of(core.access.state.users[key.user].roles, key.role, key.scopes)


def _view(core: Core, name: str, key: Key, used_at: int = 0) -> KeyView:
    text, now = "", _now()
    with contextlib.suppress(KeyAway, KeyDestroyed, SealBroken):
        text = core.keys.open(key.name).decode("utf-8", "replace")
    state = "revoked" if key.revoked else "live" if key.live(now) else "expired"
    scopes = sorted(_scopes(core, key))
    return KeyView(
        name,
        key.user,
        key.prefix,
        text,
        key.role,
        scopes,
        key.since,
        key.expires_at,
        state,
        used_at,
        key.requests_per_min,
    )


@get("/v1/keys", needs=ANYBODY, summary="List API keys", responses=problems())
async def list_keys(core: CoreArg, request: AnyRequest, user: FromQuery[str] = "") -> KeysAnswer:
    """The caller's, or those of another user."""
    caller = caller_of(request)
    whose = user or caller.user
    if whose != caller.user and not caller.may("users:read", "users:all"):
        raise forbidden("you may see your own keys only")
    state = core.access.state
    names = state.users[whose].keys if whose in state.users else {}
    live = [name for name in names if not state.keys[name].revoked]
    used: dict[str, int] = {}
    with contextlib.suppress(DatabaseAway):
        used = await core.people.store.uses(live)
    at = {name: max(used.get(name, 0), core.people.uses.at(name)) for name in live}
    return KeysAnswer([_view(core, name, state.keys[name], at[name]) for name in live])


@post("/v1/keys", needs=ANYBODY, summary="Make an API key", responses=problems(404, 409, 422))
async def make_key(core: CoreArg, request: AnyRequest, data: JSONBody[KeyBody]) -> NewKey:
    """Its text is in this answer and nowhere else."""
    caller = caller_of(request)
    user, role = data.user or caller.user, data.role or ""
    known = core.access.state.users.get(user)
    if user != caller.user and not caller.may("users:all"):
        raise forbidden("you may make keys for yourself only")
    if known is None or known.state == "erased":
        raise not_found("user", user, "list them with GET /v1/users")
    if user == caller.user:
        _check_within(caller, scopes_of(known.roles, role, tuple(data.scopes)))
    text = new_text("hive")
    digest = digest_of(text)
    command = IssueKey(
        id_of("k", digest), user, digest, prefix_of(text), core.keys.seal(user, data.name.encode()), role, data.scopes,
        _now() + data.expires_in * 1000 if data.expires_in else 0, requests_per_min=_rate(core, caller, data.requests_per_min),
    )  # fmt: skip
    await administer(core, caller, command, "key.issue", command.key)
    return NewKey(text, _view(core, command.key, core.access.state.keys[command.key]))


def _check_within(caller: Caller, scopes: frozenset[str]) -> None:
    """A key must not be the way to a stronger one."""
    if more := scopes - caller.scopes:
        raise forbidden(f"the key that you ask with may not itself {', '.join(sorted(more))}")


def _rate(core: Core, caller: Caller, wanted: int) -> int:
    """How often one may ask with a key that `caller` makes: no more often than with its own."""
    own = core.access.state.keys.get(caller.via.removeprefix("key:"))
    most = own.requests_per_min if own is not None else 0
    return min(wanted, most) if wanted and most else wanted or most


def _own(core: Core, caller: Caller, name: str) -> Key:
    key = core.access.state.keys.get(name)
    if key is None or (key.user != caller.user and not caller.may("users:all")):
        raise not_found("key", name, "list yours with GET /v1/keys")
    if key.user == caller.user:
        _check_within(caller, _scopes(core, key))
    return key


@post("/v1/keys/{key:str}/rotate", needs=ANYBODY, summary="Replace an API key", responses=problems(404, 409, 422))
async def rotate_key(
    core: CoreArg, request: AnyRequest, key: FromPath[str], data: JSONBody[RotateBody | None] = None
) -> NewKey:
    """A new one that may do the same; both are good during the grace time."""
    caller, now = caller_of(request), _now()
    old, grace = _own(core, caller, key), (data or RotateBody()).grace
    text = new_text("hive")
    digest = digest_of(text)
    expires_at = now + (old.expires_at - old.since) if old.expires_at else 0
    command = IssueKey(
        id_of("k", digest), old.user, digest, prefix_of(text), old.name, old.role, [*old.scopes], expires_at, key,
        now + grace * 1000, old.requests_per_min,
    )  # fmt: skip
    await administer(core, caller, command, "key.rotate", key)
    return NewKey(text, _view(core, command.key, core.access.state.keys[command.key]))


@delete("/v1/keys/{key:str}", needs=ANYBODY, status_code=200, summary="Revoke an API key", responses=problems(404, 409))
async def revoke_key(core: CoreArg, request: AnyRequest, key: FromPath[str]) -> schema.Done:
    """It opens nothing any more."""
    caller = caller_of(request)
    _own(core, caller, key)
    return await administer(core, caller, RevokeKey(key), "key.revoke", key)


ROUTES = [list_keys, make_key, rotate_key, revoke_key]
