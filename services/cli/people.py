"""`login`, `logout`, `me` and `user ...`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import click

from events.account import Limits, Role
from services.accounts.roles import ROLES
from services.cli import format, logins
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure
from services.cli.options import SIZE

if TYPE_CHECKING:
    from web.client import AsyncHive
    from web.client.people import Door
    from web.people_schema import TokensAnswer, UserView

USER_HEADS = ("USER", "NAME", "ROLES", "STATE", "SINCE", "EMAIL")
TRY_S_MAX = 3.0

_stdin: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--password-stdin", "stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)

_human: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--human", default="", metavar="TEXT", envvar="HIVE_HUMAN",
    help="What the check for humans gave, where the hive wants it: it comes from a page, and is good once.",
)  # fmt: skip


def _door(context: Context) -> "Door":
    """The hive meant, whether or not there is a key for it."""
    from web.client.address import trust_at
    from web.client.people import Door

    folder = context.folder()
    running = folder.running()
    named = context.url or (running.url if running else "")
    if not named:
        raise Failure("which hive?", "--url URL, or set HIVE_URL", Exit.USAGE)
    url, trust = trust_at(named, folder)
    return Door(url.rstrip("/"), TRY_S_MAX, trust)


def _password(stdin: bool, what: str = "Password", *, new: bool = False) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Failure("there is no terminal to ask for the password on", "--password-stdin", Exit.USAGE)
    return click.prompt(what, hide_input=True, confirmation_prompt=new, err=True)


# Sessions


@command("login", listing=False)
@click.argument("name", required=False)
@_human
@_stdin
def login(context: Context, name: str | None, human: str, stdin: bool) -> None:
    """Log in at a hive; commands on this machine then act as you.

    HIVE_KEY goes before. The session ends after 30 days without use, or with `hivectl logout`.
    """
    door = _door(context)
    called = name or click.prompt("Name", err=True)
    tokens = asyncio.run(door.log_in(called, _password(stdin), human))
    _keep(door.url, called, tokens)
    context.output.note(f"logged in at {door.url} as {called}")


def _keep(url: str, name: str, tokens: "TokensAnswer") -> None:
    logins.keep(
        url,
        logins.Login(name, tokens.user, tokens.access, tokens.expires_at, tokens.refresh, tokens.refresh_expires_at),
    )


@command("logout", listing=False)
def logout(context: Context) -> None:
    """End the session at a hive."""
    from web.client.errors import Unauthorized

    door = _door(context)
    url = door.url
    known = logins.known().get(url)
    if known is None:
        raise Failure(f"nobody is logged in at {url}", "hivectl login")
    try:
        asyncio.run(door.log_out(known.refresh))
    except Unauthorized:
        context.output.note("the session was over already")
    logins.keep(url, None)
    context.output.note(f"{known.name} is logged out at {url}")


@command("me")
def me(context: Context) -> None:
    """Show who you are at a hive, and what you may do."""
    asyncio.run(_shown(context, lambda hive: hive.people.me()))


async def _shown(context: Context, ask: "Callable[[AsyncHive], Awaitable[UserView]]") -> None:
    async with context.client() as hive:
        found = await ask(hive)
    _show(context, found)


def _show(context: Context, found: "UserView") -> None:
    output = context.output
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        output.line(found.user)
    else:
        limits = [
            f"{getattr(found.limits, name)} {name}" for name in Limits.__struct_fields__ if getattr(found.limits, name)
        ]
        email = f"{found.email} ({'verified' if found.verified else 'not verified'})" if found.email else ""
        output.facts(
            [
                ("user", found.user), ("name", found.name), ("state", found.state), ("roles", ", ".join(found.roles)),
                ("may", ", ".join(found.scopes)), ("email", email), ("limits", ", ".join(limits)),
                ("password", "" if found.has_password else "none: log in with a link from `user reset-link`"),
                ("since", format.clock(found.since)),
            ]
        )  # fmt: skip


# Oneself


@click.group("user")
def user() -> None:
    """Users: register, passwords, and looking after others."""


@command("register", listing=False)
@click.argument("name")
@click.option("--email", default="", help="Where you can be reached.")
@click.option("--invite", default="", help="An invitation, where one is needed.", metavar="TEXT")
@_human
@_stdin
def register(context: Context, name: str, email: str, invite: str, human: str, stdin: bool) -> None:
    """Register at a hive, and log in."""
    door, password = _door(context), _password(stdin, new=True)

    async def both() -> "TokensAnswer":
        await door.register(name, password, email, invite, human)
        return await door.log_in(name, password)

    tokens = asyncio.run(both())
    _keep(door.url, name, tokens)
    context.output.note(f"registered and logged in at {door.url} as {name}")


@command("password", listing=False)
@_stdin
def password(context: Context, stdin: bool) -> None:
    """Change your password; your other sessions end.

    With --password-stdin: the old one on the first line, the new one on the second.
    """
    old = _password(stdin, "Old password")
    new = _password(stdin, "New password", new=True)

    async def change() -> "tuple[str, TokensAnswer]":
        async with context.client() as hive:
            name = (await hive.people.me()).name
            return name, await hive.people.change_password(old, new)

    name, tokens = asyncio.run(change())
    if (url := _door(context).url) in logins.known():
        _keep(url, name, tokens)
    context.output.note("the password is changed; your other sessions are over")


@command("email")
@click.argument("address")
@_stdin
def email(context: Context, address: str, stdin: bool) -> None:
    """Set your e-mail address; "" for none."""
    secret = _password(stdin)
    asyncio.run(_shown(context, lambda hive: hive.people.set_email(address, secret)))


@command("reset-password", listing=False)
@click.argument("token", envvar="HIVE_TOKEN")
@_stdin
def reset_password(context: Context, token: str, stdin: bool) -> None:
    """Set a password with the token of a one-time link."""
    asyncio.run(_door(context).reset(token, _password(stdin, "New password", new=True)))
    context.output.note("the password is set, and every session is over; `hivectl login`")


@command("forgot-password", listing=False)
@click.argument("email")
@_human
def forgot_password(context: Context, email: str, human: str) -> None:
    """Have a link sent that sets a password, where the hive sends mail."""
    asyncio.run(_door(context).request_reset(email, human))
    context.output.note(f"if {email} is a verified address of a user, a mail is on its way")


@command("verify-email", listing=False)
@click.argument("token", envvar="HIVE_TOKEN")
def verify_email(context: Context, token: str) -> None:
    """Show that an address is yours, with the token that was sent there."""
    asyncio.run(_door(context).verify(token))
    context.output.note("the address is verified")


# Others


async def _id_of(hive: "AsyncHive", who: str) -> str:
    """The id of the user who is called so, or has this id."""
    found = await hive.people.named(who)
    return found.user if found is not None else (await hive.people.user(who)).user


def _on(context: Context, who: str, act: "Callable[[AsyncHive, str], Awaitable[object]]", said: str) -> None:
    async def on() -> None:
        async with context.client() as hive:
            done = await act(hive, await _id_of(hive, who))
        if context.output.mode == "json":
            context.output.document(done)
        context.output.note(said)

    asyncio.run(on())


@command("list")
def list_(context: Context) -> None:
    """List users."""
    asyncio.run(_list(context))


async def _list(context: Context) -> None:
    output = context.output
    async with context.client() as hive:
        found = await hive.people.users()
    if output.mode == "json":
        output.document(found)
    elif output.mode == "quiet":
        for one in found:
            output.line(one.user)
    else:
        now = time.time()
        rows = [
            (one.user, one.name, ",".join(one.roles), one.state, format.ago(one.since, now), one.email) for one in found
        ]
        output.table(USER_HEADS, rows, state=3)


@command("show")
@click.argument("who")
def show(context: Context, who: str) -> None:
    """Show a user, by name or id."""

    async def found(hive: "AsyncHive") -> "UserView":
        return await hive.people.named(who) or await hive.people.user(who)

    asyncio.run(_shown(context, found))


@command("roles")
@click.argument("who")
@click.argument("roles", nargs=-1, required=True, type=click.Choice(ROLES))
def roles(context: Context, who: str, roles: tuple[str, ...]) -> None:
    """Give a user these roles, and no others."""
    wanted = cast("list[Role]", [*roles])
    _on(context, who, lambda hive, user: hive.people.set_roles(user, wanted), f"{who} is {', '.join(roles)} now")


@command("limits")
@click.argument("who")
@click.option("--requests-per-min", type=click.IntRange(0), default=0, help="Requests in a minute.")
@click.option("--open-jobs", type=click.IntRange(0), default=0, help="Jobs that have not ended.")
@click.option("--queued-tasks", type=click.IntRange(0), default=0, help="Tasks that wait.")
@click.option("--upload", type=SIZE, default=0, help="Size of one upload, such as 2GiB.")
def limits(context: Context, who: str, requests_per_min: int, open_jobs: int, queued_tasks: int, upload: int) -> None:
    """Set a user's own limits; what is not given, or 0, is as everybody's."""
    wanted = Limits(requests_per_min, open_jobs, queued_tasks, upload)
    _on(context, who, lambda hive, user: hive.people.set_limits(user, wanted), f"the limits of {who} are set")


@command("suspend")
@click.argument("who")
def suspend(context: Context, who: str) -> None:
    """Let a user do nothing until resumed; its jobs go on."""
    _on(context, who, lambda hive, user: hive.people.suspend(user), f"{who} is suspended")


@command("resume")
@click.argument("who")
def resume(context: Context, who: str) -> None:
    """Let a suspended user act again."""
    _on(context, who, lambda hive, user: hive.people.resume(user), f"{who} may act again")


@command("sign-out")
@click.argument("who", required=False)
def sign_out(context: Context, who: str | None) -> None:
    """End all sessions: a user's, or without WHO your own. API keys stay."""
    if who is not None:
        _on(context, who, lambda hive, user: hive.people.sign_out_user(user), f"{who} is signed out everywhere")
        return

    async def mine() -> None:
        async with context.client() as hive:
            await hive.people.sign_out()

    asyncio.run(mine())
    logins.keep(_door(context).url, None)
    context.output.note("you are signed out everywhere")


@command("reset-link")
@click.argument("who")
def reset_link(context: Context, who: str) -> None:
    """Make a token with which a user sets a password, once, within a day. Give it to the user alone."""

    async def made() -> None:
        async with context.client() as hive:
            link = await hive.people.reset_link(await _id_of(hive, who))
        if context.output.mode == "json":
            context.output.document(link)
            return
        context.output.line(link.token)
        context.output.note(f"{who} sets a password with `hivectl user reset-password {link.token[:9]}...`")

    asyncio.run(made())


@command("erase")
@click.argument("who")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(context: Context, who: str, yes: bool) -> None:
    """Erase a user for good: what it typed becomes unreadable, its keys and workers are let go."""
    if not yes:
        click.confirm(f"Erase {who}? This cannot be undone", abort=True, err=True)
    _on(context, who, lambda hive, user: hive.people.erase_user(user), f"{who} is erased")


for _one in (
    register, password, email, reset_password, forgot_password, verify_email, list_, show, roles, limits, suspend,
    resume, sign_out, reset_link, erase,
):  # fmt: skip
    user.add_command(_one)


COMMANDS = {"login": login, "logout": logout, "me": me, "user": user}
