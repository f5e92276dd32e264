"""What the handlers need of the rest of the platform, put together by the composition root."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from events.account import Limits
from events.base import Digest, UserId, WorkerId
from events.log import Log
from infra.blobs import Blobs
from infra.disk import DiskGuard
from infra.nkey import worker_id_of
from infra.outputs import Outputs
from infra.references import References
from infra.report_archive import ReportArchive
from infra.sealing import Keys
from infra.tickets import Tickets
from services.access import AccessView
from services.accounts.hosted import PeopleHost
from services.accounts.service import AccountsClient
from services.beats import Beats
from services.credentials import CredentialDesk
from services.ledger.reads import LedgerReads
from services.ledger.service import LedgerClient
from services.ledger.view import LedgerView
from services.pool.client import PoolClient
from services.projector import Projector
from services.reads import Reads
from web.folders import Folders
from web.manifests import Manifests


class Network(msgspec.Struct, frozen=True):
    """How others reach the platform, as they are told. `cors_origins`: the sites that may use the API from a browser.
    `public_url`: where they reach the API, `api_host`: by which name, on the port that it listens on ("": not known).
    `ca_pin`: the beginning of the fingerprint of the authority that the API's certificate rests on. `nats_url`: where
    workers reach NATS ("": where this machine does); `nats_ca`: the authority (PEM) that its certificate rests on
    ("": the one that the API's does).
    """

    cors_origins: tuple[str, ...] = ()
    public_url: str = ""
    api_host: str = ""
    ca_pin: str = ""
    nats_url: str = ""
    nats_ca: str = ""


@dataclass(frozen=True)
class Money:
    """The ledger as the API sees it: who is asked, what the balances are, what was. `digest_of` tells a body from another;
    `supply_cap` in µCPT.
    """

    ask: LedgerClient
    view: LedgerView
    reads: LedgerReads
    digest_of: Callable[[bytes], Digest]
    supply_cap: int


@dataclass(frozen=True)
class Core:
    """The platform as the API sees it. `workers_url()` says where workers connect; it raises
    problems.CannotEnrol where they cannot. `revoke(public_key)` disconnects it, and says whether that changed anything.
    `limits`: what who has none of its own may have and do. `economy`: whether jobs cost anything.
    """

    pool: str
    version: str
    ask: PoolClient
    accounts: AccountsClient
    access: AccessView
    reads: Reads
    projector: Projector
    log: Log
    blobs: Blobs
    manifests: Manifests
    folders: Folders
    references: References
    outputs: Outputs
    reports: ReportArchive
    keys: Keys
    people: PeopleHost
    tickets: Tickets
    workers_url: Callable[[], str]
    revoke: Callable[[str], Awaitable[bool]]
    credentials: CredentialDesk
    disk: Callable[[], DiskGuard]
    beats: Beats
    money: Money
    economy: bool = False
    limits: Limits = Limits()
    network: Network = Network()
    keep_days: int = 0
    """For how many days after a job's end its files are kept; 0: for ever."""

    def worker_id(self, public_key: str) -> WorkerId:
        """Of the worker that has this key, or of one that is to have it. Raises BadKey."""
        return self.access.state.worker_of.get(public_key) or worker_id_of(public_key)

    def limits_of(self, user: UserId) -> Limits:
        """What the user may have and do: as the hive's settings say where it has no limit of its own, and an admin any
        number.
        """
        known = self.access.state.users[user]
        own, others = known.limits, Limits() if "admin" in known.roles else self.limits
        return Limits(
            own.requests_per_min or others.requests_per_min,
            own.open_jobs or others.open_jobs,
            own.queued_tasks or others.queued_tasks,
            own.upload_bytes or others.upload_bytes,
        )
