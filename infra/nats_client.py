"""One connection to NATS, a typed façade over nats-py that never comes back: `Link` makes another instead.

nats-py's own reconnecting is switched off. It gives up for good on some errors, sends what was published meanwhile
long after its caller gave up, and cannot be told apart from a slow server; one way of coming back is enough.

Messages take the short way, each without a task of its own: one is written to the socket in the call that sends it
(the event loop joins what is written in one of its turns), and handed to its callback where the parser finds it.
Between nats-py's queues, each message would wait twice for its turn: a quarter of the time a job takes.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client as NatsPy

from infra.credential import BadCredential, Credential
from infra.nats_websocket import WebSocket
from infra.nkey import Signer
from infra.tls import TlsError, Trust, doubt

CONNECT_S = 3
PING_INTERVAL_S = 5
PINGS_UNANSWERED_MAX = 2
"""A server that stops answering without closing is noticed within 15 s."""
CLOSE_S = 1.0
FLUSH_S = 3
HEADERS_LINE = b"NATS/1.0"
DESCRIPTION = "Description"
NO_CREDENTIAL = "there is no credential yet"


class Received(NamedTuple):
    """A message as it arrived. `status` is NATS' own word, such as 503 (nobody listens); 0 on ordinary messages. Why is
    in the header Description.
    """

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None
    status: int


class NatsError(Exception):
    """The connection failed; the text is the server's or the system's."""


class _NatsPy(NatsPy):
    """nats-py's connection, with callbacks called as messages are parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: dict[int, Callable[[Received], None]] = {}

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        callback = self.callbacks.get(sid)
        if callback is not None:
            found, status = _headers_of(headers) if headers else (None, 0)
            callback(Received(subject.decode(), reply.decode(), data, found, status))


def _headers_of(block: bytes) -> tuple[dict[str, str] | None, int]:
    """Headers, and the status if they begin with one: `NATS/1.0[ STATUS[ DESCRIPTION]]`, then `Name: value` lines."""
    first, *lines = block.decode("utf-8", "replace").rstrip("\r\n").split("\r\n")
    found: dict[str, str] = {}
    status, _, why = first.removeprefix(HEADERS_LINE.decode()).strip().partition(" ")
    if why:
        found[DESCRIPTION] = why
    for line in lines:
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found or None, int(status) if status.isdecimal() else 0


class NatsClient:
    """A connection. `closed` is set once, at the first sign of trouble, and then it is of no more use."""

    def __init__(self, on_trouble: Callable[[Exception], None]) -> None:
        self._on_trouble = on_trouble
        self._nats: Any = _NatsPy()
        self._socket: Any = None
        self._subscribed = 0
        self.closed = asyncio.Event()

    async def connect(self, url: str, credential: Credential, name: str, trust: Trust) -> None:
        """Connect to `url` (or one of several of a kind, comma between) and authenticate. Raises NatsError.

        With tls:// and wss:// nothing is said before the server has proved to be one that is trusted.
        """
        options, last = _who(credential) | _safe(url, trust), list[Exception]()
        if is_web(url):
            self._nats._transport = WebSocket()  # noqa: SLF001 - nats-py would make one of its own

        async def on_error(error: Exception) -> None:
            last.append(error)
            self._noticed(error)

        try:
            async with asyncio.timeout(CONNECT_S + 1):
                await self._nats.connect(
                    [server.strip() for server in url.split(",")],
                    name=name,
                    **options,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_S,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=PINGS_UNANSWERED_MAX,
                    error_cb=on_error,
                    closed_cb=self._on_closed,
                )
        except Exception as error:
            await self.close()
            raise NatsError(error_text(last[-1] if last else error)) from error
        transport: Any = self._nats._transport  # noqa: SLF001 - nats-py writes through a queue only
        if "tls" in options and not isinstance(transport, WebSocket):
            # What upgraded the connection did not tell this one, which warns of it at each end.
            transport._io_writer.transport.get_protocol()._over_ssl = True  # noqa: SLF001 - there is no argument for it
        self._socket = transport if isinstance(transport, WebSocket) else transport._io_writer.transport  # noqa: SLF001 - as above

    async def _on_closed(self) -> None:
        self.closed.set()
        if (why := self._nats.last_error) is not None:
            self._on_trouble(why)

    def _noticed(self, error: Exception) -> None:
        # nats-py may hang or fail between seeing the end of the stream and calling `closed_cb`.
        if isinstance(error, (nats.errors.UnexpectedEOF, nats.errors.StaleConnectionError, OSError)):
            self.closed.set()
        self._on_trouble(error)

    @property
    def usable(self) -> bool:
        """Whether nats-py holds the connection for good."""
        return bool(self._nats.is_connected) and not self.closed.is_set()

    @property
    def server_id(self) -> str:
        """The id of the server at the other end."""
        info: dict[str, Any] = self._nats._server_info  # noqa: SLF001 - nats-py has no public name for it
        return str(info.get("server_id", ""))

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken yet."""
        return self._socket.get_write_buffer_size()

    def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Send, without waiting. The caller sees to it that `unsent` stays bounded and that subjects are subjects."""
        if headers is None:
            line = b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(data), data)
        else:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            block = b"%s\r\n%s\r\n" % (HEADERS_LINE, lines.encode())
            sizes = len(block), len(block) + len(data)
            line = b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), reply.encode(), *sizes, block, data)
        self._write(line)

    def _write(self, line: bytes) -> None:
        """Write; over a connection that has just ended, into nothing: who waits for an answer is told at once."""
        try:
            self._socket.write(line)
        except RuntimeError:  # uvloop's, when nobody has told us yet that the socket is closed
            self.closed.set()

    async def drained(self) -> None:
        """Wait while much is unsent. Raises NatsError."""
        try:
            await self._nats._transport.drain()  # noqa: SLF001 - nats-py drains in its own queue only
        except OSError as error:
            raise NatsError(error_text(error)) from error

    def subscribe(self, subject: str, callback: Callable[[Received], None]) -> int:
        """Call back for each message on `subject`, in order; a number for `unsubscribe`. In force after a `flush`."""
        # Written like messages: nats-py would let the flush's PING overtake it.
        self._subscribed += 1
        self._nats.callbacks[self._subscribed] = callback
        self._write(b"SUB %s %d\r\n" % (subject.encode(), self._subscribed))
        return self._subscribed

    def unsubscribe(self, number: int) -> None:
        """End a subscription; harmless when it or the connection is over."""
        if self._nats.callbacks.pop(number, None) is not None:
            self._write(b"UNSUB %d\r\n" % number)

    async def flush(self) -> None:
        """Return once the server has dealt with everything sent so far. Raises NatsError."""
        try:
            await self._nats.flush(FLUSH_S)
        except (nats.errors.Error, OSError, RuntimeError) as error:  # the last is uvloop's word for a closed transport
            raise NatsError(error_text(error)) from error

    async def close(self) -> None:
        """Hang up, within a second whatever the other end does."""
        self.closed.set()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await self._nats.close()
        # close() waits for unsent bytes, or does nothing after its own failure: the socket must go all the same.
        transport: Any = self._nats._transport  # noqa: SLF001 - nats-py has no abort
        if isinstance(transport, WebSocket):
            await transport.abort()
        elif (writer := getattr(transport, "_io_writer", None)) is not None:
            writer.transport.abort()


def _who(credential: Credential) -> dict[str, Any]:
    """How nats-py is told who connects. Raises NatsError."""
    if credential.jwt is None:
        return {"nkeys_seed_str": credential.seed}
    try:
        jwt = credential.jwt()
    except BadCredential as error:
        raise NatsError(str(error)) from error
    if not jwt:
        raise NatsError(NO_CREDENTIAL)
    signer = Signer(credential.seed)

    def signature(nonce: str) -> bytes:
        return base64.b64encode(signer.sign(nonce.encode()))

    return {"user_jwt_cb": jwt.encode, "signature_cb": signature}


def is_web(url: str) -> bool:
    """Whether it is of NATS over WebSocket."""
    return url.strip().startswith(("ws://", "wss://"))


def _safe(url: str, trust: Trust) -> dict[str, Any]:
    """How nats-py is told to use TLS. Raises NatsError."""
    if not any(server.strip().startswith(("tls://", "wss://")) for server in url.split(",")):
        return {}
    try:
        # From the first byte: nats-py would believe a server that says, unencrypted, that it has no TLS.
        return {"tls": trust.context(), "tls_handshake_first": True}
    except TlsError as error:
        raise NatsError(str(error)) from error


def error_text(error: Exception) -> str:
    """What a nats-py error says, in plain words."""
    if doubted := doubt(error):
        return doubted
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
