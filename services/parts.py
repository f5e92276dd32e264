"""Parts that are put together alike wherever they run: in a control plane and in the tests' own."""

import hashlib
import secrets
import time
from collections.abc import Callable
from functools import partial

from events.account import Limits
from events.base import UserId, WorkerId
from infra.blobs import Blobs
from infra.certificates import Served
from infra.disk import DiskGuard
from infra.folder import Folder
from infra.index import Index
from infra.link import Link
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer, WorkerUser
from infra.outputs import Outputs
from infra.references import References
from infra.renewal import TOO_MANY
from infra.report_archive import ReportArchive
from infra.sealing import Keys
from infra.settings import Settings
from infra.signing_key import SigningKey
from infra.tickets import Tickets
from infra.tls import PIN_CHARS, is_loopback, reached_at
from services.access import AccessView
from services.accounts.commands import RekeyWorker
from services.accounts.first import first_of
from services.accounts.hosted import PeopleHost
from services.accounts.service import AccountsClient, AccountsService
from services.asking import RefusedAnswer
from services.beats import Beats
from services.certificates import api_host, worker_host
from services.credentials import CredentialDesk, CredentialRefused, KeyTaken
from services.floods import Floods
from services.hosting import Turn
from services.ledger.reads import LedgerReads
from services.ledger.service import LedgerClient, LedgerService
from services.ledger.snapshots import LedgerSnapshots
from services.ledger.state import MICRO, Rules
from services.ledger.view import LedgerView
from services.pool.client import PoolClient
from services.pool.orders import OrderBook
from services.pool.service import PoolService
from services.pool.snapshots import PoolSnapshots
from services.pool.voice import Voice
from services.projector import Projector
from services.reads import Reads
from services.version import VERSION
from web.core import Core, Money, Network
from web.folders import Folders
from web.ledger_ask import digest_under
from web.manifests import Manifests
from web.problems import CannotEnrol

REACHED_S = 5.0
"""How long what was just written is waited for until it is known here, too."""


def pool_service(
    folder: Folder,
    link: Link,
    log: JetStreamLog,
    pool: str,
    keys: Keys,
    index: Index,
    outputs: Outputs,
    archive: ReportArchive,
    access: AccessView,
    turn: Turn,
    name: str,
) -> PoolService:
    """The service of one pool, with its snapshots out of `folder`. `keys` open what users typed, `access` knows workers'
    keys; `name` is this writer's.
    """

    def key_of(worker: WorkerId) -> str:
        known = access.state.workers.get(worker)
        return "" if known is None or known.banned or known.pool != pool else known.public_key

    return PoolService(
        link,
        log,
        pool,
        voice=Voice(pool, SigningKey.of(folder).signer, key_of),
        archive=archive,
        book=OrderBook(keys, Tickets(folder.ticket_key())),
        index=index,
        outputs=outputs,
        snapshots=PoolSnapshots(folder.path("snapshots"), pool),
        turn=turn,
        name=name,
        version=VERSION,
    )


def archive_of(folder: Folder, settings: Settings, pool: bool) -> ReportArchive:
    """The archive of workers' signed reports; one that keeps nothing in a process that does not run the pool."""
    return ReportArchive(folder.path("reports"), settings.report_archive_bytes_max if pool else 0)


def accounts_service(
    folder: Folder, link: Link, log: JetStreamLog, server: NatsServer | None, turn: Turn, name: str
) -> AccountsService:
    """The accounts' service, which sees to the first admin, and to workers that an earlier version let in."""
    known = server.known if server is not None else dict[WorkerId, WorkerUser]
    return AccountsService(link, log, turn=turn, name=name, version=VERSION, first=first_of(folder, known))


def ledger_service(
    folder: Folder,
    link: Link,
    log: JetStreamLog,
    settings: Settings,
    index: Index,
    turn: Turn,
    name: str,
    access: AccessView,
) -> LedgerService:
    """The ledger's service, with its snapshots out of `folder`. `access` says whose a worker is."""

    def owner_of(worker: WorkerId) -> UserId | None:
        if not access.caught_up:
            return None
        known = access.state.workers.get(worker)
        owner = access.state.users.get(known.owner) if known else None
        return known.owner if known and owner is not None and owner.state != "erased" else ""

    return LedgerService(
        link,
        log,
        index=index,
        snapshots=LedgerSnapshots(folder.path("snapshots")),
        turn=turn,
        name=name,
        version=VERSION,
        rules=rules_of(settings),
        owner_of=owner_of,
    )


def rules_of(settings: Settings) -> Rules:
    """What the operator set of the ledger's rules."""
    return Rules(
        supply_cap=settings.supply_cap_cpt * MICRO,
        sign_up_grant=settings.sign_up_grant_cpt * MICRO,
        fee_percent=settings.fee_percent,
        grace_ms=settings.funds_grace_s * 1000,
        admin_grant=settings.admin_grant_cpt * MICRO,
    )


def ledger_view(folder: Folder, log: JetStreamLog) -> LedgerView:
    """The balances, out of snapshots and log; it is not run yet."""
    return LedgerView(log, LedgerSnapshots(folder.path("snapshots")))


def money_of(folder: Folder, settings: Settings, ask: LedgerClient, view: LedgerView, reads: Reads) -> Money:
    """What the API needs of the ledger."""
    key = hashlib.blake2b(b"ledger digests", key=folder.data_key()).digest()
    return Money(ask, view, LedgerReads(reads, view), digest_under(key), rules_of(settings).supply_cap)


def network_of(settings: Settings, served: Served | None, server: NatsServer | None) -> Network:
    """How others reach this hive, which serves `served`."""
    private = served is not None and not is_loopback(settings.nats_host)
    nats_url = settings.nats_public_url
    if served is not None and private and server is not None and not nats_url:
        host = reached_at(worker_host(settings, served))
        web = f",wss://{host}:{settings.nats_websocket_port}" if settings.nats_websocket_port else ""
        nats_url = f"tls://{host}:{server.port}{web}"
    return Network(
        cors_origins=tuple(settings.cors_origins),
        public_url=settings.public_url.rstrip("/"),
        api_host=api_host(settings, served),
        # Behind a proxy it is the proxy's certificate that workers see.
        ca_pin=served.fingerprint[:PIN_CHARS] if served and not settings.behind_proxy else "",
        nats_url=nats_url,
        nats_ca=served.ca if served and private else "",
    )


def limits_of(settings: Settings) -> Limits:
    """What users may have that have no limits of their own."""
    return Limits(
        settings.requests_per_min_max, settings.open_jobs_max, settings.queued_tasks_max, settings.upload_bytes_max
    )


def _desk_of(
    folder: Folder, access: AccessView, accounts: AccountsClient, server: NatsServer | None, floods: Floods | None
) -> CredentialDesk:
    async def mint(worker: WorkerId, public_key: str) -> str:
        if floods is not None and (wait_s := floods.wait_s(worker)):
            raise CredentialRefused(
                TOO_MANY, f"{worker} sent far more than a hive takes, and is shut out for {wait_s} s more",
                time.time_ns() // 1_000_000, "wait, and look why it sends so much",
            )  # fmt: skip
        known = access.state.workers.get(worker)
        if server is None or known is None or known.banned or known.public_key != public_key:
            return ""
        return server.admit(worker, public_key, known.pool)

    async def rekey(worker: WorkerId, before: str, public_key: str) -> bool:
        known = access.state.workers.get(worker)
        if known is None or known.banned or known.public_key not in (before, public_key):
            return False
        by = f"worker:{worker}"
        answer = await accounts.ask([RekeyWorker(worker, before, public_key)], by, cause=by, trace=secrets.token_hex(8))
        outcome = answer.outcomes[0]
        if isinstance(outcome, RefusedAnswer) and outcome.code in ("exists", "old_key"):
            raise KeyTaken(outcome.detail)
        await access.reached(answer.position, REACHED_S)
        return not isinstance(outcome, RefusedAnswer)

    return CredentialDesk(mint, rekey, SigningKey.of(folder).chain)


def _workers_url(server: NatsServer | None, network: Network) -> str:
    if server is None:
        raise CannotEnrol("this hive uses an external NATS; add the worker's public key to its configuration")
    return network.nats_url or server.url


async def _revoke(server: NatsServer | None, public_key: str) -> bool:
    if server is None:
        return False
    await server.revoke(public_key)
    return True


def core_of(
    folder: Folder,
    pool: str,
    ask: PoolClient,
    accounts: AccountsClient,
    access: AccessView,
    keys: Keys,
    people: PeopleHost,
    references: References,
    log: JetStreamLog,
    reads: Reads,
    projector: Projector,
    outputs: Outputs,
    server: NatsServer | None,
    disk: Callable[[], DiskGuard],
    network: Network = Network(),
    limits: Limits = Limits(),
    floods: Floods | None = None,
    beats: Beats | None = None,
    *,
    reports: ReportArchive,
    money: Money,
    economy: bool = False,
    keep_days: int = 0,
) -> Core:
    """What the API stands on. `limits`: of users that have none of their own. Without a `server` of its own (an external
    NATS) the hive takes no workers in; without `beats` it knows nothing of what machines use.
    """
    blobs = Blobs(folder.directory("blobs"))
    return Core(
        pool=pool,
        version=VERSION,
        ask=ask,
        accounts=accounts,
        access=access,
        reads=reads,
        projector=projector,
        log=log,
        blobs=blobs,
        manifests=Manifests(blobs),
        folders=Folders(blobs),
        references=references,
        outputs=outputs,
        reports=reports,
        keys=keys,
        people=people,
        tickets=Tickets(folder.ticket_key()),
        workers_url=partial(_workers_url, server, network),
        revoke=partial(_revoke, server),
        credentials=_desk_of(folder, access, accounts, server, floods),
        disk=disk,
        beats=beats or Beats(lambda: time.time_ns() // 1_000_000),
        money=money,
        economy=economy,
        limits=limits,
        network=network,
        keep_days=keep_days,
    )
