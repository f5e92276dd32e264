"""The certificates that a control plane serves: which they are, whether it may listen as its settings say, and renewal
while it runs. What is new is taken for new connections; those that are open stay.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from infra import certificates
from infra.certificates import OwnFiles, Served
from infra.folder import Folder
from infra.nats_config import Listening
from infra.nats_process import NatsServerError
from infra.settings import Settings
from infra.tls import NO_HOST, TlsError, is_loopback, reached_at

LOOK_S = 1.0
"""How often the files are looked at: what `hivectl tls renew` made, or an operator put there, is served so soon."""
REMIND_S = 3600.0

_log = structlog.get_logger()


def served_by(folder: Folder, settings: Settings) -> Served | None:
    """What a hive serves: the operator's certificate, else its own, renewed when it is time. Raises TlsError."""
    if settings.tls_cert_file:
        ca = Path(settings.tls_ca_file) if settings.tls_ca_file else None
        files = OwnFiles(Path(settings.tls_cert_file), Path(settings.tls_key_file), ca)
        return certificates.adopt(folder, files, time.time())
    return certificates.current(folder, time.time()) if certificates.exist(folder) else None


def check_listeners(settings: Settings, served: Served | None) -> None:
    """Raise TlsError unless everything that leaves this machine is encrypted."""
    make = "make certificates with `hivectl tls init --name HOST`, set `tls_cert_file` and `tls_key_file`"
    if served is None and not settings.behind_proxy and not is_loopback(settings.host):
        raise TlsError(
            f"`host` is {settings.host}: the HTTP API would listen without TLS, and keys could be read on their way; "
            f"{make}, or set `behind_proxy` when a reverse proxy ends TLS and nobody else reaches the API"
        )
    if settings.nats_url or is_loopback(settings.nats_host):
        return
    if served is None:
        raise TlsError(f"`nats_host` is {settings.nats_host}: NATS would listen without TLS; {make}")
    if not settings.nats_public_url and not served.covers(host := worker_host(settings, served)):
        raise TlsError(
            f"workers would be told to reach NATS at {host}, and the certificate is for {', '.join(served.names)}; make "
            f"one with `hivectl tls init --name {host}`, or say with `nats_public_url` where they reach it"
        )


def worker_host(settings: Settings, served: Served) -> str:
    """At which host workers on other machines reach NATS, unless `nats_public_url` says: that of the API."""
    public = urlsplit(settings.public_url).hostname
    host = settings.host if settings.nats_host in NO_HOST else settings.nats_host
    return public or (served.names[0] if host in NO_HOST or is_loopback(host) else host)


def api_host(settings: Settings, served: Served | None) -> str:
    """At which host, as in a URL, other machines reach the API by this hive's certificate; "" where they do not."""
    if served is None or settings.behind_proxy or is_loopback(settings.host):
        return ""
    named = settings.host not in NO_HOST and served.covers(settings.host)
    return reached_at(settings.host if named else served.names[0])


def listening(settings: Settings, served: Served | None) -> Listening:
    """Where and how the embedded nats-server listens: with TLS where others reach it."""
    file = None if served is None or is_loopback(settings.nats_host) else served.file
    return Listening(settings.nats_host, settings.nats_websocket_port, file)


class Keeper:
    """Serves a certificate and sees that it stays good. `context` is for a server, as long as that runs."""

    def __init__(self, folder: Folder, settings: Settings, served: Served) -> None:
        self._folder, self._settings = folder, settings
        self.served = served
        self._now = _context(served)
        self._seen = self._signature()
        self._said, self._said_at = "", 0.0
        self._changed: list[Callable[[], Awaitable[None]]] = []
        self.context = _context(served)
        # Asked at each handshake. Loading another chain into a context that is used would leave one of another kind
        # of key in it beside the new one.
        self.context.sni_callback = self._answer

    def _answer(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._now

    def on_change(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have `callback` called after each change."""
        self._changed.append(callback)

    async def run(self) -> None:
        """Renew in time and take what others renewed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._is_ours_due() or self._signature() != self._seen:
                    await self._take()
            except (TlsError, NatsServerError, OSError) as error:
                # What is served goes on: it is good, or nothing would be better.
                self._complain(str(error))

    def _is_ours_due(self) -> bool:
        return not self.served.own and self.served.due(time.time())

    async def _take(self) -> None:
        if self._is_ours_due():
            await asyncio.to_thread(certificates.renew, self._folder, time.time())
        # Before they are read: what is replaced meanwhile is seen the next time.
        seen = self._signature()
        served = await asyncio.to_thread(served_by, self._folder, self._settings)
        if served is None:
            raise TlsError(f"the certificates in {self._folder.path('tls')} are gone; what was there is served on")
        self._now, self.served = _context(served), served
        for callback in self._changed:
            await callback()
        # Only now: what a server did not take is tried again.
        self._seen = seen
        _log.info("tls.taken", names=list(served.names), ends_s=served.ends_s)

    def _signature(self) -> tuple[tuple[str, int, int, int], ...]:
        """What tells whether a file was replaced."""
        own = (self._settings.tls_cert_file, self._settings.tls_key_file, self._settings.tls_ca_file)
        files = own if own[0] else (str(self.served.file),)
        found = [(name, Path(name).stat()) for name in files if name]
        return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found)

    def _complain(self, why: str) -> None:
        now = time.monotonic()
        if why != self._said or now - self._said_at > REMIND_S:
            self._said, self._said_at = why, now
            _log.error("tls.not_taken", why=why, then="what is served now is served on")


def _context(served: Served) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(served.file)
    return context
