"""Connections to the NATS that the settings name: the embedded one of a data folder, or an external one."""

from pathlib import Path

from infra.folder import Folder
from infra.link import Link
from infra.settings import Settings


class NoServer(Exception):
    """There is no NATS to connect to; the text says why and what to do."""


def embedded_url(folder: Folder) -> str:
    """Where the embedded nats-server of `folder` listens. Raises NoServer when it was never started."""
    try:
        return f"nats://127.0.0.1:{int(folder.path('nats', 'port').read_text())}"
    except (OSError, ValueError):
        raise NoServer(f"no nats-server was ever started in {folder.root}; start it with `hivectl up`") from None


async def open_platform(folder: Folder, settings: Settings, name: str, wait_s: float | None = 10.0) -> Link:
    """A link as the platform itself. Raises NoServer or LinkDown."""
    if settings.nats_url:
        seed = Path(settings.nats_seed_file).read_text().strip()
        return await Link.open(settings.nats_url, seed, name, wait_s=wait_s)
    return await Link.open(embedded_url(folder), _seed(folder, "nats_platform.seed"), name, wait_s=wait_s)


async def open_system(folder: Folder, settings: Settings, name: str) -> Link:
    """A link to the system account. Raises NoServer or LinkDown."""
    if settings.nats_url:
        seed = Path(settings.nats_sys_seed_file).read_text().strip()
        return await Link.open(settings.nats_url, seed, name)
    return await Link.open(embedded_url(folder), _seed(folder, "nats_sys.seed"), name)


def _seed(folder: Folder, name: str) -> str:
    try:
        return folder.path("keys", name).read_text().strip()
    except OSError:
        raise NoServer(f"{folder.root} has no key {name}; start the hive with `hivectl up` first") from None
