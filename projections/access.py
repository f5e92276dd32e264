"""Who may come in: users, keys, invitations, enrolments and the identities of workers, by id and by digest. Pure.

Two hold one each: the accounts' writer, to decide on, and every process that answers requests, to check who asks; so
it is folded from the log alone and needs no database. What is revoked stays known, to be refused and never made again.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import msgspec

from events.account import (
    AccountsLed,
    EnrolmentId,
    EnrolmentIssued,
    EnrolmentRevoked,
    InviteId,
    InviteIssued,
    InviteRevoked,
    KeyExpirySet,
    KeyId,
    KeyIssued,
    KeyRevoked,
    Limits,
    Role,
    SecretId,
    SecretRemoved,
    SecretSet,
    UserActed,
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
from events.base import Digest, Sealed, UserId, WorkerId

SHUT_OUT_MS = 2 * 86_400_000
"""How long a public key that was shut out is named: longer than the life of any credential that was made for it."""

UserState: TypeAlias = Literal["active", "suspended", "erased"]


class User(msgspec.Struct):
    """A user. `signed_out_at`: sessions that began up to then are over; times in ms."""

    roles: tuple[Role, ...]
    since: int
    state: UserState = "active"
    signed_out_at: int = 0
    limits: Limits = Limits()
    keys: dict[KeyId, None] = {}
    secrets: dict[SecretId, None] = {}


class Key(msgspec.Struct):
    """An API key."""

    user: UserId
    digest: Digest
    prefix: str
    name: Sealed
    role: Role | Literal[""]
    scopes: tuple[str, ...]
    since: int
    expires_at: int
    revoked: bool = False
    requests_per_min: int = 0

    def live(self, now: int) -> bool:
        """Whether it opens anything at `now` (ms), as far as it is up to the key."""
        return not self.revoked and (not self.expires_at or now < self.expires_at)


class Invite(msgspec.Struct):
    """An invitation to register."""

    by: UserId
    digest: Digest
    roles: tuple[Role, ...]
    uses: int
    since: int
    expires_at: int
    used: int = 0
    revoked: bool = False

    def live(self, now: int) -> bool:
        """Whether somebody may register with it at `now` (ms)."""
        return not self.revoked and self.used < self.uses and now < self.expires_at


class Enrolment(msgspec.Struct):
    """A token that brings workers in. `uses` 0: any number."""

    owner: UserId
    digest: Digest
    pool: str
    uses: int
    since: int
    expires_at: int
    labels: Sealed | None
    used: int = 0
    revoked: bool = False

    def live(self, now: int) -> bool:
        """Whether it brings a worker in at `now` (ms)."""
        return not self.revoked and (not self.uses or self.used < self.uses) and now < self.expires_at


class Secret(msgspec.Struct):
    """A secret for tasks; what it is called and says is not known here. `value`: the id of its present value."""

    user: UserId
    value: str
    since: int


class Identity(msgspec.Struct):
    """A worker: whose it is, and how it proves who it is."""

    owner: UserId
    public_key: str
    pool: str
    name: Sealed | None
    labels: Sealed | None
    since: int
    banned: bool = False


class Access(msgspec.Struct):
    """Everything. `key_of`, `invite_of` and `enrolment_of` find by digest, `worker_of` by public key."""

    users: dict[UserId, User] = {}
    keys: dict[KeyId, Key] = {}
    key_of: dict[Digest, KeyId] = {}
    invites: dict[InviteId, Invite] = {}
    invite_of: dict[Digest, InviteId] = {}
    enrolments: dict[EnrolmentId, Enrolment] = {}
    enrolment_of: dict[Digest, EnrolmentId] = {}
    workers: dict[WorkerId, Identity] = {}
    worker_of: dict[str, WorkerId] = {}
    secrets: dict[SecretId, Secret] = {}
    shut_out: dict[str, int] = {}
    """Public keys that opened something until lately, and since when (ms) they must not: see SHUT_OUT_MS."""
    admins: int = 0

    def key(self, digest: Digest, now: int) -> Key | None:
        """The key with this digest, when it and its user are good at `now` (ms)."""
        key = self.keys.get(self.key_of.get(digest, ""))
        if key is None or not key.live(now) or self.users[key.user].state != "active":
            return None
        return key


def _registered(access: Access, event: UserRegistered, at: int) -> None:
    access.users[event.user] = User(tuple(event.roles), at)
    access.admins += "admin" in event.roles
    if invite := access.invites.get(event.invite):
        invite.used += 1


def _roles_set(access: Access, event: UserRolesSet, at: int) -> None:
    user = access.users[event.user]
    if user.state == "active":
        access.admins += ("admin" in event.roles) - ("admin" in user.roles)
    user.roles = tuple(event.roles)


def _limits_set(access: Access, event: UserLimitsSet, at: int) -> None:
    access.users[event.user].limits = event.limits


def _stands(access: Access, user: User, state: UserState) -> None:
    if "admin" in user.roles:
        access.admins += (state == "active") - (user.state == "active")
    user.state = state


def _suspended(access: Access, event: UserSuspended, at: int) -> None:
    _stands(access, access.users[event.user], "suspended")


def _resumed(access: Access, event: UserResumed, at: int) -> None:
    _stands(access, access.users[event.user], "active")


def _signed_out(access: Access, event: UserSignedOut, at: int) -> None:
    access.users[event.user].signed_out_at = at


def _erased(access: Access, event: UserErased, at: int) -> None:
    user = access.users[event.user]
    _stands(access, user, "erased")
    user.signed_out_at = at
    for key in user.keys:
        access.keys[key].revoked = True
    for secret in user.secrets:
        del access.secrets[secret]
    user.secrets = {}
    for found in (*access.invites.values(), *access.enrolments.values()):
        if (found.by if isinstance(found, Invite) else found.owner) == event.user:
            found.revoked = True
    for worker in access.workers.values():
        if worker.owner == event.user:
            worker.banned = True
            _shut_out(access, worker.public_key, at)


def _acted(access: Access, event: UserActed, at: int) -> None:
    """An audit's entry changes nothing."""


def _key_issued(access: Access, event: KeyIssued, at: int) -> None:
    access.keys[event.key] = Key(
        event.user,
        event.digest,
        event.prefix,
        event.name,
        event.role,
        tuple(event.scopes),
        at,
        event.expires_at,
        requests_per_min=event.requests_per_min,
    )
    access.key_of[event.digest] = event.key
    access.users[event.user].keys[event.key] = None


def _key_expiry_set(access: Access, event: KeyExpirySet, at: int) -> None:
    access.keys[event.key].expires_at = event.expires_at


def _key_revoked(access: Access, event: KeyRevoked, at: int) -> None:
    access.keys[event.key].revoked = True


def _invite_issued(access: Access, event: InviteIssued, at: int) -> None:
    access.invites[event.invite] = Invite(event.by, event.digest, tuple(event.roles), event.uses, at, event.expires_at)
    access.invite_of[event.digest] = event.invite


def _invite_revoked(access: Access, event: InviteRevoked, at: int) -> None:
    access.invites[event.invite].revoked = True


def _enrolment_issued(access: Access, event: EnrolmentIssued, at: int) -> None:
    access.enrolments[event.enrolment] = Enrolment(
        event.owner, event.digest, event.pool, event.uses, at, event.expires_at, event.labels
    )
    access.enrolment_of[event.digest] = event.enrolment


def _enrolment_revoked(access: Access, event: EnrolmentRevoked, at: int) -> None:
    access.enrolments[event.enrolment].revoked = True


def _secret_set(access: Access, event: SecretSet, at: int) -> None:
    access.secrets[event.secret] = Secret(event.user, event.value, at)
    access.users[event.user].secrets[event.secret] = None


def _secret_removed(access: Access, event: SecretRemoved, at: int) -> None:
    access.secrets.pop(event.secret, None)
    access.users[event.user].secrets.pop(event.secret, None)


def _enrolled(access: Access, event: WorkerEnrolled, at: int) -> None:
    access.workers[event.worker] = Identity(event.owner, event.public_key, event.pool, event.name, event.labels, at)
    access.worker_of[event.public_key] = event.worker
    access.shut_out.pop(event.public_key, None)
    if enrolment := access.enrolments.get(event.enrolment):
        enrolment.used += 1


def _renamed(access: Access, event: WorkerRenamed, at: int) -> None:
    access.workers[event.worker].name = event.name


def _rekeyed(access: Access, event: WorkerRekeyed, at: int) -> None:
    worker = access.workers[event.worker]
    access.worker_of.pop(worker.public_key, None)
    _shut_out(access, worker.public_key, at)
    worker.public_key = event.public_key
    access.worker_of[event.public_key] = event.worker


def _banned(access: Access, event: WorkerBanned, at: int) -> None:
    worker = access.workers[event.worker]
    worker.banned = True
    _shut_out(access, worker.public_key, at)


def _shut_out(access: Access, public_key: str, at: int) -> None:
    for known in [known for known, since in access.shut_out.items() if at - since > SHUT_OUT_MS]:
        del access.shut_out[known]
    access.shut_out[public_key] = at


def _forgotten(access: Access, event: WorkerForgotten, at: int) -> None:
    worker = access.workers.pop(event.worker)
    access.worker_of.pop(worker.public_key, None)
    _shut_out(access, worker.public_key, at)


def _led(access: Access, event: AccountsLed, at: int) -> None:
    """Who leads is of no concern here."""


_CHANGES: dict[type[Any], Callable[[Access, Any, int], None]] = {
    UserRegistered: _registered,
    UserRolesSet: _roles_set,
    UserLimitsSet: _limits_set,
    UserSuspended: _suspended,
    UserResumed: _resumed,
    UserSignedOut: _signed_out,
    UserErased: _erased,
    UserActed: _acted,
    KeyIssued: _key_issued,
    KeyExpirySet: _key_expiry_set,
    KeyRevoked: _key_revoked,
    InviteIssued: _invite_issued,
    InviteRevoked: _invite_revoked,
    EnrolmentIssued: _enrolment_issued,
    EnrolmentRevoked: _enrolment_revoked,
    SecretSet: _secret_set,
    SecretRemoved: _secret_removed,
    WorkerEnrolled: _enrolled,
    WorkerRenamed: _renamed,
    WorkerRekeyed: _rekeyed,
    WorkerBanned: _banned,
    WorkerForgotten: _forgotten,
    AccountsLed: _led,
}


def apply(access: Access, event: Any, at: int) -> bool:
    """Fold one event in, in place; whether it is one that is known here. `at` in ms."""
    change = _CHANGES.get(cast(type[Any], type(event)))
    if change is None:
        return False
    change(access, event, at)
    return True
