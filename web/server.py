"""uvicorn inside our own event loop: it leaves signals alone, says who holds a port, and stops in bounded time."""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Generator, Sequence
from typing import Any, cast

import psutil
import uvicorn
from litestar import Litestar

from web.stream import closing_of
from web.unread import ReadsOut

STOP_S_MAX = 3.0
KEEP_ALIVE_S = 75
BACKLOG = 2048


class PortTaken(Exception):
    """The address cannot be listened on; the text says why and what to do."""


class _Uvicorn(uvicorn.Server):
    """Without signal handlers of its own; says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the composition root's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.up.set()


class Server:
    """Serves `app` on `host` and `port` (0: any free one), with TLS when there is a context for it. What the proxies say
    (addresses or networks) of where a request came from is believed, and nobody else.
    """

    def __init__(
        self, app: Litestar, host: str, port: int, tls: ssl.SSLContext | None = None, proxies: Sequence[str] = ()
    ) -> None:
        self._app, self._host, self.port = app, host, port
        self._tls, self._proxies = tls, [*proxies]
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    def _context(self, *_: object) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls

    async def start(self) -> None:
        """Listen; `port` is the real one afterwards. Raises PortTaken."""
        listener = _listen(self._host, self.port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            cast(Any, ReadsOut(self._app)),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_context_factory=self._context if self._tls else None,
            # Its default believes every program on this machine.
            proxy_headers=bool(self._proxies),
            forwarded_allow_ips=self._proxies,
        )
        self._server = _Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait((up, self._serving), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Take nothing new, finish what is open, end streams; after STOP_S_MAX cut off what is left."""
        if self._server is None or self._serving is None:
            return
        closing_of(self._app).event.set()
        self._server.should_exit = True
        done, _ = await asyncio.wait((self._serving,), timeout=STOP_S_MAX)
        if not done:
            self._server.force_exit = True
            await asyncio.wait((self._serving,), timeout=STOP_S_MAX)
            self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._server = self._serving = None


def check_free(host: str, port: int) -> None:
    """Whether it can be listened on, before anything is started for it. Raises PortTaken."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortTaken(f"cannot listen on {host!r}: {error}; set another host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(_why(host, port, error)) from None
    listener.setblocking(False)
    return listener


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken{_owner(port)}; stop that, or choose another with --port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights than this user has; choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host or --port"


def _owner(port: int) -> str:
    """` by <program> (process <pid>)`, when that can be seen."""
    tools: Any = psutil
    with contextlib.suppress(Exception):
        for connection in tools.net_connections("tcp"):
            if connection.laddr.port == port and connection.status == tools.CONN_LISTEN and connection.pid:
                return f" by {tools.Process(connection.pid).name()} (process {connection.pid})"
    return ""
