"""The composition root: everything a control plane is made of, put together here and nowhere else.

Order: claim the folder, servers, links, checks, streams, then the parts of the roles asked for, then local workers.
The end is the same backwards. The first Ctrl-C drains the local workers, the second stops now.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable
from typing import Any

import structlog
import uvloop

from infra import disk, streams
from infra.connect import embedded_at, local_trust, open_platform, open_system
from infra.database import Database
from infra.disk import DiskGuard
from infra.folder import Claim, Folder, FolderGone, FolderInUse, WeakSecret, write_atomic
from infra.index import Index
from infra.link import Link, LinkDown
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer, NatsServerError
from infra.outputs import Outputs
from infra.postgres import Postgres
from infra.postgres_system import PostgresError
from infra.references import References
from infra.report_archive import ReportArchive
from infra.sealing import Keys
from infra.settings import Settings, SettingsError, load
from infra.tls import TlsError, reached_at
from infra.turn import BeaconTurn
from services.access import AccessView
from services.accounts.commands import Command
from services.accounts.hosted import PeopleHost
from services.accounts.service import ACCOUNTS, AccountsService
from services.asking import AskClient
from services.beats import listen
from services.certificates import Keeper, check_listeners, listening, served_by
from services.floods import Floods
from services.follower import Snapshotter
from services.group import Group
from services.hosting import NewerFormat
from services.ledger.service import LEDGER, LedgerClient, LedgerService
from services.ledger.view import LedgerView
from services.local import LocalWorkers
from services.parts import (
    accounts_service,
    archive_of,
    core_of,
    ledger_service,
    ledger_view,
    limits_of,
    money_of,
    network_of,
    pool_service,
)
from services.pool.client import pool_client
from services.pool.service import PoolService
from services.process import CannotRun, RunOptions, Started, keep_postgres, own_name, port_in
from services.projector import Projector
from services.reads import Reads
from services.shut_out import ShutOut
from web.app import create_app
from web.core import Core
from web.expiry import expire_daily
from web.server import PortTaken, Server, check_free

EXIT_OK = 0
SOMEBODY_S = 3.0
NO_POSTGRES = "postgresql:///hive?host=/nonexistent"
"""Of a process that only runs a pool, and was not told of one: like a Postgres that is away."""
FOLDER_LOOK_S = 0.2
GC_THRESHOLDS = (20_000, 20, 50)

_log = structlog.get_logger()


def run(options: RunOptions, started: Callable[[Started], None], say: Callable[[str], None]) -> int:
    """Run a control plane until it is told to stop; the exit code. `say` takes single lines for the person watching.

    Raises CannotRun and SettingsError.
    """
    try:
        Folder(options.data).check_secrets()
        return uvloop.run(ControlPlane(options, started, say).run())
    except (
        FolderGone,
        FolderInUse,
        WeakSecret,
        NatsServerError,
        PostgresError,
        PortTaken,
        LinkDown,
        NewerFormat,
        streams.ClockOff,
        streams.StreamDrift,
        streams.StreamsUnavailable,
        streams.UnsafeDurability,
        TlsError,
    ) as error:
        raise CannotRun(str(error)) from error


class ControlPlane:
    """One process of the platform."""

    def __init__(self, options: RunOptions, started: Callable[[Started], None], say: Callable[[str], None]) -> None:
        self._options, self._started, self._say = options, started, say
        self._folder = Folder(options.data)
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._exits = contextlib.AsyncExitStack()
        self._snapshotter: Snapshotter | None = None

    async def run(self) -> int:
        """Start everything, wait to be told to stop, stop everything."""
        first = not self._folder.path("keys", "admin.key").exists()
        # What is loaded, then handled, is mostly acyclic: full collections are rare on purpose, while loading, too.
        gc.set_threshold(*GC_THRESHOLDS)
        async with self._exits as exits:
            claim = self._claim = exits.enter_context(self._folder.claim(self._options.what))
            settings = self._settings()
            served = served_by(self._folder, settings)
            check_listeners(settings, served)
            if "api" in self._options.roles:
                check_free(settings.host, settings.port)
            self._handle_signals()
            self._keeper = Keeper(self._folder, settings, served) if served else None
            server = await self._servers(settings)
            link = await self._link(settings)
            log = JetStreamLog(link)
            group = await exits.enter_async_context(Group(self._stop))
            if server is not None:
                group.start(server.keep())
            if self._keeper is not None:
                group.start(self._keeper.run())
            group.start(self._watch_folder(claim))
            group.start(disk.watch(lambda: self._disk, self._say))
            group.start(streams.watch(link, settings.nats_replicas, self._say))
            outputs = Outputs(self._folder.path("outputs"))
            accounts: AccountsService | None = None
            if "accounts" in self._options.roles:
                accounts = await self._accounts(link, log, server, group)
            ask_accounts = AskClient[Command](link, ACCOUNTS, accounts.near if accounts else None)
            access, database, beats = AccessView(log), self._database(settings), listen(link, settings.pool, group)
            people = PeopleHost(self._folder, settings, database, log, ask_accounts, access)
            exits.push_async_callback(people.close)
            group.start(people.run())
            group.start(access.run())
            ask_ledger, balances = await self._ledger(settings, link, log, access, group)
            floods = Floods(access, server.revoke if server is not None else None)
            group.start(floods.run())
            archive = archive_of(self._folder, settings, "pool" in self._options.roles)
            service: PoolService | None = None
            if "pool" in self._options.roles:
                service = await self._pool(settings, link, log, people.keyring, outputs, archive, access, group)
                service.on_flood = floods.noticed
            url = ""
            if self._reads_wanted():
                reads, projector = await self._read_side(database, log, group)
                if "api" in self._options.roles:
                    if server is not None:
                        group.start(ShutOut(access, server.revoke).run())
                    await group.sooner(self._readable(projector, balances, access))
                    references = References(self._folder.directory("index") / "references.sqlite")
                    exits.callback(references.close)
                    core = core_of(
                        self._folder, settings.pool, pool_client(link, settings.pool, service.near if service else None),
                        ask_accounts, access, people.keyring, people, references, log, reads, projector, outputs, server,
                        lambda: self._disk, network_of(settings, served, server), limits_of(settings), floods, beats, reports=archive,
                        money=money_of(self._folder, settings, ask_ledger, balances, reads), economy=settings.economy == "on", keep_days=settings.keep_days,
                    )  # fmt: skip
                    group.start(expire_daily(core))
                    claim.set_url(url := await self._api(settings, core))
            self._announce(claim, url, first)
            gc.freeze()  # what is loaded by now stays
            if self._options.local_workers and url:
                workers = LocalWorkers(self._folder, url, self._options.local_workers)
                exits.push_async_callback(self._end_workers, workers, service)
                await workers.start()
            await self._stop.wait()
            claim.check()
            group.check()
        return EXIT_OK

    def _reads_wanted(self) -> bool:
        return bool(self._options.roles & {"api", "projector"})

    def _settings(self) -> Settings:
        options = self._options
        return load(
            self._folder.root, port=options.port, host=options.host, unsafe_durability=options.unsafe_durability
        )

    def _announce(self, claim: Claim, url: str, first: bool) -> None:
        self._folder.admin_key()
        self._started(Started(url, self._folder.root, self._folder.path("keys", "admin.key"), first))

    async def _watch_folder(self, claim: Claim) -> None:
        """Look whether the folder is still there, for ever. Raises FolderGone: then nothing is worth waiting for."""
        while True:
            await asyncio.sleep(FOLDER_LOOK_S)
            try:
                claim.check()
            except FolderGone:
                self._say(f"the data folder {self._folder.root} is gone: stopping now")
                self._now.set()
                raise

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    def _reload(self) -> None:
        try:
            settings = self._settings()
        except SettingsError as error:
            self._say(f"settings not reloaded: {error}")
            return
        self._disk = self._guard(settings)
        self._say("settings reloaded: disk thresholds; everything else is taken at the next start")

    def _guard(self, settings: Settings) -> DiskGuard:
        warn = max(settings.disk_low_bytes, settings.disk_min_bytes)
        return DiskGuard(self._folder.root, warn, settings.disk_min_bytes)

    async def _servers(self, settings: Settings) -> NatsServer | None:
        """Start the embedded servers that the settings do not replace, both at once."""
        self._disk = self._guard(settings)
        self._postgres: Postgres | None = None
        server: NatsServer | None = None
        starting: list[Any] = []
        if not settings.postgres_dsn and self._reads_wanted():
            self._postgres = Postgres(self._folder.root)
            starting.append(self._postgres.start())
            self._exits.push_async_callback(self._postgres.stop)
        if not settings.nats_url:
            server = NatsServer(
                self._folder,
                settings.nats_port,
                listening(settings, self._keeper.served if self._keeper else None),
                not settings.unsafe_durability,
                local_trust(self._folder, embedded_at(settings, 0)),
            )
            if self._keeper is not None:
                self._keeper.on_change(server.renewed)
            starting.append(server.start())
            self._exits.push_async_callback(server.stop)
        await asyncio.gather(*starting)
        return server

    async def _link(self, settings: Settings) -> Link:
        system = await open_system(self._folder, settings, "hive durability check")
        try:
            await streams.check_durability(system, settings.unsafe_durability)
        finally:
            await system.close()
        link = await open_platform(self._folder, settings, f"hive {self._options.what}")
        self._exits.push_async_callback(link.close)
        await streams.ensure(link, settings.nats_replicas)
        if "pool" in self._options.roles:
            await streams.check_clock(link)
        return link

    def _database(self, settings: Settings) -> Database:
        database = Database(settings.postgres_dsn or (self._postgres.dsn if self._postgres else NO_POSTGRES))
        self._exits.push_async_callback(database.close)
        return database

    async def _read_side(self, database: Database, log: JetStreamLog, group: Group) -> tuple[Reads, Projector]:
        projector = Projector(log, database, self._folder.path("snapshots"), tables="projector" in self._options.roles)
        if self._postgres is not None:
            group.start(keep_postgres(self._postgres, self._claim))
        group.start(projector.run())
        return Reads(projector, database), projector

    async def _pool(
        self,
        settings: Settings,
        link: Link,
        log: JetStreamLog,
        keys: Keys,
        outputs: Outputs,
        archive: ReportArchive,
        access: AccessView,
        group: Group,
    ) -> PoolService:
        folder, pool = self._folder, settings.pool
        name = own_name()
        index = Index(folder.directory("index") / f"pool-{pool}.sqlite")
        self._exits.callback(index.close)
        turn = await self._turn(link, f"pool.{pool}", name)
        service = pool_service(folder, link, log, pool, keys, index, outputs, archive, access, turn, name)
        service.on_committed = self._snapshots_of(group).committed
        group.start(archive.run())
        group.start(service.run())
        return service

    def _snapshots_of(self, group: Group) -> Snapshotter:
        """What sees to the snapshots of this process' writers, one for all."""
        if self._snapshotter is None:
            self._snapshotter = Snapshotter(self._folder.root)
            group.start(self._snapshotter.run())
        return self._snapshotter

    async def _accounts(
        self, link: Link, log: JetStreamLog, server: NatsServer | None, group: Group
    ) -> AccountsService:
        name = own_name()
        turn = await self._turn(link, ACCOUNTS, name)
        service = accounts_service(self._folder, link, log, server, turn, name)
        group.start(service.run())
        return service

    async def _turn(self, link: Link, service: str, name: str) -> BeaconTurn:
        turn = BeaconTurn(link, service, name)
        await turn.start()
        self._exits.push_async_callback(turn.stop)
        return turn

    async def _ledger(
        self, settings: Settings, link: Link, log: JetStreamLog, access: AccessView, group: Group
    ) -> tuple[LedgerClient, LedgerView]:
        service: LedgerService | None = None
        if "ledger" in self._options.roles:
            name = own_name()
            index = Index(self._folder.directory("index") / "ledger.sqlite")
            self._exits.callback(index.close)
            turn = await self._turn(link, LEDGER, name)
            service = ledger_service(self._folder, link, log, settings, index, turn, name, access)
            service.on_committed = self._snapshots_of(group).committed
            group.start(service.run())
        view = ledger_view(self._folder, log)
        if "api" in self._options.roles:
            group.start(view.run())
        return AskClient(link, LEDGER, service.near if service else None), view

    async def _readable(self, projector: Projector, balances: LedgerView, access: AccessView) -> None:
        """What was acknowledged before a restart must be there when the first reader asks."""
        await projector.wait_caught_up()
        await balances.wait_caught_up()
        await self._somebody(access)

    async def _somebody(self, access: AccessView) -> None:
        """Wait until there is somebody who may come in: at the first start the admin is being made."""
        await access.wait_caught_up()
        told = False
        while not access.state.keys:
            if not await access.reached(access.position + 1, SOMEBODY_S) and not told:
                told = True
                self._say("waiting for the first admin: is there a control plane with the role `accounts`?")

    async def _api(self, settings: Settings, core: Core) -> str:
        kept, tls = self._folder.path("api.port"), None
        if self._keeper is not None and not settings.behind_proxy:
            tls = self._keeper.context
        more = tls, settings.trusted_proxies
        api = Server(create_app(core), settings.host, settings.port or port_in(kept), *more)
        try:
            await api.start()
        except PortTaken:
            if settings.port:
                raise
            api = Server(create_app(core), settings.host, 0, *more)
            await api.start()
        write_atomic(kept, str(api.port).encode())
        self._exits.push_async_callback(api.stop)
        return f"{'https' if tls else 'http'}://{reached_at(settings.host)}:{api.port}"

    async def _end_workers(self, workers: LocalWorkers, service: PoolService | None) -> None:
        """Drain the local workers, or end them now when asked twice."""
        if not self._now.is_set() and (what := workers.waiting_for(service.writer.state if service else None)):
            self._say(f"stopping: waiting for {what}; Ctrl-C again stops now")
        await workers.stop(self._now)
