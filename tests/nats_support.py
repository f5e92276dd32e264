"""Real nats-servers for tests, each in its own folder on its own port."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from infra import nkey, streams
from infra.folder import Folder
from infra.link import Link
from infra.nats_server import NatsServer

WAIT_S = 20.0


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
    link = await Link.open(server.url, server.platform_seed, name)
    try:
        if make_streams:
            await streams.ensure(link)
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def worker_linked(server: NatsServer) -> AsyncGenerator[tuple[str, Link]]:
    """A new worker's id and its link."""
    seed = nkey.new_user_seed()
    public_key = nkey.public_of(seed)
    worker_id = nkey.worker_id_of(public_key)
    await server.add_worker(worker_id, public_key)
    link = await Link.open(server.url, seed, worker_id, f"_INBOX_{worker_id}")
    try:
        yield worker_id, link
    finally:
        await link.close()


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
