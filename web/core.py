"""What the handlers need of the rest of the platform, put together by the composition root."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from events.base import UserId, WorkerId
from events.log import Log
from infra.blobs import Blobs
from infra.disk import DiskGuard
from infra.outputs import Outputs
from infra.sealing import Sealer
from infra.tickets import Tickets
from services.pool.client import PoolClient
from services.projector import Projector
from services.reads import Reads
from web.manifests import Manifests

OWNER: UserId = "admin"
"""Whose the admin key is, as events name it."""
BY = "user:admin"
"""Who asked, as events say it."""


@dataclass(frozen=True)
class Enrolled:
    """What a new worker needs to know: its id, its pool, and where its NATS listens."""

    worker: WorkerId
    pool: str
    nats_url: str


@dataclass(frozen=True)
class Core:
    """The platform as the API sees it. `enrol(name, public_key)` raises ValueError or problems.CannotEnrol;
    `forget(worker)` says whether there was such a worker.
    """

    pool: str
    version: str
    admin_key: str
    ask: PoolClient
    reads: Reads
    projector: Projector
    log: Log
    blobs: Blobs
    manifests: Manifests
    outputs: Outputs
    sealer: Sealer
    tickets: Tickets
    enrol: Callable[[str, str], Awaitable[Enrolled]]
    forget: Callable[[WorkerId], Awaitable[bool]]
    disk: Callable[[], DiskGuard]
