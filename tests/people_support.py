"""People on a real NATS and a real Postgres: a town with one log, whose processes may be stopped and made again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from events import catalog
from events.account import Role
from events.base import UserId
from events.catalog import ACCOUNTS_SUBJECT, Message
from infra.database import Database
from infra.folder import Folder
from infra.link import Link
from infra.nats_log import JetStreamLog
from infra.passwords import Passwords
from infra.settings import Settings
from services.access import AccessView
from services.accounts.commands import Command, Invite, Register
from services.accounts.hosted import PeopleHost
from services.accounts.keys import digest_of, new_text
from services.accounts.service import ACCOUNTS, AccountsClient, AccountsService
from services.accounts.sessions import BadToken, stands
from services.asking import Accepted, AskClient
from services.hosting import Refused
from tests.nats_support import eventually, linked, serving, until
from tests.web_support import AlwaysTurn

PASSWORD = "plum tractor 9 velvet"
OTHER = "seven quiet lanterns hum"
FAR_MS = 4_000_000_000_000


@dataclass
class Town:
    """One process of a control plane, as far as people go."""

    host: PeopleHost
    access: AccessView
    accounts: AccountsClient
    database: Database
    folder: Folder

    async def tell(self, *commands: Command) -> None:
        """Have commands done, and see them here."""
        answer = await self.accounts.ask(commands, "test")
        for outcome in answer.outcomes:
            assert isinstance(outcome, Accepted), outcome
        assert await self.access.reached(answer.position, 5)

    async def join(self, name: str = "ada", mail: str = "") -> UserId:
        """Somebody registers, with PASSWORD."""
        return await self.host.people.register(name, PASSWORD, mail)

    def lets_in(self, access_token: str) -> bool:
        """Whether the gate would let this token in now."""
        try:
            session = self.host.sessions.check(access_token, time.time_ns() // 1_000_000)
        except BadToken:
            return False
        return not stands(self.access.state, session)

    async def admin_is_there(self) -> None:
        """Until the admin has a row, so that a link can set a password."""

        async def there() -> bool:
            return await self.host.store.user("admin") is not None

        await eventually(there, "the admin has a row")

    async def invite(self, roles: Sequence[Role] = ("user",), uses: int = 1) -> str:
        """An invitation's text, from the admin."""
        text = new_text("hivi")
        await self.tell(Invite(f"i{digest_of(text)[:8]}", "admin", digest_of(text), [*roles], uses, FAR_MS))
        return text


@contextlib.asynccontextmanager
async def town(
    link: Link, database: Database, root: Path, settings: Settings | None = None, leads: bool = True
) -> AsyncGenerator[Town]:
    """A process with data folder `root`, which ends with the block. `leads`: it has the accounts' writer, too."""
    folder, log = Folder(root), JetStreamLog(link)
    # Processes of one hive have the same secrets.
    common = Folder(root.parent / "common")
    for name in ("data.key", "session.key"):
        secret = common.secret(name, common.ticket_key)
        folder.secret(name, lambda secret=secret: secret)
    access, accounts = AccessView(log), AskClient[Command](link, ACCOUNTS)
    host = PeopleHost(
        folder, settings or Settings(registration="open"), database, log, accounts, access, Passwords(kib=64, rounds=1)
    )
    running = [asyncio.create_task(access.run()), asyncio.create_task(host.run())]
    if leads:
        service = AccountsService(
            link, log, turn=AlwaysTurn(), name="test", version="1",
            first=lambda state: [] if "admin" in state.users else [Register("admin", ["admin"])],
        )  # fmt: skip
        running.append(asyncio.create_task(service.run()))
        await until(lambda: service.writer.leads, "the accounts' writer leads")
    try:
        await until(lambda: "admin" in access.state.users, "there is an admin")
        yield Town(host, access, accounts, database, folder)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await host.close()


@contextlib.asynccontextmanager
async def ground(root: Path) -> AsyncGenerator[Link]:
    """A NATS with streams, and a link to it."""
    async with AsyncExitStack() as exits:
        nats = await exits.enter_async_context(serving(root))
        yield await exits.enter_async_context(linked(nats, make_streams=True))


@contextlib.contextmanager
def refused(code: str) -> Generator[None]:
    """The block is refused with this code."""
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.code == code, caught.value


async def accounts_log(link: Link) -> list[Message]:
    """The accounts' whole log."""
    async for entries in JetStreamLog(link).read(ACCOUNTS_SUBJECT, 1):
        return [catalog.decode(entry.data) for entry in entries]
    return []
