"""People when something ends: users are erased, processes crash between two steps, Postgres is killed."""

import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from events.account import Limits, UserActed, UserRegistered
from infra.database import Database, DatabaseAway
from infra.link import Link
from infra.sealing import KeyAway, KeyDestroyed
from projections.access import Access, apply
from services.accounts.commands import Administer, Erase, SetLimits
from services.accounts.failures import ACCOUNT_FAILURES_MAX
from services.accounts.tidying import PENDING_MS
from tests.nats_support import eventually, until
from tests.people_support import OTHER, PASSWORD, Town, accounts_log, ground, refused, town
from tests.postgres_support import Server

LATER_MS = 4_000_000_000_000


@pytest.fixture
async def link(tmp_path: Path) -> AsyncGenerator[Link]:
    async with ground(tmp_path / "nats") as made:
        yield made


@pytest.fixture
async def here(link: Link, database: Database, tmp_path: Path) -> AsyncGenerator[Town]:
    """One process, where anybody may register."""
    async with town(link, database, tmp_path / "here") as made:
        yield made


# Being erased


async def test_erased_for_good_and_everything_else_stays_valid(
    here: Town, link: Link, database: Database, tmp_path: Path
) -> None:
    ada, bob = await here.join("ada", "ada@example.org"), await here.join("bob")
    keyring = here.host.keyring
    texts = {user: keyring.seal(user, f"echo {user}".encode()) for user in (ada, bob)}
    acted = UserActed("admin", "user.limits", ada, keyring.seal(ada, b"10.0.0.1"))
    await here.tell(Administer(SetLimits(ada, Limits(open_jobs=5)), acted))
    tokens = await here.host.people.log_in("ada", PASSWORD)
    with refused("wrong_login"):
        await here.host.people.erase(ada, OTHER)
    await here.host.people.erase(ada, PASSWORD)

    assert not here.lets_in(tokens.access)
    with refused("wrong_login"):
        await here.host.people.log_in("ada", PASSWORD)
    with pytest.raises(KeyDestroyed):
        keyring.open(texts[ada])
    assert keyring.open(texts[bob]) == f"echo {bob}".encode()
    for table in ("users", "data_keys", "sessions"):
        assert not await database.fetch(f"SELECT 1 FROM identity.{table} WHERE user_id = $1", ada), table

    # The whole log, folded again from its first message, says the same; and a new process reads no more of it.
    refolded = Access()
    for message in await accounts_log(link):
        for event in message.events():
            assert apply(refolded, event, message.at)
    assert refolded == here.access.state
    assert refolded.users[ada].state == "erased"
    assert refolded.users[ada].limits == Limits(open_jobs=5)
    async with town(link, database, tmp_path / "there", leads=False) as there:
        await until(lambda: there.access.position == here.access.position, "it read the log")

        def told(user: str) -> str:
            try:
                return there.host.keyring.open(texts[user]).decode()
            except Exception as error:  # noqa: BLE001 - its name is what is looked at
                return type(error).__name__

        await until(lambda: told(ada) == "KeyDestroyed", "its text is gone")
        await until(lambda: told(bob) == f"echo {bob}", "others' is not")
    await here.join("ada")


async def test_the_last_admin_stays(here: Town) -> None:
    await here.admin_is_there()
    token, _ = await here.host.mails.new_link("admin", "reset")
    await here.host.people.reset_password(token, PASSWORD)
    with refused("last_admin"):
        await here.host.people.erase("admin", PASSWORD)
    await here.host.people.log_in("admin", PASSWORD)


# Crashes between two steps


class Crashed(Exception):
    """The process ends here."""


def crash_at(target: Any, method: str) -> None:
    """Have the process end when it comes to this step."""

    async def crash(*args: Any, **more: Any) -> None:
        raise Crashed

    setattr(target, method, crash)


@pytest.mark.parametrize("step", ["keyring.make", "accounts.ask", "store.set_registered"])
async def test_a_registration_that_crashed(
    here: Town, link: Link, database: Database, tmp_path: Path, step: str
) -> None:
    """Half a registration comes to its end when its user asks again; otherwise the log says what becomes of it."""
    part, method = step.split(".")
    real = getattr(getattr(here.host.people.parts, part), method)
    crash_at(getattr(here.host.people.parts, part), method)
    for name in ("ada", "bob"):
        with pytest.raises(Crashed):
            await here.join(name)
    setattr(getattr(here.host.people.parts, part), method, real)

    async with town(link, database, tmp_path / "there", leads=False) as there:
        await until(lambda: there.access.position == here.access.position, "it read the log")
        with refused("name_taken"):
            await there.host.people.register("ada", OTHER)
        ada = await there.host.people.register("ada", PASSWORD)
        assert (await there.host.people.log_in("ada", PASSWORD)).user == ada
        await there.host.tidying.once(time.time_ns() // 1_000_000 + PENDING_MS + 60_000)
        if step == "store.set_registered":
            assert (await there.host.people.log_in("bob", PASSWORD)).user in there.access.state.users
        else:
            with refused("wrong_login"):
                await there.host.people.log_in("bob", PASSWORD)
            await there.host.people.register("bob", OTHER)
        assert not await there.host.store.pending(LATER_MS)
    registered = [event for message in await accounts_log(link) for event in message.events()]
    assert len([event for event in registered if isinstance(event, UserRegistered)]) == 3


async def test_a_registration_whose_name_was_freed_meanwhile_is_undone(here: Town) -> None:
    accounts: Any = here.host.people.parts.accounts
    real = accounts.ask

    async def slow(*args: Any, **more: Any) -> Any:
        await here.host.tidying.once(time.time_ns() // 1_000_000 + PENDING_MS + 60_000)
        return await real(*args, **more)

    accounts.ask = slow
    with refused("too_slow"):
        await here.join()
    accounts.ask = real
    assert [user.state for name, user in here.access.state.users.items() if name != "admin"] == ["erased"]
    await here.join()


@pytest.mark.parametrize("where", ["same folder", "another folder"])
async def test_an_erasure_that_crashed_after_the_fact(
    here: Town, link: Link, database: Database, tmp_path: Path, where: str
) -> None:
    user = await here.join("ada", "ada@example.org")
    sealed = here.host.keyring.seal(user, b"echo hello")
    root = tmp_path / "there"
    async with town(link, database, root, leads=False) as there:
        await until(lambda: there.host.keyring.has(user), "the key is in both caches")
    # Only the fact: this process is held back from acting on it.
    crash_at(here.host.store, "remove_users")
    crash_at(here.host.store, "destroy_keys")
    await here.tell(Erase(user))
    assert await database.fetch("SELECT 1 FROM identity.users WHERE user_id = $1", user)
    async with town(link, database, root if where == "same folder" else tmp_path / "new", leads=False) as again:
        await until(lambda: again.access.position > 0 and again.access.state.users[user].state == "erased", "it read")

        async def gone() -> bool:
            rows = await database.fetch(
                "SELECT 1 FROM identity.users WHERE user_id = $1 UNION SELECT 1 FROM identity.data_keys WHERE user_id = $1",
                user,
            )
            return not rows

        await eventually(gone, "row and key are destroyed")

        def unreadable() -> bool:
            try:
                again.host.keyring.open(sealed)
            except KeyDestroyed:
                return True
            except KeyAway:
                return False  # a key of which this folder never heard is looked for first
            return False

        await until(unreadable, "its text is gone")


# Postgres away


async def test_postgres_killed_and_back(here: Town, server: Server) -> None:
    user = await here.join()
    tokens = await here.host.people.log_in("ada", PASSWORD)
    sealed = here.host.keyring.seal(user, b"echo hello")
    server.stop(signal.SIGKILL)
    try:
        assert here.lets_in(tokens.access), "who is in stays in"
        assert here.host.keyring.open(sealed) == b"echo hello"
        for _ in range(ACCOUNT_FAILURES_MAX + 1):
            with pytest.raises(DatabaseAway):
                await here.host.people.log_in("ada", PASSWORD)
        with pytest.raises(DatabaseAway):
            await here.host.people.register("bob", PASSWORD)
        await here.tell(Erase(user))
        with pytest.raises(KeyDestroyed):
            here.host.keyring.open(sealed)
    finally:
        server.start()

    async def gone() -> bool:
        try:
            return not await here.database.fetch("SELECT 1 FROM identity.users WHERE user_id = $1", user)
        except DatabaseAway:
            return False

    await eventually(gone, "what was left is destroyed")
    await here.join("ada")


async def test_uses_of_keys_are_written_down_together(here: Town, server: Server) -> None:
    uses, store, tidying = here.host.uses, here.host.store, here.host.tidying
    for at in (5, 7, 6):
        uses.note(f"k{at % 2}", "admin", at)
    await tidying.once()
    assert await store.uses(["k0", "k1", "none"]) == {"k0": 6, "k1": 7}
    server.stop(signal.SIGKILL)
    try:
        uses.note("k0", "admin", 9)
        with pytest.raises(DatabaseAway):
            await tidying.once()
        assert uses.at("k0") == 9, "kept for later"
    finally:
        server.start()
