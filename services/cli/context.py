"""What every command shares: where the hive is, its key, how to print; and the options that say so."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from infra.folder import Folder
from services.cli.failure import CODES_HELP, Exit, Failure
from services.cli.output import Mode, Output

if TYPE_CHECKING:
    from infra.tls import Trust
    from web.client import AsyncHive

TRY_S_MAX = 3.0
"""How long a command tries to reach a hive that does not answer: longer than a restart of its nats-server."""

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


class Context:
    """One run of hivectl."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.url = ""
        self.data = ""
        self.debug = False
        self.serving = False
        """Whether this process serves others: a bug in it cannot be had again at will, so its trace back is shown."""

    def folder(self) -> Folder:
        """The data folder meant: --data, HIVE_DATA, the nearest `.hive`, or ~/.hive."""
        return Folder.find(self.data or None)

    def address(self) -> "tuple[str, str, Trust]":
        """URL and key of the hive to talk to, and whom to trust there. Raises Failure or Untrusted.

        The key of the data folder goes only to the hive that runs in that folder, never to another address.
        """
        from services.cli.logins import token_for
        from web.client.address import trust_at

        folder = self.folder()
        running = folder.running()
        local = running.url.rstrip("/") if running else ""
        if not (self.url or local):
            raise _nothing_here(folder, starting=running is not None)
        url, trust = trust_at(self.url or local, folder)
        if not url.startswith(("http://", "https://")):
            raise Failure(f"{url!r} is not the address of a hive", "write it like http://127.0.0.1:8420", Exit.USAGE)
        key = os.environ.get("HIVE_KEY", "").strip() or token_for(url, trust)
        if not key and url == local:
            key = folder.admin_key()
        if not key:
            raise Failure(
                f"no key for {url}",
                f"log in with `hivectl login`, or set HIVE_KEY to an API key; on the machine where it runs, set HIVE_DATA"
                f" to its data folder (looked in {folder.root})",
                Exit.UNAUTHORIZED,
            )
        return url, key, trust

    def client(self) -> "AbstractAsyncContextManager[AsyncHive]":
        """A client of the hive; a context manager."""
        url, key, trust = self.address()
        from web.client import AsyncHive

        return AsyncHive(url, key, try_s=TRY_S_MAX, trust=trust)


def _nothing_here(folder: Folder, starting: bool) -> Failure:
    if starting:
        return Failure(f"the hive in {folder.root} is still starting", "try again in a moment", Exit.UNAVAILABLE)
    return Failure(
        f"no hive runs in {folder.root}, and HIVE_URL is not set",
        "start one with `hivectl up`, or set HIVE_URL and HIVE_KEY to reach another",
        Exit.UNAVAILABLE,
    )


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def set_it(ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
        if value:
            setattr(ctx.ensure_object(Context), name, str(value))
        return value

    return set_it


def _set_mode(mode: Mode) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def set_it(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        output = ctx.ensure_object(Context).output
        if value and output.mode != "text" and output.mode != mode:
            raise click.UsageError("--json and --quiet exclude each other", ctx)
        if value:
            output.mode = mode
        return value

    return set_it


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.ensure_object(Context).debug |= value
    return value


def _flag(name: str, about: str, callback: Callable[[click.Context, click.Parameter, bool], bool]) -> Decorator:
    return click.option(name, is_flag=True, expose_value=False, help=about, callback=callback)


data_option: Decorator = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_remember("data"),
    metavar="DIR",
    help="The data folder [HIVE_DATA; else the nearest .hive, else ~/.hive].",
)
url_option: Decorator = click.option(
    "--url",
    envvar="HIVE_URL",
    expose_value=False,
    callback=_remember("url"),
    metavar="URL",
    help="The hive to talk to [HIVE_URL; else the one running in the data folder]. Its key: HIVE_KEY.",
)
json_option: Decorator = _flag("--json", "Print JSON.", _set_mode("json"))
quiet_option: Decorator = _flag("--quiet", "Print ids and results only.", _set_mode("quiet"))
debug_option: Decorator = _flag("--debug", "Show a trace back when something goes wrong.", _set_debug)


def command(
    name: str, listing: bool = True, remote: bool = True, **settings: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with the options that all of its kind share; it gets the Context first.

    `remote`: it talks to a hive. `listing`: it prints something that --json and --quiet change.
    """

    def wrap(function: Callable[..., Any]) -> click.Command:
        options = [debug_option, data_option]
        options += [quiet_option, json_option] if listing else []
        options += [url_option] if remote else []

        def shared() -> None: ...

        for option in options:
            option(shared)
        own: list[click.Parameter] = getattr(function, "__click_params__", [])
        # click lists options in reverse: these come after the command's own.
        decorated: Any = click.pass_obj(function)
        decorated.__click_params__ = [*getattr(shared, "__click_params__", []), *own]
        return click.command(name, epilog=CODES_HELP, **settings)(decorated)

    return wrap
