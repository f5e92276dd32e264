"""Users, for those who look after them: list, show, roles, limits, suspend, erase; and invitations."""

import time
from typing import Literal

from litestar import delete, get, post, put
from litestar.params import FromPath, FromQuery, JSONBody

from events.account import Limits
from infra.identity_store import UserRow
from projections.access import Invite
from services.accounts import commands
from services.accounts.commands import Erase, RevokeInvite, SetLimits, SetRoles, Stand
from services.accounts.hosted import PeopleHost
from services.accounts.keys import digest_of, id_of, new_text
from web import schema
from web.administer import administer, record
from web.caller import caller_of
from web.core import Core
from web.params import LIMIT, CoreArg, Limit, problems
from web.people import PeopleArg, as_problems, view_of
from web.people_schema import (
    InviteBody,
    InvitesAnswer,
    InviteView,
    LimitsBody,
    LinkAnswer,
    NewInvite,
    RolesBody,
    UsersAnswer,
    UserView,
)
from web.problems import AnyRequest, not_found

READ = ("users:read", "users:all")
ALL = "users:all"
BODY_BYTES_MAX = 16 * 1024
INVITES_MAX = 1000


def _now() -> int:
    return time.time_ns() // 1_000_000


def _view(people: PeopleHost, request: AnyRequest, row: UserRow) -> UserView:
    return view_of(people.people.profile_of(row), mail=caller_of(request).may(ALL))


@get("/v1/users", needs=READ, summary="List users", responses=problems())
async def list_users(
    people: PeopleArg, request: AnyRequest, name: FromQuery[str] = "", after: FromQuery[str] = "", limit: Limit = LIMIT
) -> UsersAnswer:
    """Everybody, or with `name` the one who is called so."""
    if name:
        found = await people.people.found(name)
        return UsersAnswer([_view(people, request, found)] if found else [], None)
    rows = await people.store.users(after, limit)
    return UsersAnswer([_view(people, request, row) for row in rows], rows[-1].user if len(rows) == limit else None)


@get("/v1/users/{user:str}", needs=READ, summary="Show a user", responses=problems(404))
async def show_user(people: PeopleArg, request: AnyRequest, user: FromPath[str]) -> UserView:
    """By id."""
    with as_problems():
        profile = await people.people.profile(user)
    return view_of(profile, mail=caller_of(request).may(ALL))


@put(
    "/v1/users/{user:str}/roles",
    needs=ALL,
    summary="Set a user's roles",
    responses=problems(404, 409, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def set_roles(core: CoreArg, request: AnyRequest, user: FromPath[str], data: JSONBody[RolesBody]) -> schema.Done:
    """These, and no others; keys may do no more from now on."""
    return await administer(core, caller_of(request), SetRoles(user, data.roles), "user.roles", user)


@put(
    "/v1/users/{user:str}/limits",
    needs=ALL,
    summary="Set a user's limits",
    responses=problems(404, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def set_limits(
    core: CoreArg, request: AnyRequest, user: FromPath[str], data: JSONBody[LimitsBody]
) -> schema.Done:
    """Its own, in place of everybody's."""
    limits = Limits(data.requests_per_min, data.open_jobs, data.queued_tasks, data.upload_bytes)
    return await administer(core, caller_of(request), SetLimits(user, limits), "user.limits", user)


async def _stand(
    core: Core, request: AnyRequest, user: str, how: Literal["suspended", "resumed", "signed_out"]
) -> schema.Done:
    return await administer(core, caller_of(request), Stand(user, how), f"user.{how}", user)


@post(
    "/v1/users/{user:str}/suspend",
    needs=ALL,
    status_code=200,
    summary="Suspend a user",
    responses=problems(404, 409),
)
async def suspend(core: CoreArg, request: AnyRequest, user: FromPath[str]) -> schema.Done:
    """Keys and sessions open nothing until the user is resumed; its jobs go on."""
    return await _stand(core, request, user, "suspended")


@post("/v1/users/{user:str}/resume", needs=ALL, status_code=200, summary="Resume a user", responses=problems(404))
async def resume(core: CoreArg, request: AnyRequest, user: FromPath[str]) -> schema.Done:
    """Let a suspended user act again."""
    return await _stand(core, request, user, "resumed")


@post(
    "/v1/users/{user:str}/sign-out",
    needs=ALL,
    status_code=200,
    summary="End a user's sessions",
    responses=problems(404),
)
async def sign_out_user(core: CoreArg, request: AnyRequest, user: FromPath[str]) -> schema.Done:
    """All of them, everywhere; API keys stay."""
    return await _stand(core, request, user, "signed_out")


@post(
    "/v1/users/{user:str}/reset-link",
    needs=ALL,
    summary="Make a link that sets a user's password",
    description="Good once, for a day; one made before is void. Give it to the user alone.",
    responses=problems(404),
)
async def reset_link(core: CoreArg, people: PeopleArg, request: AnyRequest, user: FromPath[str]) -> LinkAnswer:
    """For a hive that sends no mail, or a user who has no address."""
    with as_problems():
        await people.people.profile(user)
        await record(core, caller_of(request), "user.reset_link", user)
        token, expires = await people.mails.new_link(user, "reset")
    return LinkAnswer(token, expires)


@delete("/v1/users/{user:str}", needs=ALL, status_code=200, summary="Erase a user", responses=problems(404, 409))
async def erase_user(core: CoreArg, people: PeopleArg, request: AnyRequest, user: FromPath[str]) -> schema.Done:
    """For good: what the user typed becomes unreadable, and every count and balance stays as it is."""
    done = await administer(core, caller_of(request), Erase(user), "user.erase", user)
    await people.people.finish_erasing(user)
    return done


# Invitations


def _invite_view(name: str, invite: Invite, now: int) -> InviteView:
    state = (
        "revoked" if invite.revoked
        else "used" if invite.used >= invite.uses
        else "live" if invite.live(now)
        else "expired"
    )  # fmt: skip
    return InviteView(
        name, invite.by, [*invite.roles], invite.uses, invite.used, invite.since, invite.expires_at, state
    )


@post(
    "/v1/invites",
    needs=ALL,
    summary="Invite people",
    responses=problems(409, 413, 422),
    request_max_body_size=BODY_BYTES_MAX,
)
async def make_invite(core: CoreArg, request: AnyRequest, data: JSONBody[InviteBody]) -> NewInvite:
    """Its text is in this answer and nowhere else."""
    caller, text = caller_of(request), new_text("hivi")
    digest = digest_of(text)
    command = commands.Invite(
        id_of("i", digest), caller.user, digest, data.roles, data.uses, _now() + data.expires_in * 1000
    )
    await administer(core, caller, command, "invite.issue", command.invite)
    return NewInvite(text, _invite_view(command.invite, core.access.state.invites[command.invite], _now()))


@get("/v1/invites", needs=READ, summary="List invitations", responses=problems())
async def list_invites(core: CoreArg) -> InvitesAnswer:
    """The newest that were not revoked."""
    now, known = _now(), core.access.state.invites
    newest = [*known.items()][-INVITES_MAX:]
    return InvitesAnswer([_invite_view(name, invite, now) for name, invite in newest if not invite.revoked])


@delete(
    "/v1/invites/{invite:str}",
    needs=ALL,
    status_code=200,
    summary="Revoke an invitation",
    responses=problems(404),
)
async def revoke_invite(core: CoreArg, request: AnyRequest, invite: FromPath[str]) -> schema.Done:
    """Nobody registers with it any more."""
    if invite not in core.access.state.invites:
        raise not_found("invitation", invite, "list them with GET /v1/invites")
    return await administer(core, caller_of(request), RevokeInvite(invite), "invite.revoke", invite)


ROUTES = [
    list_users, show_user, set_roles, set_limits, suspend, resume, sign_out_user, reset_link, erase_user,
    make_invite, list_invites, revoke_invite,
]  # fmt: skip
