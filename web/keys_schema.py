"""What goes in and out of the routes of API keys and enrolment tokens."""

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from events.account import Role
from services.accounts.keys import digest_of
from web.schema import Moment

NAME_CHARS_MAX = 200
DAY_S = 86_400
YEARS_S = 10 * 366 * DAY_S

Name = Annotated[str, Meta(max_length=NAME_CHARS_MAX, description="For people")]
Seconds = Annotated[int, Meta(ge=1, le=YEARS_S)]

REQUESTS_MAX = 1_000_000
LABELS_MAX = 16
LabelName: TypeAlias = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._/-]{0,62}$")]
Labels: TypeAlias = Annotated[dict[LabelName, Annotated[str, Meta(max_length=128)]], Meta(max_length=LABELS_MAX)]
"""What an owner says of machines, such as {"rack": "b7"}: kept sealed, and shown to who is shown their names."""


class KeyBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A key to be made. It may do what `role` may, or all that its user may, narrowed to `scopes` if there are any."""

    name: Name = ""
    role: Role | None = None
    scopes: Annotated[list[str], Meta(max_length=50)] = []
    expires_in: Annotated[Seconds | None, Meta(description="Seconds; none: it stays good until it is revoked")] = None
    user: Annotated[str, Meta(max_length=100, description="Whose; none: your own")] = ""
    requests_per_min: Annotated[
        int, Meta(ge=0, le=REQUESTS_MAX, description="How often one may ask with it; 0: as often as its user")
    ] = 0


class RotateBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How long the old key is good beside the new one, in seconds."""

    grace: Annotated[int, Meta(ge=0, le=30 * DAY_S)] = 3600


class KeyView(msgspec.Struct, frozen=True, gc=False):
    """A key; `prefix` is how its text begins. `scopes`: what it may do now. `used_at`: when it was last used, to a minute."""

    key: str
    user: str
    prefix: str
    name: str
    role: str
    scopes: list[str]
    since: Moment
    expires_at: Moment
    state: str
    used_at: Moment = 0
    requests_per_min: int = 0


class NewKey(msgspec.Struct, frozen=True, gc=False):
    """A key that was made. `text` is shown this once."""

    text: str
    key: KeyView


class KeysAnswer(msgspec.Struct, frozen=True, gc=False):
    """Keys that were not revoked."""

    keys: list[KeyView]


class EnrolmentBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A token to be made, for `uses` workers (0: any number)."""

    uses: Annotated[int, Meta(ge=0, le=10_000)] = 1
    expires_in: Seconds = DAY_S
    owner: Annotated[str, Meta(max_length=100, description="Whose the workers are; none: yours")] = ""
    labels: Annotated[Labels, Meta(description="Which the workers get", examples=[{"rack": "b7"}])] = {}


class EnrolmentView(msgspec.Struct, frozen=True, gc=False):
    """An enrolment token, and how many workers it brought in."""

    enrolment: str
    owner: str
    pool: str
    uses: int
    used: int
    since: Moment
    expires_at: Moment
    state: str


class NewEnrolment(msgspec.Struct, frozen=True, gc=False):
    """A token that was made. `text` is shown this once. `url`: where other machines reach this hive, as far
    as it knows.
    """

    text: str
    enrolment: EnrolmentView
    url: str = ""


class EnrolmentsAnswer(msgspec.Struct, frozen=True, gc=False):
    """Enrolment tokens that were not revoked."""

    enrolments: list[EnrolmentView]


class JoinBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A machine that wants in: its token, its public key, and in base64 the key's signature of
    `hive.join.<SHA-256 of the token, in hex>.<public key>`.
    """

    token: Annotated[str, Meta(max_length=200)]
    public_key: Annotated[str, Meta(max_length=100)]
    signature: Annotated[str, Meta(max_length=200)]
    name: Name = ""


def join_text(token: str, public_key: str) -> bytes:
    """What a machine signs to join."""
    return f"hive.join.{digest_of(token)}.{public_key}".encode()
