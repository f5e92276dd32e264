"""The accounts' rules: what each command leads to. Pure. The state and its fold are `projections.access`.

`decide` never changes the state and asks nobody whether who asks may: that was checked where the request came in.
Time is an argument, in milliseconds since 1970.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from events.account import (
    EnrolmentIssued,
    EnrolmentRevoked,
    InviteIssued,
    InviteRevoked,
    KeyExpirySet,
    KeyIssued,
    KeyRevoked,
    SecretRemoved,
    SecretSet,
    UserErased,
    UserLimitsSet,
    UserRegistered,
    UserResumed,
    UserRolesSet,
    UserSignedOut,
    UserSuspended,
    WorkerBanned,
    WorkerEnrolled,
    WorkerForgotten,
    WorkerRekeyed,
    WorkerRenamed,
)
from events.base import UserId, WorkerId
from events.catalog import AnyEvent
from projections.access import Access, Enrolment, Identity, Key, Secret, User
from projections.access import Invite as KnownInvite
from services.accounts.commands import (
    Administer,
    BanWorker,
    Command,
    Enrol,
    Erase,
    ForgetWorker,
    Invite,
    IssueEnrolment,
    IssueKey,
    Record,
    Register,
    RekeyWorker,
    RemoveSecret,
    RenameWorker,
    RevokeEnrolment,
    RevokeInvite,
    RevokeKey,
    SetLimits,
    SetRoles,
    SetSecret,
    Stand,
)
from services.accounts.roles import ROLES, scopes_of
from services.hosting import Refused

KEYS_MAX = 100
"""Live keys of one user."""
USES_MAX = 10_000
SECRETS_MAX = 100
"""Secrets for tasks of one user."""

Events = Sequence[AnyEvent]


def _user(state: Access, name: UserId) -> User:
    user = state.users.get(name)
    if user is None or user.state == "erased":
        raise Refused("no_user", "user", f"there is no user {name!r}")
    return user


def _active(state: Access, name: UserId) -> User:
    user = _user(state, name)
    if user.state != "active":
        raise Refused("suspended", "user", f"the user {name!r} is suspended")
    return user


def _check_roles(roles: Iterable[str]) -> None:
    names = list(roles)
    if not names or len(names) != len(set(names)) or not set(names) <= set(ROLES):
        raise Refused("bad_roles", "roles", f"one or more of {', '.join(ROLES)}, each once")


def _check_admin_left(state: Access, user: User) -> None:
    """Somebody must be able to look after the hive."""
    if "admin" in user.roles and user.state == "active" and state.admins == 1:
        raise Refused("last_admin", "user", "this is the last admin; make somebody else an admin first")


def _register(state: Access, command: Register, now: int) -> Events:
    known = state.users.get(command.user)
    if known is not None:
        if known.state == "active" and (command.invite or known.roles == tuple(command.roles)):
            return []
        raise Refused("exists", "user", f"there is a user {command.user!r} already")
    if not command.invite:
        _check_roles(command.roles)
        return [UserRegistered(command.user, command.roles)]
    invite = state.invites.get(state.invite_of.get(command.invite, ""))
    if invite is None or not invite.live(now):
        raise Refused("bad_invite", "invite", "the invitation is unknown, used up, revoked or expired; ask for another")
    return [UserRegistered(command.user, list(invite.roles), state.invite_of[command.invite])]


def _set_roles(state: Access, command: SetRoles, now: int) -> Events:
    user = _user(state, command.user)
    _check_roles(command.roles)
    if set(user.roles) == set(command.roles):
        return []
    if "admin" not in command.roles:
        _check_admin_left(state, user)
    return [UserRolesSet(command.user, command.roles)]


def _set_limits(state: Access, command: SetLimits, now: int) -> Events:
    user = _user(state, command.user)
    return [] if user.limits == command.limits else [UserLimitsSet(command.user, command.limits)]


def _stand(state: Access, command: Stand, now: int) -> Events:
    user = _user(state, command.user)
    match command.how:
        case "suspended":
            if user.state == "suspended":
                return []
            _check_admin_left(state, user)
            return [UserSuspended(command.user)]
        case "resumed":
            return [] if user.state == "active" else [UserResumed(command.user)]
        case "signed_out":
            return [UserSignedOut(command.user)]


def _erase(state: Access, command: Erase, now: int) -> Events:
    user = state.users.get(command.user)
    if user is not None and user.state == "erased":
        return []
    _check_admin_left(state, _user(state, command.user))
    return [UserErased(command.user)]


def _issue_key(state: Access, command: IssueKey, now: int) -> Events:
    if (known := state.keys.get(command.key)) is not None:
        if known.digest == command.digest and known.user == command.user:
            return []
        raise Refused("exists", "key", f"there is a key {command.key!r} already")
    if command.digest in state.key_of:
        raise Refused("exists", "digest", "there is such a key already")
    user = _active(state, command.user)
    if command.role and command.role not in user.roles:
        raise Refused("bad_role", "role", f"the user is no {command.role}; the roles are {', '.join(user.roles)}")
    allowed = scopes_of(user.roles, command.role)
    if not set(command.scopes) <= allowed:
        raise Refused("bad_scopes", "scopes", f"a key of this user may have {', '.join(sorted(allowed))}")
    if command.expires_at and command.expires_at <= now:
        raise Refused("bad_expiry", "expires_at", "this moment is over; choose a later one")
    if sum(state.keys[key].live(now) for key in user.keys) >= KEYS_MAX:
        raise Refused("too_many", "key", f"the user has {KEYS_MAX} keys; revoke one first")
    issued = KeyIssued(
        command.key, command.user, command.digest, command.prefix, command.name, command.role, command.scopes,
        command.expires_at, command.replaces, command.requests_per_min,
    )  # fmt: skip
    if not command.replaces:
        return [issued]
    before = _key(state, command.replaces)
    if before.user != command.user or not before.live(now):
        raise Refused("no_key", "replaces", f"the user has no live key {command.replaces!r}")
    until = max(now, min(command.grace_until, before.expires_at or command.grace_until))
    return [issued, KeyExpirySet(command.replaces, until)]


def _key(state: Access, name: str) -> Key:
    key = state.keys.get(name)
    if key is None:
        raise Refused("no_key", "key", f"there is no key {name!r}")
    return key


def _revoke_key(state: Access, command: RevokeKey, now: int) -> Events:
    return [] if _key(state, command.key).revoked else [KeyRevoked(command.key)]


def _check_uses(uses: int, least: int, expires_at: int, now: int) -> None:
    if not least <= uses <= USES_MAX:
        raise Refused("bad_uses", "uses", f"{least} to {USES_MAX}")
    if expires_at <= now:
        raise Refused("bad_expiry", "expires_at", "this moment is over; choose a later one")


def _invite(state: Access, command: Invite, now: int) -> Events:
    if (known := state.invites.get(command.invite)) is not None and known.digest == command.digest:
        return []
    if known is not None or command.digest in state.invite_of:
        raise Refused("exists", "invite", f"there is an invitation {command.invite!r} already")
    _active(state, command.by)
    _check_roles(command.roles)
    _check_uses(command.uses, 1, command.expires_at, now)
    return [InviteIssued(command.invite, command.by, command.digest, command.roles, command.uses, command.expires_at)]


def _revoke_invite(state: Access, command: RevokeInvite, now: int) -> Events:
    found: KnownInvite | None = state.invites.get(command.invite)
    if found is None:
        raise Refused("no_invite", "invite", f"there is no invitation {command.invite!r}")
    return [] if found.revoked else [InviteRevoked(command.invite)]


def _issue_enrolment(state: Access, command: IssueEnrolment, now: int) -> Events:
    if (known := state.enrolments.get(command.enrolment)) is not None and known.digest == command.digest:
        return []
    if known is not None or command.digest in state.enrolment_of:
        raise Refused("exists", "enrolment", f"there is an enrolment token {command.enrolment!r} already")
    _active(state, command.owner)
    _check_uses(command.uses, 0, command.expires_at, now)
    return [
        EnrolmentIssued(
            command.enrolment, command.owner, command.digest, command.pool, command.uses, command.expires_at,
            command.labels,
        )
    ]  # fmt: skip


def _revoke_enrolment(state: Access, command: RevokeEnrolment, now: int) -> Events:
    found: Enrolment | None = state.enrolments.get(command.enrolment)
    if found is None:
        raise Refused("no_enrolment", "enrolment", f"there is no enrolment token {command.enrolment!r}")
    return [] if found.revoked else [EnrolmentRevoked(command.enrolment)]


def _set_secret(state: Access, command: SetSecret, now: int) -> Events:
    user, known = _active(state, command.user), _secret(state, command)
    if known is not None and known.value == command.value:
        return []
    if known is None and len(user.secrets) >= SECRETS_MAX:
        raise Refused("too_many", "secret", f"the user has {SECRETS_MAX} secrets; remove one first")
    return [SecretSet(command.secret, command.user, command.value)]


def _remove_secret(state: Access, command: RemoveSecret, now: int) -> Events:
    return [] if _secret(state, command) is None else [SecretRemoved(command.secret, command.user)]


def _secret(state: Access, command: SetSecret | RemoveSecret) -> Secret | None:
    known = state.secrets.get(command.secret)
    if known is not None and known.user != command.user:
        raise Refused("exists", "secret", "the secret is another user's")
    return known


def _enrol(state: Access, command: Enrol, now: int) -> Events:
    owner, pool, labels, by = command.owner, command.pool, None, ""
    known = state.workers.get(command.worker)
    if command.token:
        by = state.enrolment_of.get(command.token, "")
        token = state.enrolments.get(by)
        again = token is not None and known is not None and known.owner == token.owner
        if token is None or not (token.live(now) or (again and not token.revoked and now < token.expires_at)):
            detail = "the enrolment token is unknown, used up, revoked or expired; ask for another"
            raise Refused("bad_token", "token", detail)
        owner, pool, labels = token.owner, token.pool, token.labels
    _active(state, owner)
    if known is not None:
        return _known(known, command, owner)
    _check_free(state, command.worker, command.public_key)
    return [WorkerEnrolled(command.worker, owner, command.public_key, pool, command.name, labels, by)]


def _known(known: Identity, command: Enrol, owner: UserId) -> Events:
    """Enrolled once more: nothing, when it is the same; the same machine may ask twice."""
    if known.banned:
        raise Refused("banned", "public_key", "this machine is shut out; its owner may ask an operator why")
    if known.owner != owner or known.public_key != command.public_key:
        raise Refused("exists", "public_key", "this machine is known as somebody else's, or by another key")
    return []


def _check_free(state: Access, worker: WorkerId, public_key: str) -> None:
    other = state.worker_of.get(public_key)
    if other is not None and other != worker:
        raise Refused("exists", "public_key", f"the key is already worker {other}'s; a worker makes a key of its own")


def _worker(state: Access, name: WorkerId) -> Identity:
    worker = state.workers.get(name)
    if worker is None:
        raise Refused("no_worker", "worker", f"there is no worker {name!r}")
    return worker


def _rename_worker(state: Access, command: RenameWorker, now: int) -> Events:
    _worker(state, command.worker)
    return [WorkerRenamed(command.worker, command.name)]


def _rekey_worker(state: Access, command: RekeyWorker, now: int) -> Events:
    worker = _worker(state, command.worker)
    if worker.banned:
        raise Refused("banned", "worker", "this machine is shut out")
    if worker.public_key == command.public_key:
        return []
    if worker.public_key != command.before:
        raise Refused("no_worker", "before", f"worker {command.worker} has another key by now")
    _check_free(state, command.worker, command.public_key)
    if command.public_key in state.shut_out:
        raise Refused("old_key", "public_key", "this key was in use before; make a new one")
    return [WorkerRekeyed(command.worker, command.public_key)]


def _ban_worker(state: Access, command: BanWorker, now: int) -> Events:
    return [] if _worker(state, command.worker).banned else [WorkerBanned(command.worker, command.reason)]


def _forget_worker(state: Access, command: ForgetWorker, now: int) -> Events:
    _worker(state, command.worker)
    return [WorkerForgotten(command.worker)]


def _record(state: Access, command: Record, now: int) -> Events:
    return [command.acted]


def _administer(state: Access, command: Administer, now: int) -> Events:
    events = decide(state, command.command, now)
    return [*events, command.acted] if events else []


_DECIDE: dict[type[Any], Callable[[Access, Any, int], Events]] = {
    Register: _register,
    SetRoles: _set_roles,
    SetLimits: _set_limits,
    Stand: _stand,
    Erase: _erase,
    IssueKey: _issue_key,
    RevokeKey: _revoke_key,
    Invite: _invite,
    RevokeInvite: _revoke_invite,
    IssueEnrolment: _issue_enrolment,
    RevokeEnrolment: _revoke_enrolment,
    SetSecret: _set_secret,
    RemoveSecret: _remove_secret,
    Enrol: _enrol,
    RenameWorker: _rename_worker,
    RekeyWorker: _rekey_worker,
    BanWorker: _ban_worker,
    ForgetWorker: _forget_worker,
    Record: _record,
    Administer: _administer,
}


def decide(state: Access, command: Command, now: int) -> Events:
    """The events that `command` leads to at `now`, none when there is nothing to do. Raises Refused."""
    return _DECIDE[type(command)](state, command, now)
