"""A real API for tests, served on a port of its own: nats-server, the pool's service, the projector, blobs, outputs,
and, when asked for, Postgres. `Crew` is a worker that ends every task at once, over NATS like any other.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from events import protocol
from events.account import Role
from events.base import Sealed, UserId, expand, runs_of, size_of
from events.protocol import Cancel, Ended, Hello, Orders, Poll, Report, ReportItem, Run, Started
from events.task import Detail
from events.worker import Capacity
from infra import nkey
from infra.credential import Credential
from infra.database import Database
from infra.disk import DiskGuard
from infra.folder import Folder
from infra.index import Index
from infra.link import Link, LinkTimeout
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer
from infra.nkey import Signer
from infra.outputs import Outputs
from infra.passwords import Passwords
from infra.postgres import Postgres
from infra.references import References
from infra.report_archive import ReportArchive
from infra.sealing import Keys, Sealer
from infra.settings import Settings
from services.access import AccessView
from services.accounts.commands import Command, IssueKey, Register
from services.accounts.hosted import PeopleHost
from services.accounts.keys import digest_of, id_of, new_text, prefix_of
from services.accounts.service import ACCOUNTS
from services.asking import AskClient
from services.floods import Floods
from services.ledger.service import LEDGER
from services.main import NO_POSTGRES
from services.parts import accounts_service, core_of, ledger_service, ledger_view, money_of, pool_service
from services.pool.client import pool_client
from services.pool.service import PoolService
from services.projector import Projector
from services.reads import Reads
from services.shut_out import ShutOut
from tests.nats_support import linked, serving, until
from tests.signing_support import opened, said
from web.app import create_app
from web.core import Core, Money, Network
from web.server import Server

POOL = "default"
ARCHIVE_BYTES_MAX = 64 * 1024 * 1024


@dataclass
class Api:
    """A served API and its parts."""

    core: Core
    server: Server
    nats: NatsServer
    link: Link
    folder: Folder
    http: aiohttp.ClientSession
    service: PoolService

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def key(self) -> str:
        return self.folder.admin_key()

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and decoded body of a request with the admin key."""
        async with self.http.request(method, self.url + path, **more) as answer:
            body = await answer.read()
            return answer.status, await answer.json(content_type=None) if body else None

    async def key_of(self, role: Role, user: str = "") -> str:
        """The key of a new user with this role alone."""
        text, user = new_text("hive"), user or f"u{role}"
        digest = digest_of(text)
        key = IssueKey(id_of("k", digest), user, digest, prefix_of(text), self.core.keys.seal(user, b"test"))
        answer = await self.core.accounts.ask([Register(user, [role]), key], "test")
        assert await self.core.access.reached(answer.position, 5)
        return text

    @contextlib.asynccontextmanager
    async def crew(self, **more: Any) -> AsyncGenerator["Crew"]:
        """A worker that works while the block runs."""
        seed = nkey.new_user_seed()
        status, answer = await self.ask(
            "POST", "/v1/workers", json={"public_key": nkey.public_of(seed), "name": "crew"}
        )
        assert status == 201, answer
        worker = answer["worker"]
        jwt = self.nats.admit(worker, nkey.public_of(seed), POOL)
        link = await Link.open(self.nats.url, Credential(seed, lambda: jwt), worker, f"_INBOX_{worker}")
        crew = Crew(link, worker, **more)
        crew.seed = seed
        task = asyncio.create_task(crew.run())
        try:
            yield crew
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await link.close()


async def _tables(root: Path, exits: AsyncExitStack) -> Database:
    postgres = Postgres(root)
    exits.push_async_callback(postgres.stop)
    await postgres.start()
    database = Database(postgres.dsn)
    exits.push_async_callback(database.close)
    return database


def _ledger(
    folder: Folder,
    link: Link,
    log: JetStreamLog,
    settings: Settings,
    reads: Reads,
    access: AccessView,
    exits: AsyncExitStack,
    running: list[Any],
) -> Money:
    index = Index(folder.directory("index") / "ledger.sqlite")
    exits.callback(index.close)
    service = ledger_service(folder, link, log, settings, index, AlwaysTurn(), "test", access)
    view = ledger_view(folder, log)
    running += [asyncio.create_task(service.run()), asyncio.create_task(view.run())]
    return money_of(folder, settings, AskClient(link, LEDGER), view, reads)


@contextlib.asynccontextmanager
async def api(
    root: Path,
    *,
    tables: bool = False,
    identities: Database | None = None,
    settings: Settings | None = None,
    **changes: Any,
) -> AsyncGenerator[Api]:
    """A served API; `changes` replace fields of its Core. Without a database for `identities` nobody can register, and
    one key seals what everybody typed.
    """
    folder = Folder(root)
    folder.directory()
    async with AsyncExitStack() as exits:
        nats = await exits.enter_async_context(serving(root))
        link = await exits.enter_async_context(linked(nats, make_streams=True))
        database = await _tables(root, exits) if tables else None
        log, outputs = JetStreamLog(link), Outputs(folder.path("outputs"))
        projector = Projector(log, database, folder.directory("snapshots"))
        index = Index(folder.directory("index") / "pool.sqlite")
        exits.callback(index.close)
        access, ask_accounts = AccessView(log), AskClient[Command](link, ACCOUNTS)
        nowhere = Database(NO_POSTGRES)
        people = PeopleHost(
            folder,
            settings or Settings(),
            identities or nowhere,
            log,
            ask_accounts,
            access,
            Passwords(kib=64, rounds=1),
        )
        exits.push_async_callback(people.close)
        keys: Keys = people.keyring if identities else OneKey(Sealer(folder.data_key()))
        archive = ReportArchive(folder.path("reports"), ARCHIVE_BYTES_MAX)
        service = pool_service(folder, link, log, POOL, keys, index, outputs, archive, access, AlwaysTurn(), "test")
        running = [asyncio.create_task(work) for work in (projector.run(), service.run(), archive.run())]
        exits.push_async_callback(_end, running)
        running += [asyncio.create_task(people.run())] if identities else []
        guard = DiskGuard(folder.root, 0, 0)
        reads, ask = Reads(projector, database), pool_client(link, POOL)
        accounts = accounts_service(folder, link, log, nats, AlwaysTurn(), "test")
        money = _ledger(folder, link, log, settings or Settings(), reads, access, exits, running)
        floods = Floods(access, nats.revoke)
        service.on_flood = floods.noticed
        running += [
            asyncio.create_task(work)
            for work in (accounts.run(), access.run(), ShutOut(access, nats.revoke).run(), floods.run())
        ]
        references = References(folder.directory("index") / "references.sqlite")
        exits.callback(references.close)
        core = core_of(
            folder, POOL, ask, ask_accounts, access, keys, people, references, log, reads, projector, outputs, nats,
            lambda: guard, Network(), floods=floods, reports=archive, money=money,
        )  # fmt: skip
        core = replace(core, **changes)
        server = Server(create_app(core), "127.0.0.1", 0)
        await server.start()
        exits.push_async_callback(server.stop)
        headers = {"Authorization": f"Bearer {folder.admin_key()}"}
        http = await exits.enter_async_context(aiohttp.ClientSession(headers=headers))
        await projector.wait_caught_up()
        await until(lambda: service.writer.leads, "the pool's writer leads")
        await until(lambda: bool(access.state.keys), "there is an admin")
        yield Api(core, server, nats, link, folder, http, service)


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class OneKey:
    """One key for everybody."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self.open = sealer.open

    def seal(self, user: UserId, data: bytes) -> Sealed:
        return self._sealer.seal(data)


class AlwaysTurn:
    """Nobody else is there to lead."""

    async def wait(self) -> None:
        """Now."""

    def take(self) -> None:
        """Leads."""

    def leave(self) -> None:
        """Leads no more."""


class Crew:
    """A worker that ends each task as soon as it gets it, as `ends` says of its number."""

    def __init__(
        self,
        link: Link,
        worker: str,
        capacity: Capacity = Capacity(64_000, 2**36),
        ends: Callable[[Run, int], int] = lambda run, index: 0,
        detail: Callable[[Run, int], Detail] | None = None,
        starts: bool = False,
    ) -> None:
        self.link, self.worker, self.capacity, self.ends, self.detail = link, worker, capacity, ends, detail
        self.seed = ""
        self.reported = 0
        self.starts = starts
        """Whether it says of a task that it runs, before it ends it."""
        self._sequence = itertools.count(1)
        self.orders: list[Run] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self._reports: asyncio.Queue[Run] = asyncio.Queue()

    def said(self, asked: Poll | Report) -> bytes:
        """What it sends."""
        return said(POOL, self.worker, asked, Signer(self.seed))

    async def run(self) -> None:
        """Poll and report until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll())
            group.create_task(self._report())

    async def _poll(self) -> None:
        hello: Hello | None = Hello("boot", self.capacity, "test", "nonce")
        last = 0
        for sequence in itertools.count(1):
            poll = Poll("session", sequence, last, ahead=200, hello=hello)
            try:
                reply = await self.link.request(f"req.{POOL}.{self.worker}.next", self.said(poll), 65.0)
            except LinkTimeout:
                continue
            answer = protocol.poll_answer_of(opened(reply.data))
            assert isinstance(answer, Orders), answer
            hello = None
            for order in answer.orders:
                last = max(last, order.number)
                if isinstance(order, Run):
                    self.orders.append(order)
                    self._reports.put_nowait(order)
                elif isinstance(order, Cancel):
                    continue

    async def _report(self) -> None:
        while True:
            runs = [await self._reports.get()]
            if self.starts:
                await self._tell([Started(run.number, run.job, run.tasks) for run in runs])
            await self.hold.wait()
            while not self._reports.empty() and len(runs) < 200:
                runs.append(self._reports.get_nowait())
            await self._tell([item for run in runs for item in self._ended(run)])

    async def _tell(self, items: Sequence[ReportItem]) -> None:
        report = self.said(Report("session", next(self._sequence), [*items]))
        reply = await self.link.request(f"req.{POOL}.{self.worker}.report", report, 20.0)
        answer = protocol.report_answer_of(opened(reply.data))
        assert isinstance(answer, protocol.Recorded), answer
        self.reported += 1

    def _ended(self, run: Run) -> list[Ended]:
        if self.detail is None and size_of(run.tasks) > 1 and all(not self.ends(run, i) for i in expand(run.tasks)):
            return [Ended(run.number, run.job, run.tasks)]
        details = self.detail
        return [
            Ended(
                run.number,
                run.job,
                runs_of([index]),
                "exit",
                self.ends(run, index),
                "",
                [details(run, index)] if details else [],
            )
            for index in expand(run.tasks)
        ]
