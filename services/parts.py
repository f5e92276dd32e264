"""Parts that are put together alike wherever they run: in a control plane and in the tests' own."""

from collections.abc import Callable

from events.base import WorkerId
from infra.blobs import Blobs
from infra.disk import DiskGuard
from infra.folder import Folder
from infra.index import Index
from infra.link import Link
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer
from infra.nkey import worker_id_of
from infra.outputs import Outputs
from infra.sealing import Sealer
from infra.tickets import Tickets
from services.hosting import Turn
from services.pool.client import PoolClient
from services.pool.orders import OrderBook
from services.pool.service import PoolService
from services.pool.snapshots import PoolSnapshots
from services.projector import Projector
from services.reads import Reads
from services.version import VERSION
from web.core import Core, Enrolled
from web.manifests import Manifests
from web.problems import CannotEnrol


def pool_service(
    folder: Folder, link: Link, log: JetStreamLog, pool: str, index: Index, outputs: Outputs, turn: Turn, name: str
) -> PoolService:
    """The service of one pool, with its keys and snapshots out of `folder`. `name` is this writer's."""
    return PoolService(
        link,
        log,
        pool,
        book=OrderBook(Sealer(folder.data_key()), Tickets(folder.ticket_key())),
        index=index,
        outputs=outputs,
        snapshots=PoolSnapshots(folder.path("snapshots"), pool),
        turn=turn,
        name=name,
        version=VERSION,
    )


def core_of(
    folder: Folder,
    pool: str,
    ask: PoolClient,
    log: JetStreamLog,
    reads: Reads,
    projector: Projector,
    outputs: Outputs,
    server: NatsServer | None,
    disk: Callable[[], DiskGuard],
) -> Core:
    """What the API stands on. Without a `server` of its own (an external NATS) the hive takes no workers in."""

    async def enrol(name: str, public_key: str) -> Enrolled:
        if server is None:
            raise CannotEnrol("this hive uses an external NATS; add the worker's public key to its configuration")
        worker = worker_id_of(public_key)
        await server.add_worker(worker, public_key)
        return Enrolled(worker, pool, server.url)

    async def forget(worker: WorkerId) -> bool:
        return server is not None and await server.remove_worker(worker)

    blobs = Blobs(folder.directory("blobs"))
    return Core(
        pool=pool,
        version=VERSION,
        admin_key=folder.admin_key(),
        ask=ask,
        reads=reads,
        projector=projector,
        log=log,
        blobs=blobs,
        manifests=Manifests(blobs),
        outputs=outputs,
        sealer=Sealer(folder.data_key()),
        tickets=Tickets(folder.ticket_key()),
        enrol=enrol,
        forget=forget,
        disk=disk,
    )
