"""Facts about who is who: users, their keys, invitations, enrolments and the identities of workers.

Nothing here is a secret or says who a person is: users and things have opaque ids, secrets stand as SHA-256 digests of
random text, and what somebody typed (names, addresses) is sealed under that person's data key.
"""

from typing import ClassVar, Literal, TypeAlias

import msgspec

from events.base import Digest, Event, Sealed, UserId, WorkerId

Role = Literal["admin", "operator", "user", "owner", "observer"]
KeyId: TypeAlias = str
InviteId: TypeAlias = str
EnrolmentId: TypeAlias = str
SecretId: TypeAlias = str


class Limits(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one user may have and do at most; 0 stands for the hive's own setting."""

    requests_per_min: int = 0
    open_jobs: int = 0
    queued_tasks: int = 0
    upload_bytes: int = 0


class UserEvent(Event):
    """Every fact about a user names the user first."""

    entity: ClassVar[str] = "user"
    user: UserId


class UserRegistered(UserEvent, tag="user.registered"):
    """There is a new user. `invite`: by which invitation."""

    roles: list[Role]
    invite: InviteId = ""


class UserRolesSet(UserEvent, tag="user.roles_set"):
    """The user has these roles from now on, and no others."""

    roles: list[Role]


class UserLimitsSet(UserEvent, tag="user.limits_set"):
    """The user's own limits."""

    limits: Limits


class UserSuspended(UserEvent, tag="user.suspended"):
    """The user may do nothing until resumed; keys and sessions stay, and open nothing."""


class UserResumed(UserEvent, tag="user.resumed"):
    """The user may act again."""


class UserSignedOut(UserEvent, tag="user.signed_out"):
    """Every session that began before this is over."""


class UserErased(UserEvent, tag="user.erased"):
    """The user is gone for good: keys open nothing, the data key is destroyed, and what it sealed is unreadable."""


class UserActed(UserEvent, tag="user.acted"):
    """The user did something that only some may do: `action`, on what, and from which address."""

    action: str
    target: str = ""
    address: Sealed | None = None


class KeyEvent(Event):
    """Every fact about an API key names the key first."""

    entity: ClassVar[str] = "key"
    key: KeyId


class KeyIssued(KeyEvent, tag="key.issued"):
    """A user has another API key. It may do what `role` may (all of the user's roles when empty), narrowed to `scopes`
    when there are any, until `expires_at` (ms since 1970; 0: for good). `prefix` is how it begins, for people.
    `requests_per_min`: how often one may ask with it; 0: as often as the user.
    """

    user: UserId
    digest: Digest
    prefix: str
    name: Sealed
    role: Role | Literal[""] = ""
    scopes: list[str] = []
    expires_at: int = 0
    replaces: KeyId = ""
    requests_per_min: int = 0


class KeyExpirySet(KeyEvent, tag="key.expiry_set"):
    """The key ends at `expires_at`: another one took its place."""

    expires_at: int


class KeyRevoked(KeyEvent, tag="key.revoked"):
    """The key opens nothing any more."""


class InviteEvent(Event):
    """Every fact about an invitation names it first."""

    entity: ClassVar[str] = "invite"
    invite: InviteId


class InviteIssued(InviteEvent, tag="invite.issued"):
    """Whoever has the text with this digest may register, `uses` times, and gets these roles."""

    by: UserId
    digest: Digest
    roles: list[Role]
    uses: int
    expires_at: int


class InviteRevoked(InviteEvent, tag="invite.revoked"):
    """The invitation is void."""


class EnrolmentEvent(Event):
    """Every fact about an enrolment token names it first."""

    entity: ClassVar[str] = "enrolment"
    enrolment: EnrolmentId


class EnrolmentIssued(EnrolmentEvent, tag="enrolment.issued"):
    """Whoever has the text with this digest may bring `uses` workers (0: any number) into the pool, for `owner`."""

    owner: UserId
    digest: Digest
    pool: str
    uses: int
    expires_at: int
    labels: Sealed | None = None


class EnrolmentRevoked(EnrolmentEvent, tag="enrolment.revoked"):
    """The token brings no more workers in; those that came stay."""


class SecretEvent(Event):
    """Every fact about a user's secret for tasks names it first. Its name and its value are not on the log."""

    entity: ClassVar[str] = "secret"
    secret: SecretId
    user: UserId


class SecretSet(SecretEvent, tag="secret.set"):
    """The user's secret has a value, or another one than before; `value` is another id for each."""

    value: str


class SecretRemoved(SecretEvent, tag="secret.removed"):
    """The secret is no more, and its value is destroyed."""


class WorkerIdentityEvent(Event):
    """Every fact about a worker's identity names the worker first."""

    entity: ClassVar[str] = "worker"
    worker: WorkerId


class WorkerEnrolled(WorkerIdentityEvent, tag="worker.enrolled"):
    """A machine was taken in: it proved to hold the secret half of `public_key`."""

    owner: UserId
    public_key: str
    pool: str
    name: Sealed | None = None
    labels: Sealed | None = None
    enrolment: EnrolmentId = ""


class WorkerRenamed(WorkerIdentityEvent, tag="worker.renamed"):
    """The worker has another name."""

    name: Sealed


class WorkerRekeyed(WorkerIdentityEvent, tag="worker.rekeyed"):
    """The worker proves who it is with this key from now on, and with the one before no more."""

    public_key: str


class WorkerBanned(WorkerIdentityEvent, tag="worker.banned"):
    """The worker is shut out, and cannot come back with what it has."""

    reason: Literal["operator", "owner", "stolen", "two_machines"] = "operator"


class WorkerForgotten(WorkerIdentityEvent, tag="worker.forgotten"):
    """The worker is shut out and shown no more. Its key may be enrolled again."""


class AccountsEvent(Event):
    """Every fact about the accounts' own writer names these accounts first."""

    entity: ClassVar[str] = "accounts"
    accounts: str


class AccountsLed(AccountsEvent, tag="accounts.writer_led"):
    """A control plane took the place of the accounts' one writer."""

    writer: str
    version: str = ""


AnyAccountEvent = (
    UserRegistered
    | UserRolesSet
    | UserLimitsSet
    | UserSuspended
    | UserResumed
    | UserSignedOut
    | UserErased
    | UserActed
    | KeyIssued
    | KeyExpirySet
    | KeyRevoked
    | InviteIssued
    | InviteRevoked
    | EnrolmentIssued
    | EnrolmentRevoked
    | SecretSet
    | SecretRemoved
    | WorkerEnrolled
    | WorkerRenamed
    | WorkerRekeyed
    | WorkerBanned
    | WorkerForgotten
    | AccountsLed
)
