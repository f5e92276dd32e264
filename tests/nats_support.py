"""Real nats-servers for tests, each in its own folder on its own port."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from infra import nkey, streams
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link, LinkDown
from infra.nats_server import NatsServer

WAIT_S = 20.0


class Who(NamedTuple):
    """A worker as it knows itself."""

    id: str
    seed: str
    key: str

    def with_jwt(self, jwt: str) -> Credential:
        """Its credential."""
        return Credential(self.seed, lambda: jwt)


def new_worker() -> Who:
    """One with a key of its own."""
    seed = nkey.new_user_seed()
    key = nkey.public_of(seed)
    return Who(nkey.worker_id_of(key), seed, key)


@contextlib.asynccontextmanager
async def serving(root: Path, *, sync_always: bool = True) -> AsyncGenerator[NatsServer]:
    """A server that runs, and is gone afterwards whatever happened to it."""
    server = NatsServer(Folder(root), sync_always=sync_always)
    await server.start()
    try:
        yield server
    finally:
        if server.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
        await server.stop()


@contextlib.asynccontextmanager
async def linked(server: NatsServer, name: str = "test", *, make_streams: bool = False) -> AsyncGenerator[Link]:
    """A link of the platform's user."""
    link = await Link.open(server.url, server.authority.platform, name)
    try:
        if make_streams:
            await streams.ensure(link)
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def worker_linked(server: NatsServer) -> AsyncGenerator[tuple[str, Link]]:
    """A new worker's id and its link."""
    who = new_worker()
    jwt = server.admit(who.id, who.key, "default")
    link = await Link.open(server.url, who.with_jwt(jwt), who.id, f"_INBOX_{who.id}")
    try:
        yield who.id, link
    finally:
        await link.close()


async def is_refused(server: NatsServer, credential: Credential) -> bool:
    """Whether this server refuses this credential for good."""
    try:
        link = await Link.open(server.url, credential, "refused?")
    except LinkDown as error:
        return "authorization violation" in str(error).lower()
    await link.close()
    return False


def write_creds(path: Path, who: Credential) -> str:
    """A .creds file with what `who` is now; its path."""
    assert who.jwt is not None
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{who.jwt()}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{who.seed}\n------END USER NKEY SEED------\n"
    )
    return str(path)


async def until(fact: Callable[[], bool], what: str) -> None:
    """Return once `fact()` holds; fail naming it after WAIT_S."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not fact():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def eventually(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    """As `until`, for a fact that must be asked for."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not await fact():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)
