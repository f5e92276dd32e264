"""What may be asked of the accounts' writer. Whether who asks may ask is checked before, where the request comes in;
`Administer` has what was done written down with it.
"""

from typing import Literal, TypeAlias

import msgspec

from events.account import EnrolmentId, InviteId, KeyId, Limits, Role, SecretId, UserActed
from events.base import Digest, Sealed, UserId, WorkerId


class Register(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="register"):
    """Make a user, with `roles`, or with those of the invitation whose digest is `invite`."""

    user: UserId
    roles: list[Role] = []
    invite: Digest = ""


class SetRoles(msgspec.Struct, frozen=True, gc=False, tag="set_roles"):
    """Give the user these roles, and no others."""

    user: UserId
    roles: list[Role]


class SetLimits(msgspec.Struct, frozen=True, gc=False, tag="set_limits"):
    """Give the user limits of its own."""

    user: UserId
    limits: Limits


class Stand(msgspec.Struct, frozen=True, gc=False, tag="stand"):
    """Suspend the user, let it act again, or end its sessions."""

    user: UserId
    how: Literal["suspended", "resumed", "signed_out"]


class Erase(msgspec.Struct, frozen=True, gc=False, tag="erase"):
    """Erase the user for good."""

    user: UserId


class IssueKey(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="issue_key"):
    """Give the user another key. `replaces`: in place of this one, which ends at `grace_until` (ms)."""

    key: KeyId
    user: UserId
    digest: Digest
    prefix: str
    name: Sealed
    role: Role | Literal[""] = ""
    scopes: list[str] = []
    expires_at: int = 0
    replaces: KeyId = ""
    grace_until: int = 0
    requests_per_min: int = 0


class RevokeKey(msgspec.Struct, frozen=True, gc=False, tag="revoke_key"):
    """End the key."""

    key: KeyId


class Invite(msgspec.Struct, frozen=True, gc=False, tag="invite"):
    """Let `uses` people register with these roles until `expires_at` (ms)."""

    invite: InviteId
    by: UserId
    digest: Digest
    roles: list[Role]
    uses: int
    expires_at: int


class RevokeInvite(msgspec.Struct, frozen=True, gc=False, tag="revoke_invite"):
    """End the invitation."""

    invite: InviteId


class IssueEnrolment(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="issue_enrolment"):
    """Let `uses` workers (0: any number) of `owner` into the pool until `expires_at` (ms)."""

    enrolment: EnrolmentId
    owner: UserId
    digest: Digest
    pool: str
    uses: int
    expires_at: int
    labels: Sealed | None = None


class RevokeEnrolment(msgspec.Struct, frozen=True, gc=False, tag="revoke_enrolment"):
    """End the token."""

    enrolment: EnrolmentId


class SetSecret(msgspec.Struct, frozen=True, gc=False, tag="set_secret"):
    """Say that the user's secret has another value, which has the id `value`."""

    secret: SecretId
    user: UserId
    value: str


class RemoveSecret(msgspec.Struct, frozen=True, gc=False, tag="remove_secret"):
    """Say that the user's secret is no more."""

    secret: SecretId
    user: UserId


class Enrol(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="enrol"):
    """Take a machine in that proved to hold `public_key`: with the token whose digest is `token`, or for `owner`."""

    worker: WorkerId
    public_key: str
    pool: str
    token: Digest = ""
    owner: UserId = ""
    name: Sealed | None = None


class RenameWorker(msgspec.Struct, frozen=True, gc=False, tag="rename_worker"):
    """Give the worker another name."""

    worker: WorkerId
    name: Sealed


class RekeyWorker(msgspec.Struct, frozen=True, gc=False, tag="rekey_worker"):
    """Have the worker, which is known by the key `before`, be known by another that it proved to hold, from now on."""

    worker: WorkerId
    before: str
    public_key: str


class BanWorker(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="ban_worker"):
    """Shut the worker out for good."""

    worker: WorkerId
    reason: Literal["operator", "owner", "stolen", "two_machines"] = "operator"


class ForgetWorker(msgspec.Struct, frozen=True, gc=False, tag="forget_worker"):
    """Shut the worker out, and know it no more."""

    worker: WorkerId


class Record(msgspec.Struct, frozen=True, gc=False, tag="record"):
    """Write down what was done elsewhere."""

    acted: UserActed


Plain: TypeAlias = (
    Register
    | SetRoles
    | SetLimits
    | Stand
    | Erase
    | IssueKey
    | RevokeKey
    | Invite
    | RevokeInvite
    | IssueEnrolment
    | RevokeEnrolment
    | SetSecret
    | RemoveSecret
    | Enrol
    | RenameWorker
    | RekeyWorker
    | BanWorker
    | ForgetWorker
    | Record
)


class Administer(msgspec.Struct, frozen=True, gc=False, tag="administer"):
    """Do this, and if it changed anything write down who did it."""

    command: Plain
    acted: UserActed


Command: TypeAlias = Plain | Administer
