"""Who is logged in at which hive, on this machine: a 0600 file in the user's configuration folder.

An access token is good for a quarter of an hour; `token_for` gets the next one when it is nearly over. Two commands that
do so at once take turns, since a refresh token is good once.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from infra.folder import make_private, write_atomic
from services.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from infra.tls import Trust

REFRESH_EARLY_MS = 60_000
TRY_S_MAX = 3.0

T = TypeVar("T")


class Login(msgspec.Struct, frozen=True):
    """A session at one hive. Times in ms since 1970."""

    name: str
    user: str
    access: str
    expires_at: int
    refresh: str
    refresh_expires_at: int


_logins_of = msgspec.json.Decoder(dict[str, Login]).decode


def file() -> Path:
    """Where logins are kept."""
    return Path(click.get_app_dir("hive")) / "logins.json"


def known() -> dict[str, Login]:
    """The logins by the hive's URL; none where the file cannot be read."""
    try:
        return _logins_of(file().read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}


def keep(url: str, login: Login | None) -> None:
    """Remember a login at `url`; None: forget it."""
    with _alone():
        _keep(url, login)


def _keep(url: str, login: Login | None) -> None:
    logins = {name: one for name, one in known().items() if name != url}
    if login is not None:
        logins[url] = login
    write_atomic(file(), msgspec.json.encode(logins))


@contextlib.contextmanager
def _alone() -> Generator[None]:
    """One process at a time."""
    folder = make_private(file().parent)
    handle = os.open(folder / "logins.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def token_for(url: str, trust: "Trust | None" = None) -> str:
    """An access token for the hive at `url`, trusted as `trust` says, that is good for a while, "" where nobody is logged in there. Raises Failure
    when the session is over, HiveError when the hive cannot be asked.
    """
    url = url.rstrip("/")
    login = known().get(url)
    if login is None:
        return ""
    if _fresh(login):
        return login.access
    with _alone():
        login = known().get(url)  # another command may have been quicker
        if login is None or _fresh(login):
            return login.access if login else ""
        return _refresh(url, login, trust)


def _fresh(login: Login) -> bool:
    return time.time() * 1000 < login.expires_at - REFRESH_EARLY_MS


def _refresh(url: str, login: Login, trust: "Trust | None") -> str:
    from web.client.errors import Unauthorized
    from web.client.people import Door

    try:
        tokens = apart(Door(url, TRY_S_MAX, trust).refresh(login.refresh))
    except Unauthorized as error:
        _keep(url, None)
        raise Failure(
            f"the session of {login.name} at {url} is over: {error.detail}", "hivectl login", Exit.UNAUTHORIZED
        ) from error
    _keep(
        url, Login(login.name, login.user, tokens.access, tokens.expires_at, tokens.refresh, tokens.refresh_expires_at)
    )
    return tokens.access


def apart(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
