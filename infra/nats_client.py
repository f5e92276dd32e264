"""One connection to NATS, a typed façade over nats-py that never comes back: `Link` makes another instead.

nats-py's own reconnecting is switched off. It gives up for good on some errors, sends what was published meanwhile
long after its caller gave up, and cannot be told apart from a slow server; one way of coming back is enough.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client as NatsPy

CONNECT_S = 3
PING_INTERVAL_S = 5
PINGS_UNANSWERED_MAX = 2
"""A server that stops answering without closing is noticed within 15 s."""
CLOSE_S = 1.0
FLUSH_S = 3
PENDING_MESSAGES_MAX = 1_000_000
PENDING_BYTES_MAX = 256 * 1024 * 1024
"""What one subscription may have waiting. Callbacks never await, so in practice a few reads from the socket."""
STATUS = "Status"


class Received(NamedTuple):
    """A message as it arrived. `status` is NATS' own word, such as 503 (nobody listens); 0 on ordinary messages."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None
    status: int


class NatsError(Exception):
    """The connection failed; the text is the server's or the system's."""


class NatsClient:
    """A connection. `closed` is set once, at the first sign of trouble, and then it is of no more use."""

    def __init__(self, on_trouble: Callable[[Exception], None]) -> None:
        self._on_trouble = on_trouble
        self._nats: Any = NatsPy()
        self.closed = asyncio.Event()

    async def connect(self, url: str, seed: str, name: str) -> None:
        """Connect to `url` (or one of several, comma between) and authenticate. Raises NatsError."""
        last: list[Exception] = []

        async def on_error(error: Exception) -> None:
            last.append(error)
            self._noticed(error)

        try:
            async with asyncio.timeout(CONNECT_S + 1):
                await self._nats.connect(
                    [server.strip() for server in url.split(",")],
                    name=name,
                    nkeys_seed_str=seed,
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

    async def _on_closed(self) -> None:
        self.closed.set()

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

    async def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Send; waits only while the socket's buffer is full. Raises NatsError."""
        try:
            await self._nats.publish(subject, data, reply, headers)
        except (nats.errors.Error, OSError) as error:
            raise NatsError(error_text(error)) from error

    async def subscribe(self, subject: str, callback: Callable[[Received], None]) -> Any:
        """Call back for each message on `subject`, in order; a handle for `unsubscribe`. Raises NatsError."""

        async def deliver(message: Any) -> None:
            headers: dict[str, str] | None = message.headers
            status = int(headers.get(STATUS, 0)) if headers else 0
            callback(Received(message.subject, message.reply, message.data, headers, status))

        try:
            return await self._nats.subscribe(
                subject,
                cb=deliver,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        except (nats.errors.Error, OSError) as error:
            raise NatsError(error_text(error)) from error

    async def unsubscribe(self, handle: Any) -> None:
        """End a subscription; harmless when it or the connection is over."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await handle.unsubscribe()

    async def flush(self) -> None:
        """Return once the server has dealt with everything sent so far. Raises NatsError."""
        try:
            await self._nats.flush(FLUSH_S)
        except (nats.errors.Error, OSError) as error:
            raise NatsError(error_text(error)) from error

    async def close(self) -> None:
        """Hang up, within a second whatever the other end does."""
        self.closed.set()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_S):
                await self._nats.close()
        # close() waits for unsent bytes, or does nothing after its own failure: the socket must go all the same.
        transport: Any = self._nats._transport  # noqa: SLF001 - nats-py has no abort
        writer: Any = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def error_text(error: Exception) -> str:
    """What a nats-py error says, in plain words."""
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
