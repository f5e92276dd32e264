"""Certificates for tests, and a server that hears what is said to it."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from infra import certificates
from infra.certificates import Served
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link
from infra.nats_config import Listening
from infra.nats_process import free_port
from infra.nats_server import NatsServer
from infra.tls import Trust

HOST = "127.0.0.1"


def made(root: Path, *names: str, ago_s: float = 0) -> Served:
    """A certificate by an authority of its own in the folder `root`, made so many seconds ago."""
    return certificates.make(Folder(root), names, time.time() - ago_s)


def split(served: Served, to: Path) -> tuple[Path, Path]:
    """The certificate and the key of `served` as two files, as operators have them."""
    text = served.file.read_text()
    start = text.index("-----BEGIN PRIVATE KEY-----")
    to.mkdir(exist_ok=True)
    cert, key = to / "cert.pem", to / "key.pem"
    cert.write_text(text[:start].partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    key.write_text(text[start:])
    return cert, key


def serving_context(served: Served) -> ssl.SSLContext:
    """For a server that serves it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served.file)
    return context


class Ear:
    """A server that says `greeting`, then keeps what it hears."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.heard = bytearray()
        self.met = 0
        self.port = 0
        self._greeting = greeting

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.met += 1
        writer.write(self._greeting)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                self.heard += data
        writer.close()


@contextlib.asynccontextmanager
async def listening_ear(served: Served | None, greeting: bytes = b"") -> AsyncGenerator[Ear]:
    """An Ear, with TLS unless there is no certificate for it."""
    ear = Ear(greeting)
    server = await asyncio.start_server(ear.hear, HOST, 0, ssl=serving_context(served) if served else None)
    ear.port = server.sockets[0].getsockname()[1]
    try:
        yield ear
    finally:
        server.close()


class SafeNats:
    """A nats-server with TLS, over TCP and over WebSocket."""

    def __init__(self, server: NatsServer, served: Served, websocket_port: int) -> None:
        self.server, self.served, self._websocket_port = server, served, websocket_port

    def url(self, scheme: str) -> str:
        """Where it is, by `tls` or `wss`."""
        return f"{scheme}://{HOST}:{self._websocket_port if scheme == 'wss' else self.server.port}"

    @contextlib.asynccontextmanager
    async def linked(self, scheme: str, trust: Trust | None = None, name: str = "test") -> AsyncGenerator[Link]:
        """A link of the platform's user."""
        who: Credential = self.server.authority.platform
        link = await Link.open(self.url(scheme), who, name, trust=trust or self.served.trust, wait_s=5)
        try:
            yield link
        finally:
            await link.close()


@contextlib.asynccontextmanager
async def safe_nats(root: Path, served: Served | None = None, trust: Trust | None = None) -> AsyncGenerator[SafeNats]:
    """A server that runs with `served`, or a certificate made for it. `trust`: of its own tools."""
    served = served or made(root)
    port = free_port(HOST)
    server = NatsServer(Folder(root), listening=Listening(HOST, port, served.file), trust=trust or served.trust)
    await server.start()
    try:
        yield SafeNats(server, served, port)
    finally:
        await server.stop()
