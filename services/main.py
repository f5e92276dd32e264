"""The composition root: everything a control plane is made of, put together here and nowhere else.

Order: claim the folder, servers, links, checks, streams, then the parts of the roles asked for, then local workers.
The end is the same backwards. The first Ctrl-C drains the local workers, the second stops now.
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, cast

import msgspec
import structlog
import uvloop

from infra import disk, streams
from infra.connect import open_platform, open_system
from infra.database import Database
from infra.disk import DiskGuard
from infra.folder import Claim, Folder, FolderInUse, write_atomic
from infra.index import Index
from infra.link import Link, LinkDown
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer, NatsServerError
from infra.outputs import Outputs
from infra.postgres import Postgres
from infra.postgres_system import PostgresError
from infra.settings import Settings, SettingsError, load
from infra.turn import BeaconTurn
from services.follower import Snapshotter
from services.local import LocalWorkers
from services.parts import core_of, pool_service
from services.pool.client import PoolClient
from services.pool.model import NewerFormat
from services.pool.service import PoolService
from services.projector import Projector
from services.reads import Reads
from web.app import create_app
from web.core import Core
from web.server import PortTaken, Server, check_free

ROLES = frozenset({"api", "pool", "projector"})
EXIT_OK = 0
GC_THRESHOLDS = (20_000, 20, 50)

_log = structlog.get_logger()


class RunOptions(msgspec.Struct, frozen=True):
    """What `hivectl up` and `serve` ask for. None: as the settings say."""

    data: Path
    what: str = "serve"
    port: int | None = None
    host: str | None = None
    roles: frozenset[str] = ROLES
    local_workers: int = 0
    unsafe_durability: bool | None = None


class Started(msgspec.Struct, frozen=True):
    """What a started control plane tells its user. `first`: the admin key was made just now."""

    url: str
    data: Path
    key_file: Path
    first: bool


class CannotRun(Exception):
    """The control plane cannot start or go on; the text says why and what to do."""


def run(options: RunOptions, started: Callable[[Started], None], say: Callable[[str], None]) -> int:
    """Run a control plane until it is told to stop; the exit code. `say` takes single lines for the person watching.

    Raises CannotRun and SettingsError.
    """
    try:
        return uvloop.run(ControlPlane(options, started, say).run())
    except (
        FolderInUse,
        NatsServerError,
        PostgresError,
        PortTaken,
        LinkDown,
        NewerFormat,
        streams.ClockOff,
        streams.StreamDrift,
        streams.StreamsUnavailable,
        streams.UnsafeDurability,
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

    async def run(self) -> int:
        """Start everything, wait to be told to stop, stop everything."""
        first = not self._folder.path("keys", "admin.key").exists()
        async with self._exits as exits:
            claim = exits.enter_context(self._folder.claim(self._options.what))
            settings = self._settings()
            if "api" in self._options.roles:
                check_free(settings.host, settings.port)
            self._handle_signals()
            server = await self._servers(settings)
            link = await self._link(settings)
            log = JetStreamLog(link)
            group = await exits.enter_async_context(_Group(self._stop))
            if server is not None:
                group.start(server.keep())
            group.start(disk.watch(lambda: self._disk, self._say))
            group.start(streams.watch(link, settings.nats_replicas, self._say))
            outputs = Outputs(self._folder.path("outputs"))
            service: PoolService | None = None
            if "pool" in self._options.roles:
                service = await self._pool(settings, link, log, outputs, group)
            url = ""
            if self._reads_wanted():
                reads, projector = await self._read_side(settings, log, group)
                if "api" in self._options.roles:
                    # What was acknowledged before a restart must be there when the first reader asks.
                    await group.sooner(projector.wait_caught_up())
                    ask = PoolClient(link, settings.pool, service.ask if service else None)
                    folder, disk_of = self._folder, lambda: self._disk
                    core = core_of(folder, settings.pool, ask, log, reads, projector, outputs, server, disk_of)
                    url = await self._api(settings, core)
                    claim.set_url(url)
            self._announce(claim, url, first)
            # What is loaded by now stays; the rest is mostly acyclic, so full collections are rare on purpose.
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            if self._options.local_workers and url:
                workers = LocalWorkers(self._folder, url, self._options.local_workers)
                exits.push_async_callback(self._end_workers, workers)
                await workers.start()
            await self._stop.wait()
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
                self._folder, settings.nats_port, pool=settings.pool, sync_always=not settings.unsafe_durability
            )
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

    async def _read_side(self, settings: Settings, log: JetStreamLog, group: "_Group") -> tuple[Reads, Projector]:
        database = Database(settings.postgres_dsn or (self._postgres.dsn if self._postgres else ""))
        self._exits.push_async_callback(database.close)
        projector = Projector(log, database, self._folder.path("snapshots"), tables="projector" in self._options.roles)
        if self._postgres is not None:
            group.start(_keep(self._postgres))
        group.start(projector.run())
        return Reads(projector, database), projector

    async def _pool(
        self, settings: Settings, link: Link, log: JetStreamLog, outputs: Outputs, group: "_Group"
    ) -> PoolService:
        folder, pool = self._folder, settings.pool
        name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        index = Index(folder.directory("index") / f"pool-{pool}.sqlite")
        self._exits.callback(index.close)
        turn = BeaconTurn(link, f"pool.{pool}", name)
        await turn.start()
        self._exits.push_async_callback(turn.stop)
        snapshotter = Snapshotter(folder.root)
        service = pool_service(folder, link, log, pool, index, outputs, turn, name)
        service.on_committed = snapshotter.committed
        group.start(service.run())
        group.start(snapshotter.run())
        return service

    async def _api(self, settings: Settings, core: Core) -> str:
        kept = self._folder.path("api.port")
        api = Server(create_app(core), settings.host, settings.port or _port_in(kept))
        try:
            await api.start()
        except PortTaken:
            if settings.port:
                raise
            api = Server(create_app(core), settings.host, 0)
            await api.start()
        write_atomic(kept, str(api.port).encode())
        self._exits.push_async_callback(api.stop)
        return f"http://{settings.host}:{api.port}"

    async def _end_workers(self, workers: LocalWorkers) -> None:
        """Drain the local workers, or end them now when asked twice."""
        if not self._now.is_set() and (count := workers.running()):
            self._say(f"stopping: waiting for {count} local worker(s) to finish running tasks; Ctrl-C again stops now")
        await workers.stop(self._now)


def _port_in(file: Path) -> int:
    """The port of last time, which workers know; 0 when there is none. Only taken when any free one will do."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


class _Group:
    """Tasks that run as long as the control plane; the first that fails stops it, with its error."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop, self._tasks, self._error = stop, list[asyncio.Task[None]](), list[BaseException]()

    def start(self, work: Any) -> None:
        """Run a coroutine until the end."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error.append(error)
            self._stop.set()

    async def sooner(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, or for the stop, whichever comes first."""
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def check(self) -> None:
        """Raise the error of the first task that failed."""
        for error in self._error:
            raise _first(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _first(error: BaseException) -> BaseException:
    """The first single error in what may be a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


POSTGRES_LOOK_S = 1.0


async def _keep(postgres: Postgres) -> None:
    """Have a dead Postgres started again, for ever."""
    while True:
        await asyncio.sleep(POSTGRES_LOOK_S)
        try:
            await postgres.ensure()
        except (PostgresError, OSError) as error:
            _log.warning("postgres.away", why=str(error))
