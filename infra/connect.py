"""Connections to the NATS that the settings name: the embedded one of a data folder, or an external one."""

from pathlib import Path
from urllib.parse import urlsplit

from infra import certificates
from infra.credential import BadCredential, Credential, from_file
from infra.folder import Folder
from infra.link import Link
from infra.nats_authority import Authority
from infra.settings import Settings
from infra.tls import TlsError, Trust, is_loopback, reached_at, read_ca


class NoServer(Exception):
    """There is no NATS to connect to; the text says why and what to do."""


def embedded_url(folder: Folder, settings: Settings) -> str:
    """Where the embedded nats-server of `folder` listens. Raises NoServer when it was never started."""
    try:
        return embedded_at(settings, int(folder.path("nats", "port").read_text()))
    except (OSError, ValueError):
        raise NoServer(f"no nats-server was ever started in {folder.root}; start it with `hivectl up`") from None


def embedded_at(settings: Settings, port: int) -> str:
    """At which URL this machine reaches the embedded nats-server that listens on `port`."""
    return f"{'nats' if is_loopback(settings.nats_host) else 'tls'}://{reached_at(settings.nats_host)}:{port}"


async def open_platform(folder: Folder, settings: Settings, name: str, wait_s: float | None = 10.0) -> Link:
    """A link as the platform itself. Raises NoServer or LinkDown."""
    if settings.nats_url:
        who, trust = _external(settings.nats_seed_file), _trust(settings)
        return await Link.open(settings.nats_url, who, name, wait_s=wait_s, trust=trust)
    url = embedded_url(folder, settings)
    return await Link.open(url, Authority(folder).platform, name, wait_s=wait_s, trust=local_trust(folder, url))


async def open_system(folder: Folder, settings: Settings, name: str) -> Link:
    """A link to the system account. Raises NoServer or LinkDown."""
    if settings.nats_url:
        return await Link.open(settings.nats_url, _external(settings.nats_sys_seed_file), name, trust=_trust(settings))
    url = embedded_url(folder, settings)
    return await Link.open(url, Authority(folder).system, name, trust=local_trust(folder, url))


def local_trust(folder: Folder, url: str) -> Trust:
    """Whom this machine trusts at `url`, one of the hive's own servers, whatever that is called elsewhere."""
    served = certificates.look(folder) if url.startswith(("https://", "tls://")) else None
    return served.trust_for(urlsplit(url).hostname or "") if served else Trust()


def _trust(settings: Settings) -> Trust:
    try:
        return Trust(read_ca(Path(settings.nats_ca_file)) if settings.nats_ca_file else "")
    except TlsError as error:
        raise NoServer(str(error)) from None


def _external(file: str) -> Credential:
    try:
        return from_file(Path(file))
    except BadCredential as error:
        raise NoServer(str(error)) from None
