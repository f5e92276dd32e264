"""Data keys on a real Postgres: there when it is away, gone for good once destroyed, and nobody else's."""

import asyncio
import contextlib
import shutil
import signal
import sqlite3
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from events.account import UserErased, UserRegistered
from events.base import Sealed
from infra.database import Database, DatabaseAway
from infra.identity_store import IdentityStore
from infra.keyring import Keyring
from infra.sealing import KEY_BYTES, KeyAway, KeyDestroyed, SealBroken, Sealer
from tests.nats_support import eventually, until
from tests.postgres_support import Server, own_database, until_up

ROOT = bytes(range(KEY_BYTES))
TEXT = b"echo a secret of ada's"


@pytest.fixture
async def store(server: Server) -> AsyncGenerator[IdentityStore]:
    """An empty store of this test's own."""
    async with own_database(server) as database:
        yield IdentityStore(database)


class Rings:
    """Keyrings over one store and one list of erased users, each with a cache of its own."""

    def __init__(self, store: IdentityStore, folder: Path) -> None:
        self.store, self.folder, self.erased = store, folder, set[str]()
        self.exits = contextlib.AsyncExitStack()

    def cache(self, name: str) -> Path:
        return self.folder / name / "people.sqlite"

    async def ring(self, name: str = "a", root: bytes = ROOT) -> Keyring:
        made = Keyring(root, self.cache(name), self.store, lambda user: user in self.erased)
        task = asyncio.create_task(made.run())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            made.close()

        self.exits.push_async_callback(end)
        return made

    async def user(self, name: str = "ada") -> str:
        await self.store.add_user(name, name, name, "", 1)
        return name


@pytest.fixture
async def rings(store: IdentityStore, tmp_path: Path) -> AsyncGenerator[Rings]:
    made = Rings(store, tmp_path)
    async with made.exits:
        yield made


def opens(ring: Keyring, sealed: Sealed) -> bool:
    try:
        return ring.open(sealed) == TEXT
    except KeyAway:
        return False


def destroyed(ring: Keyring, sealed: Sealed) -> bool:
    try:
        ring.open(sealed)
    except KeyDestroyed:
        return True
    except KeyAway:
        return False
    return False


async def test_each_has_a_key_of_their_own_and_the_admin_that_of_old_logs(rings: Rings) -> None:
    ring = await rings.ring()
    for name in ("ada", "bob"):
        await ring.make(await rings.user(name))
    ada, bob, admin = (ring.seal(user, TEXT) for user in ("ada", "bob", "admin"))
    assert len({ada.key, bob.key, admin.key}) == 3
    assert admin.key == "k1"
    assert Sealer(ROOT).open(admin) == TEXT
    assert [ring.open(sealed) for sealed in (ada, bob, admin)] == [TEXT] * 3
    with pytest.raises(SealBroken):
        ring.open(Sealed(bob.key, ada.data))


async def test_making_twice_keeps_the_first(rings: Rings) -> None:
    a, b = await rings.ring("a"), await rings.ring("b")
    user = await rings.user()
    await asyncio.gather(a.make(user), b.make(user), a.make(user))
    assert a.seal(user, TEXT).key == b.seal(user, TEXT).key
    with pytest.raises(KeyDestroyed, match="no user"):
        await a.make("nobody")


async def test_a_key_made_elsewhere_is_fetched_when_it_is_needed(rings: Rings) -> None:
    a, b = await rings.ring("a"), await rings.ring("b")
    await a.make(await rings.user("eve"))
    first = a.seal("eve", TEXT)
    await until(lambda: opens(b, first), "the other one has started")
    await a.make(await rings.user())
    sealed = a.seal("ada", TEXT)
    with pytest.raises(KeyAway):
        b.open(sealed)
    await until(lambda: opens(b, sealed), "the key is fetched for a text")
    c = await rings.ring("c")
    await until(lambda: c.has("ada"), "what was there is fetched at the start")
    await a.make(await rings.user("bob"))
    c.heard(UserRegistered("bob", ["user"]), 1)
    await until(lambda: c.has("bob"), "the key of a user who was heard of is fetched")


async def test_what_was_known_opens_while_postgres_is_away(rings: Rings, server: Server) -> None:
    ring = await rings.ring()
    await ring.make(await rings.user())
    sealed = ring.seal("ada", TEXT)
    server.stop(signal.SIGKILL)
    try:
        again = await rings.ring("a")
        assert again.open(sealed) == ring.open(sealed) == TEXT
        assert again.open(again.seal("ada", TEXT)) == TEXT
        with pytest.raises(DatabaseAway):
            await again.make("bob")
        elsewhere = await rings.ring("b")
        with pytest.raises(KeyAway):
            elsewhere.open(sealed)
        with pytest.raises(KeyAway):
            elsewhere.seal("ada", TEXT)
    finally:
        server.start()
    await until(lambda: opens(elsewhere, sealed), "fetched once Postgres is back")


async def test_a_destroyed_key_opens_nothing_anywhere(rings: Rings) -> None:
    a, b = await rings.ring("a"), await rings.ring("b")
    await a.make(await rings.user())
    sealed = a.seal("ada", TEXT)
    await until(lambda: opens(b, sealed), "both have it")
    shutil.copytree(rings.cache("a").parent, rings.cache("stolen").parent)

    rings.erased.add("ada")
    for ring in (a, b):
        ring.heard(UserErased("ada"), 1)
        with pytest.raises(KeyDestroyed):
            ring.open(sealed)
        with pytest.raises(KeyDestroyed):
            ring.seal("ada", TEXT)
        with pytest.raises(KeyDestroyed):
            await ring.make("ada")

    async def gone() -> bool:
        return not await rings.store.some_keys([], ["ada"])

    await eventually(gone, "the key is gone from Postgres")
    for name in ("a", "b"):
        await until(lambda name=name: not _cached(rings.cache(name)), "the key is gone from the cache")
    restarted, stolen, fresh = await rings.ring("a"), await rings.ring("stolen"), await rings.ring("fresh")
    assert destroyed(stolen, sealed)
    await until(lambda: destroyed(restarted, sealed) and destroyed(fresh, sealed), "it is known to be nowhere")


def _cached(path: Path) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT key FROM data_keys").fetchall()


async def test_what_was_erased_while_this_was_down_is_destroyed_at_the_start(rings: Rings) -> None:
    ring = await rings.ring()
    await ring.make(await rings.user())
    sealed = ring.seal("ada", TEXT)
    rings.erased.add("ada")
    again = await rings.ring("a")
    again.compare(["ada"])
    assert destroyed(again, sealed)

    async def gone() -> bool:
        return not await rings.store.some_keys([], ["ada"]) and not _cached(rings.cache("a"))

    await eventually(gone, "nothing is left of it")


async def test_destroying_goes_on_when_postgres_is_back(rings: Rings, server: Server) -> None:
    ring = await rings.ring()
    await ring.make(await rings.user())
    sealed = ring.seal("ada", TEXT)
    server.stop(signal.SIGKILL)
    try:
        rings.erased.add("ada")
        with pytest.raises(DatabaseAway):
            await ring.destroy("ada")
        assert destroyed(ring, sealed)
        assert not _cached(rings.cache("a"))
    finally:
        server.start()

    async def gone() -> bool:
        try:
            return not await rings.store.some_keys([], ["ada"])
        except DatabaseAway:
            return False

    await eventually(gone, "the key is gone from Postgres")


async def test_keys_lie_wrapped_and_for_their_user_alone(rings: Rings) -> None:
    ring = await rings.ring()
    for name in ("ada", "bob"):
        await ring.make(await rings.user(name))
    sealed = ring.seal("ada", TEXT)
    cache = rings.cache("a")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    (key,) = (key for user, key in ring._keys.values() if user == "ada")
    assert key not in cache.read_bytes()
    rows = {row.user: row for row in await rings.store.all_keys()}
    assert key not in rows["ada"].wrapped
    # Bob's row with Ada's wrapped key in it, as somebody with access to Postgres alone could write it.
    forged = msgspec.structs.replace(rows["bob"], wrapped=rows["ada"].wrapped)
    other = Keyring(ROOT, cache.with_name("other.sqlite"), rings.store, lambda user: False)
    other._take([forged])
    assert not other.has("bob")
    other.close()
    stranger = await rings.ring("stranger", root=bytes(KEY_BYTES))
    await until(lambda: bool(stranger._not_ours), "it looked for the key")
    with pytest.raises(SealBroken, match=r"another data\.key"):
        stranger.open(sealed)
    with pytest.raises(KeyAway):
        stranger.seal("ada", TEXT)
    assert not _cached(rings.cache("stranger"))


async def test_a_damaged_cache_is_made_again(rings: Rings) -> None:
    ring = await rings.ring()
    await ring.make(await rings.user())
    sealed = ring.seal("ada", TEXT)
    rings.cache("b").parent.mkdir()
    rings.cache("b").write_bytes(b"no database at all, but long enough to look like a file" * 100)
    again = await rings.ring("b")
    await until(lambda: opens(again, sealed), "fetched from Postgres")


async def test_the_schema_is_made_once_by_whoever_comes(server: Server) -> None:
    async with own_database(server) as database:
        stores = [IdentityStore(database) for _ in range(4)]
        await asyncio.gather(*(store.ensure() for store in stores))
        await stores[0].add_user("ada", "Ada", "ada", "", 1)
        rows = await asyncio.gather(*(store.user("ada") for store in stores))
        assert [row.name for row in rows if row] == ["Ada"] * 4


async def test_what_was_committed_survives_a_kill(server: Server, store: IdentityStore) -> None:
    await store.add_user("ada", "Ada", "ada", "hash", 1)
    server.stop(signal.SIGKILL)

    async def away() -> bool:
        # A connection's own process may outlive the one that was killed for a moment.
        try:
            await store.user("ada")
        except DatabaseAway:
            return True
        return False

    await eventually(away, "Postgres is away")
    server.start()
    await until_up(Database(server.dsn()))

    async def back() -> bool:
        try:
            row = await store.user("ada")
        except DatabaseAway:
            return False
        return row is not None and row.password == "hash"

    await eventually(back, "the row is there")
