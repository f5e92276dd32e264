"""NATS over WebSocket, as nats-py's own transport, and written to like a socket.

nats-py's keeps what is written until somebody drains it, and sends each piece as a frame. This one sends by itself in
the next turn of the event loop, all that waits as one frame, so that a message takes no longer way than over TCP.
"""

import asyncio
import contextlib
from typing import Any

from nats.aio.transport import WebSocketTransport

FRAME_BYTES_MAX = 1024 * 1024
ABORT_S = 1.0


class WebSocket(WebSocketTransport):
    """What is written goes out in order. After a failure the connection ends, which its reader notices."""

    _ws: Any
    _client: Any

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._unsent = 0
        self._sending: asyncio.Task[None] | None = None

    def write(self, payload: bytes) -> None:
        """Send, without waiting."""
        self._parts.append(payload)
        self._unsent += len(payload)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    def get_write_buffer_size(self) -> int:
        """Bytes that are not on their way yet."""
        return self._unsent

    async def _send(self) -> None:
        connection = self._ws
        try:
            while self._parts:
                size = taken = 0
                while taken < len(self._parts) and size < FRAME_BYTES_MAX:
                    size += len(self._parts[taken])
                    taken += 1
                frame = b"".join(self._parts[:taken])
                del self._parts[:taken]
                await connection.send_bytes(frame)
                self._unsent -= size
        except (OSError, RuntimeError):
            # The reader sees that it is closed, and says so; nobody waits for this task.
            self._parts.clear()
            self._unsent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ABORT_S):
                    await connection.close()

    async def drain(self) -> None:
        """Wait until all is sent."""
        while self._sending is not None and not self._sending.done():
            await asyncio.shield(self._sending)

    async def abort(self) -> None:
        """End it, and what it holds, now."""
        if self._sending is not None:
            self._sending.cancel()
        if self._client is not None:
            await self._client.close()
