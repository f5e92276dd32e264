"""Another key for a worker: its agent goes on with it and what runs with the agent, and wherever a machine dies one key is
good.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra import nkey
from infra.folder import Folder
from infra.nats_jwt import read_user
from infra.renewal import NOT_ENROLLED
from tests.nats_support import until
from tests.system import system
from tests.worker_support import Rig
from worker import rekey
from worker.api import Api, Unavailable
from worker.credential import JWT_NAME
from worker.identity import SEED_NAME, load_or_create
from worker.signed import AskRefused


@asynccontextmanager
async def asking(rig: Rig, url: str = "") -> AsyncGenerator[Api]:
    api = Api(url or rig.shelf.url)
    yield api
    await api.close()


def key(rig: Rig) -> str:
    """The public key that the worker has now."""
    return nkey.public_of(rig.who.seed_path.read_text())


def is_connected_as(rig: Rig, public_key: str) -> bool:
    link = rig.agent._link
    return link.connected and nkey.public_of(link._credential.seed) == public_key


def made(rig: Rig) -> Path:
    """Where the new key lies until it takes the old one's place."""
    return rig.who.seed_path.with_name(rekey.NEXT_NAME)


async def test_a_running_agent_goes_on_with_another_key_and_with_what_it_runs(rig: Rig, tmp_path: Path) -> None:
    await rig.start()
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    order = rig.pool.sh(f"echo $$ > {begun}; while [ ! -e {go_on} ]; do sleep 0.05; done; exit 7")
    await until(begun.exists, "the task runs")
    async with asking(rig) as api:
        public_key = await rekey.rekey(rig.root, rig.who.worker, api)
    assert (key(rig), made(rig).exists()) == (public_key, False)
    assert rig.who.seed_path.stat().st_mode & 0o777 == 0o600
    await until(lambda: is_connected_as(rig, public_key), "the agent is back with the new key")
    go_on.touch()
    assert (await rig.pool.ended(order)).code == 7
    assert len({session for session, _ in rig.pool.hellos}) == 1, "it is the same session"
    assert read_user((rig.root / "keys" / JWT_NAME).read_text()).sub == public_key


async def test_the_id_stays_and_so_does_what_the_next_agent_is(rig: Rig) -> None:
    task = await rig.start()
    await rig.kill(task)
    async with asking(rig) as api:
        first = await rekey.rekey(rig.root, rig.who.worker, api)
        second = await rekey.rekey(rig.root, rig.who.worker, api)
    assert len({rig.who.public_key, first, second, load_or_create(rig.root, {}).public_key}) == 3
    await rig.start()
    assert is_connected_as(rig, second)
    assert [worker for _, worker in rig.shelf.mints] == [second]
    assert [worker for worker, _ in rig.shelf.mints] == [rig.who.worker]


@pytest.mark.parametrize("runs", [True, False])
async def test_a_machine_that_died_before_it_wrote_the_new_key_finds_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    task = await rig.start()
    if not runs:
        await rig.kill(task)
    with monkeypatch.context() as dying:
        dying.setattr(rekey, "promote", lambda present, seed: None)
        async with asking(rig) as api:
            await rekey.finish(rig.root, rig.who.worker, api)
            Folder(rig.root).secret(rekey.NEXT_NAME, lambda: nkey.new_user_seed().encode())
            await rekey.finish(rig.root, rig.who.worker, api)
    following = nkey.public_of(made(rig).read_text())
    assert key(rig) == rig.who.public_key != following
    if not runs:
        await rig.start()
    await until(lambda: is_connected_as(rig, following), "the agent tries the key that was made")
    await until(lambda: key(rig) == following and not made(rig).exists(), "and keeps it")
    assert (403, NOT_ENROLLED) in rig.shelf.credentials
    assert (await rig.pool.ended(rig.pool.sh("exit 3"))).code == 3


async def test_a_machine_that_died_before_it_asked_goes_on_with_its_key(rig: Rig) -> None:
    left = Folder(rig.root).secret(rekey.NEXT_NAME, lambda: nkey.new_user_seed().encode()).decode()
    await rig.start()
    assert is_connected_as(rig, rig.who.public_key)
    async with asking(rig) as api:
        public_key = await rekey.rekey(rig.root, rig.who.worker, api)
    assert public_key not in (rig.who.public_key, nkey.public_of(left)), "what lay there is not what it ends with"
    await until(lambda: is_connected_as(rig, public_key), "the agent follows")


async def test_what_is_away_or_refuses_leaves_the_key_that_is(rig: Rig) -> None:
    async with asking(rig, "http://127.0.0.1:1") as away:
        with pytest.raises(Unavailable):
            await rekey.rekey(rig.root, rig.who.worker, away)
    rig.shelf.mints.clear()
    async with asking(rig) as api:
        with pytest.raises(AskRefused) as refused:
            await rekey.rekey(rig.root, rig.who.worker, api)
    assert (refused.value.code, key(rig)) == (NOT_ENROLLED, rig.who.public_key)


async def test_only_what_was_told_takes_the_place(tmp_path: Path) -> None:
    present = load_or_create(tmp_path, {}).seed_path
    before, told = present.read_text(), nkey.new_user_seed()
    present.with_name(rekey.NEXT_NAME).write_text(nkey.new_user_seed())
    await asyncio.gather(*(asyncio.to_thread(rekey.promote, present, told) for _ in range(4)))
    assert present.read_text() == before
    present.with_name(rekey.NEXT_NAME).write_text(told)
    await asyncio.gather(*(asyncio.to_thread(rekey.promote, present, told) for _ in range(4)))
    assert present.read_text() == told


@pytest.mark.slow
async def test_hivectl_gives_a_working_machine_another_key(tmp_path: Path) -> None:
    go_on, begun = tmp_path / "go-on", tmp_path / "begun"
    async with system(tmp_path / "hive") as running:
        await running.plane()
        agent = running.agent("one")
        state = running.folder.path("agents", "one")
        async with running.client() as client:
            await running.ready(client, 1)
            [worker] = await client.workers()
            old = (state / "keys" / SEED_NAME).read_text()
            job = await client.submit(["sh", "-c", f"touch {begun}; until [ -e {go_on} ]; do sleep 0.05; done"])
            await until(begun.exists, "the task runs")
            asked = running.spawn("worker", "rekey", "--state", str(state))
            assert await asyncio.to_thread(asked.wait, 60) == 0, running.tail()
            new = (state / "keys" / SEED_NAME).read_text()
            assert nkey.public_of(new) != nkey.public_of(old)
            log = running.folder.path("nats", "revocations.json")
            await until(lambda: nkey.public_of(old) in log.read_text(), "the server shuts the old key out")
            go_on.touch()
            assert (await client.result(job, timeout=60)).ok
            assert agent.poll() is None
            # The next agent enrols with the new key, and is the same worker.
            agent.terminate()
            await asyncio.to_thread(agent.wait, 60)
            running.agent("one")
            await running.ready(client, 1)
            assert [found.worker for found in await client.workers()] == [worker.worker]
            assert (await client.result(await client.submit(["true"]), timeout=60)).ok

            asked = running.spawn("worker", "rekey", "--state", str(tmp_path / "nobody"))
            assert await asyncio.to_thread(asked.wait, 60) == 2
            assert "no worker has a key of its own in" in running.tail()
