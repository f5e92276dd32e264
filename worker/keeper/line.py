"""Connections to a keeper."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Protocol, cast

from worker.keeper import wire

SOCKET = "keeper.sock"
LEAVE_S = 5.0


class Listens(Protocol):
    """Who is told what a keeper says."""

    def hear(self, words: list[wire.Word]) -> None:
        """It says this."""
        ...

    def lost(self) -> None:
        """It hung up."""
        ...


class Line(asyncio.Protocol):
    """One connection to a keeper."""

    def __init__(self, client: Listens) -> None:
        self._client, self._frames = client, wire.Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._client.hear(wire.words_of(frame))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._client.lost()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up; nothing is told of it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


def end_keeper(folder: Path) -> None:
    """End the keeper of the worker whose state is in `folder`, with all that it keeps, if there is one. Blocks until it has
    gone, for a few seconds at most.
    """
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = connected(f"/proc/self/fd/{at}/{SOCKET}")
    finally:
        os.close(at)
    if found is not None:
        with found, contextlib.suppress(OSError):
            found.settimeout(LEAVE_S)
            found.sendall(wire.frame([wire.Leave()]))
            while found.recv(4096):
                pass


def connected(path: str) -> socket.socket | None:
    """A connection to whoever listens there."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.connect(path)
    except OSError:
        found.close()
        return None
    found.setblocking(False)
    return found
