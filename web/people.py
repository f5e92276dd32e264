"""What people do for themselves: register, log in and out, passwords, e-mail, being erased."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, SkipValidation
from litestar.response import Response

from services.accounts.failures import Throttled
from services.accounts.hosted import PeopleHost
from services.accounts.keys import digest_of
from services.accounts.people import Profile
from services.accounts.roles import scopes_of
from services.accounts.sessions import BadToken, Tokens
from services.hosting import Refused
from web.auth import address_of
from web.caller import ANYBODY, NOBODY, Caller, caller_of
from web.params import problems
from web.people_schema import (
    EraseBody,
    LoginBody,
    MailBody,
    OptionsAnswer,
    PasswordBody,
    RefreshBody,
    RegisterBody,
    RegisteredAnswer,
    ResetBody,
    SessionsAnswer,
    SessionView,
    SetMailBody,
    TokenBody,
    TokensAnswer,
    UserView,
)
from web.problems import AnyRequest, Failed, not_found, unauthorized
from web.sessions import REFRESH_COOKIE, check_csrf, check_own_page, cookie_of, cookies_for, no_cookies

BODY_BYTES_MAX = 16 * 1024
PeopleArg: TypeAlias = NamedDependency[SkipValidation[PeopleHost]]

_OPEN: dict[str, Any] = {"needs": NOBODY, "request_max_body_size": BODY_BYTES_MAX}
_MINE: dict[str, Any] = {"needs": ANYBODY, "request_max_body_size": BODY_BYTES_MAX}
_STATUS = {
    "no_user": 404, "wrong_login": 401, "bad_link": 403, "bad_invite": 403, "closed": 403, "suspended": 403,
    "name_taken": 409, "mail_taken": 409, "last_admin": 409, "exists": 409, "changed": 409, "no_mail": 409,
    "no_password": 409, "too_slow": 409, "human_needed": 403, "not_human": 403, "human_check_away": 503,
}  # fmt: skip
_REMEDIES = {
    "wrong_login": "try again, or have another password set",
    "weak_password": "take one that is not to be guessed: 10 or more characters, a few unrelated words",
    "closed": "an admin invites with POST /v1/invites",
    "no_mail": "an admin makes a link with POST /v1/users/{user}/reset-link",
    "no_password": "an admin makes a link with POST /v1/users/{user}/reset-link",
    "name_taken": "choose another name",
    "human_needed": "solve the check of GET /v1/auth/options on a page, and send what it gives as `human` (`hivectl`: --human)",
    "not_human": "solve the check again, and send what it gives as `human`",
    "human_check_away": "try again in a minute",
}


@contextmanager
def as_problems() -> Generator[None]:
    """Refusals of the flows as problems."""
    try:
        yield
    except Refused as error:
        code = error.code.replace("_", "-")
        detail = f"{error.field} {error.detail}" if error.code in ("bad_name", "weak_password") else error.detail
        status = _STATUS.get(error.code, 422)
        raise Failed(status, code, detail, field=error.field, remedy=_REMEDIES.get(error.code, "")) from None
    except Throttled as error:
        raise Failed(
            429, "too-many-requests", str(error), remedy="wait, then try again",
            headers={"Retry-After": str(error.wait_s)},
        ) from None  # fmt: skip
    except BadToken as error:
        raise unauthorized(str(error)) from None


def _answer(people: PeopleHost, request: AnyRequest, tokens: Tokens, cookie: bool) -> Response[TokensAnswer]:
    """The tokens in the body, or in cookies."""
    if not cookie:
        said = TokensAnswer(
            tokens.user, tokens.expires_at, tokens.refresh_expires_at, access=tokens.access, refresh=tokens.refresh
        )
        return Response(said, headers={"Cache-Control": "no-store"})
    csrf = people.sessions.csrf(tokens.family)
    said = TokensAnswer(tokens.user, tokens.expires_at, tokens.refresh_expires_at, csrf=csrf)
    return Response(said, cookies=cookies_for(request.scope, tokens, csrf), headers={"Cache-Control": "no-store"})


def view_of(profile: Profile, *, mail: bool) -> UserView:
    """A user as the API shows it; `mail`: with its address."""
    return UserView(
        profile.user, profile.name, profile.mail if mail else "", profile.verified, profile.has_password, profile.roles,
        profile.limits, profile.state, profile.since, sorted(scopes_of(tuple(profile.roles))),
    )  # fmt: skip


# Coming in


@get("/v1/auth/options", summary="How people come in here", responses=problems(), needs=NOBODY)
async def options(people: PeopleArg) -> OptionsAnswer:
    """What a page asks for before it shows a form."""
    return OptionsAnswer(people.registration, people.mails.sends, people.human_check_site_key)


@post(
    "/v1/auth/register",
    summary="Register",
    description="Where registration is open, or with an invitation. Asked twice with the same password, it is done once.",
    responses=problems(409, 413, 422),
    **_OPEN,
)
async def register(people: PeopleArg, request: AnyRequest, data: JSONBody[RegisterBody]) -> RegisteredAnswer:
    """Make a user."""
    invite = digest_of(data.invite) if data.invite else ""
    with as_problems():
        user = await people.people.register(
            data.name, data.password, data.email, invite, address_of(request.scope), data.human
        )
    return RegisteredAnswer(user)


@post("/v1/auth/login", status_code=200, summary="Log in", responses=problems(413), **_OPEN)
async def login(people: PeopleArg, request: AnyRequest, data: JSONBody[LoginBody]) -> Response[TokensAnswer]:
    """Begin a session."""
    if data.cookie:
        check_own_page(request.scope)
    with as_problems():
        tokens = await people.people.log_in(data.name, data.password, address_of(request.scope), data.human)
    return _answer(people, request, tokens, data.cookie)


@post(
    "/v1/auth/refresh",
    status_code=200,
    summary="Go on with a session",
    description="A refresh token is good once. One that comes again later ends the session: it was stolen.",
    responses=problems(413),
    **_OPEN,
)
async def refresh(
    people: PeopleArg, request: AnyRequest, data: JSONBody[RefreshBody | None] = None
) -> Response[TokensAnswer]:
    """The next tokens."""
    token, by_cookie = _refresh_of(people, request, data)
    with as_problems():
        tokens = await people.sessions.refresh(token, people.access.state)
    return _answer(people, request, tokens, by_cookie)


@post("/v1/auth/logout", status_code=204, summary="Log out", responses=problems(413), **_OPEN)
async def logout(people: PeopleArg, request: AnyRequest, data: JSONBody[RefreshBody | None] = None) -> Response[None]:
    """End the session of the refresh token."""
    token, _ = _refresh_of(people, request, data)
    with as_problems():
        await people.sessions.end_with(token)
    return Response(None, status_code=204, cookies=no_cookies(request.scope))


def _refresh_of(people: PeopleHost, request: AnyRequest, data: RefreshBody | None) -> tuple[str, bool]:
    """The refresh token, and whether it is that of the cookies."""
    if data is not None and data.refresh:
        return data.refresh, False
    token = cookie_of(request.scope, REFRESH_COOKIE)
    if not token:
        raise unauthorized("there is no refresh token")
    check_csrf(request.scope, people.sessions.csrf(token.partition(".")[0]))
    return token, True


@post(
    "/v1/auth/reset-request",
    status_code=202,
    summary="Have a link sent that sets a password",
    description="Where the hive sends mail. The answer is the same whether anybody has this address or not.",
    responses=problems(409, 413, 422),
    **_OPEN,
)
async def request_reset(people: PeopleArg, request: AnyRequest, data: JSONBody[MailBody]) -> None:
    """To the user who has shown that this address is theirs."""
    with as_problems():
        await people.people.request_reset(data.email, address_of(request.scope), data.human)


@post(
    "/v1/auth/reset",
    status_code=200,
    summary="Set a password with a one-time link",
    responses=problems(404, 409, 413, 422),
    **_OPEN,
)
async def reset(people: PeopleArg, data: JSONBody[ResetBody]) -> RegisteredAnswer:
    """Every session of the user ends."""
    with as_problems():
        return RegisteredAnswer(await people.people.reset_password(data.token, data.password))


@post(
    "/v1/auth/verify",
    status_code=200,
    summary="Show that an e-mail address is one's own",
    responses=problems(409, 413),
    **_OPEN,
)
async def verify(people: PeopleArg, data: JSONBody[TokenBody]) -> RegisteredAnswer:
    """With the link that was sent there."""
    with as_problems():
        return RegisteredAnswer(await people.mails.verify(data.token))


# Oneself


@get("/v1/me", summary="Who you are", responses=problems(404), needs=ANYBODY)
async def me(people: PeopleArg, request: AnyRequest) -> UserView:
    """The caller."""
    with as_problems():
        return view_of(await people.people.profile(_user(request)), mail=True)


def _user(request: AnyRequest) -> str:
    """Who asks; nobody is told who a worker's ticket is."""
    caller: Caller = caller_of(request)
    if caller.ticket:
        raise unauthorized("a worker's ticket is nobody")
    return caller.user


@patch("/v1/me", summary="Set your e-mail address", responses=problems(404, 409, 413, 422), **_MINE)
async def set_mail(people: PeopleArg, request: AnyRequest, data: JSONBody[SetMailBody]) -> UserView:
    """Where the hive sends mail, a link to verify it goes there."""
    user = _user(request)
    with as_problems():
        await people.people.set_mail(user, data.email, data.password, address_of(request.scope))
        return view_of(await people.people.profile(user), mail=True)


@post(
    "/v1/me/password",
    status_code=200,
    summary="Change your password",
    description="Every session ends, and a new one begins, whose tokens are the answer.",
    responses=problems(404, 409, 413, 422),
    **_MINE,
)
async def change_password(
    people: PeopleArg, request: AnyRequest, data: JSONBody[PasswordBody]
) -> Response[TokensAnswer]:
    """With the one of today."""
    if data.cookie:
        check_own_page(request.scope)
    with as_problems():
        tokens = await people.people.change_password(_user(request), data.old, data.new, address_of(request.scope))
    return _answer(people, request, tokens, data.cookie)


@post("/v1/me/sign-out", status_code=204, summary="End all your sessions", responses=problems(404), **_MINE)
async def sign_out(people: PeopleArg, request: AnyRequest) -> Response[None]:
    """In every process, within a second."""
    with as_problems():
        await people.people.sign_out(_user(request))
    return Response(None, status_code=204, cookies=no_cookies(request.scope))


@get("/v1/me/sessions", summary="List your sessions", responses=problems(404), needs=ANYBODY)
async def sessions(people: PeopleArg, request: AnyRequest) -> SessionsAnswer:
    """Every login that is open; API keys are no sessions."""
    rows = await people.sessions.of(_user(request))
    via = caller_of(request).via
    return SessionsAnswer(
        [SessionView(row.family, row.began, row.rotated, row.expires, via == f"session:{row.family}") for row in rows]
    )


@delete(
    "/v1/me/sessions/{session:str}",
    summary="End one of your sessions",
    description="Its refresh token opens nothing any more; its access token ends within 15 minutes, here at once.",
    responses=problems(404),
    needs=ANYBODY,
)
async def end_session(people: PeopleArg, request: AnyRequest, session: FromPath[str]) -> None:
    """Also that of this request."""
    if not await people.sessions.end_own(_user(request), session):
        raise not_found("session", session, "list them with GET /v1/me/sessions")


@post(
    "/v1/me/erase",
    status_code=204,
    summary="Erase yourself, for good",
    description="What you typed becomes unreadable, keys and sessions open nothing, your workers are let go.",
    responses=problems(404, 409, 413),
    **_MINE,
)
async def erase(people: PeopleArg, request: AnyRequest, data: JSONBody[EraseBody]) -> Response[None]:
    """With the password, again."""
    with as_problems():
        await people.people.erase(_user(request), data.password, address_of(request.scope))
    return Response(None, status_code=204, cookies=no_cookies(request.scope))


ROUTES = [
    options, register, login, refresh, logout, request_reset, reset, verify,
    me, set_mail, change_password, sign_out, sessions, end_session, erase,
]  # fmt: skip
