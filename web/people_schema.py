"""What goes in and out of the routes of people: registering, sessions, oneself, users and invitations."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from events.account import Limits, Role
from web.schema import Moment

TEXT_CHARS_MAX = 1024
DAY_S = 86_400
YEAR_S = 366 * DAY_S
LIMIT_MAX = 2**53 - 1

NameText: TypeAlias = Annotated[
    str, Meta(max_length=100, description="3 to 32 letters, digits, _ . -", examples=["ada"])
]
PasswordText: TypeAlias = Annotated[str, Meta(max_length=TEXT_CHARS_MAX, description="10 or more characters")]
TokenText: TypeAlias = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
HumanText: TypeAlias = Annotated[
    str,
    Meta(max_length=2048, description="What the check for humans gave, where one is wanted: see GET /v1/auth/options"),
]
MailText: TypeAlias = Annotated[str, Meta(max_length=254, examples=["ada@example.org"])]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=LIMIT_MAX)]


class OptionsAnswer(msgspec.Struct, frozen=True, gc=False):
    """How people come in here. `mail`: whether links are sent by mail. `human_check_site_key`: with which a page shows the
    check for humans whose answer goes into `human`; "" where nobody is asked for one.
    """

    registration: Literal["open", "invite", "closed"]
    mail: bool
    human_check_site_key: str


class RegisterBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Who somebody wants to be; `invite`: the text of an invitation, where one is needed."""

    name: NameText
    password: PasswordText
    email: MailText = ""
    invite: TokenText = ""
    human: HumanText = ""


class RegisteredAnswer(msgspec.Struct, frozen=True, gc=False):
    """The new user's id."""

    user: str


class LoginBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`cookie`: for pages, set cookies instead of giving the tokens. `human` is wanted after some wrong passwords."""

    name: NameText
    password: PasswordText
    cookie: bool = False
    human: HumanText = ""


class RefreshBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The refresh token; none: that of the cookies."""

    refresh: TokenText = ""


class TokensAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`access` goes into `Authorization: Bearer` until `expires_at`; `refresh` gets the next pair, once. With cookies
    both are empty, and `csrf` goes into the header X-CSRF-Token of every request that changes something.
    """

    user: str
    expires_at: Moment
    refresh_expires_at: Moment
    access: str = ""
    refresh: str = ""
    csrf: str = ""


class SessionView(msgspec.Struct, frozen=True, gc=False):
    """A login that is open. `used_at`: when it last got another access token; `this`: the request is of this session."""

    session: str
    since: Moment
    used_at: Moment
    expires_at: Moment
    this: bool


class SessionsAnswer(msgspec.Struct, frozen=True, gc=False):
    """The one used last first; 100 at most."""

    sessions: list[SessionView]


class MailBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Whose password is to be set."""

    email: MailText
    human: HumanText = ""


class ResetBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The token of a one-time link, and the password to be."""

    token: TokenText
    password: PasswordText


class TokenBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The token of a one-time link."""

    token: TokenText


class PasswordBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The password of today and the one to be."""

    old: PasswordText
    new: PasswordText
    cookie: bool = False


class SetMailBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The address to be ("": none), and the password, since the address may set another."""

    email: MailText
    password: PasswordText


class EraseBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The password, again: this cannot be undone."""

    password: PasswordText


class UserView(msgspec.Struct, frozen=True, gc=False):
    """A user. `has_password`: whether it can log in. `email` is shown to itself and to who may look after users."""

    user: str
    name: str
    email: str
    verified: bool
    has_password: bool
    roles: list[Role]
    limits: Limits
    state: Literal["active", "suspended", "erased"]
    since: Moment
    scopes: list[str] = []


class UsersAnswer(msgspec.Struct, frozen=True, gc=False):
    """In order of ids. `next`: give it as `after` for the next page; null on the last one."""

    users: list[UserView]
    next: str | None


class RolesBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """All the roles that the user is to have."""

    roles: Annotated[list[Role], Meta(min_length=1, max_length=10)]


class LimitsBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The user's own limits; 0: as everybody's."""

    requests_per_min: Count = 0
    open_jobs: Count = 0
    queued_tasks: Count = 0
    upload_bytes: Count = 0


class LinkAnswer(msgspec.Struct, frozen=True, gc=False):
    """A one-time link's token, for the user alone; it is shown this once."""

    token: str
    expires_at: Moment


class InviteBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How many may register with it, as what, and for how many seconds it is good."""

    roles: Annotated[list[Role], Meta(min_length=1, max_length=10)] = msgspec.field(default_factory=lambda: ["user"])
    uses: Annotated[int, Meta(ge=1, le=10_000)] = 1
    expires_in: Annotated[int, Meta(ge=1, le=YEAR_S)] = 7 * DAY_S


class InviteView(msgspec.Struct, frozen=True, gc=False):
    """An invitation, and how many registered with it."""

    invite: str
    by: str
    roles: list[Role]
    uses: int
    used: int
    since: Moment
    expires_at: Moment
    state: Literal["live", "used", "expired", "revoked"]


class NewInvite(msgspec.Struct, frozen=True, gc=False):
    """An invitation that was made. `text` is shown this once."""

    text: str
    invite: InviteView


class InvitesAnswer(msgspec.Struct, frozen=True, gc=False):
    """Invitations that were not revoked."""

    invites: list[InviteView]
