"""Two machines with one worker's key: the one at work stays, the other is refused for as long as that is heard, and the
owner is told.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from events import catalog, protocol
from events.catalog import pool_subject
from events.protocol import Denied, Heartbeat, Hello, Orders, Output, Poll, PollAnswer, Report
from events.worker import Capacity, WorkerContested
from infra import nkey
from infra.credential import Credential
from infra.link import Link, LinkTimeout
from infra.nkey import Signer
from services.pool import liveness, worker
from tests.nats_support import eventually
from tests.signing_support import opened
from tests.signing_support import said as signed
from tests.web_support import POOL, Api, Crew, api

HEARD_S = 1.0
ANSWER_S = 1.0


class Copy:
    """A machine with the same key and another boot."""

    def __init__(self, link: Link, name: str, signer: Signer) -> None:
        self.link, self.name, self.signer = link, name, signer
        self._sequence = itertools.count(1)

    async def greet(self) -> PollAnswer:
        """What its hello is answered."""
        hello = Hello("another boot", Capacity(1000, 2**30), "test", "nonce")
        poll = signed(POOL, self.name, Poll("copy", next(self._sequence), hello=hello), self.signer)
        answer = (await self.link.request(f"req.{POOL}.{self.name}.next", poll, ANSWER_S)).data
        return protocol.poll_answer_of(opened(answer))

    async def beat(self) -> None:
        """All else by which a worker is heard, until cancelled."""
        while True:
            self.link.send(f"hb.{POOL}.{self.name}", protocol.pack(Heartbeat("copy", 1)))
            self.link.send(
                f"req.{POOL}.{self.name}.report", signed(POOL, self.name, Report("copy", 1, []), self.signer)
            )
            self.link.send(f"req.{POOL}.{self.name}.output", protocol.pack(Output("copy", [])))
            await asyncio.sleep(HEARD_S / 4)


class Machines:
    """The one at work, and the copy."""

    def __init__(self, hive: Api, crew: Crew, copy: Copy) -> None:
        self.hive, self.crew, self.copy = hive, crew, copy

    async def row(self, key: str = "") -> dict[str, object]:
        """The worker in the API."""
        headers = {"Authorization": f"Bearer {key or self.hive.key}"}
        status, found = await self.hive.ask("GET", f"/v1/workers/{self.crew.worker}", headers=headers)
        assert status == 200
        return found


@contextlib.asynccontextmanager
async def machines(root: Path) -> AsyncGenerator[tuple[Machines, "asyncio.Task[None]"]]:
    async with api(root) as hive:
        seed = nkey.new_user_seed()
        public_key = nkey.public_of(seed)
        _, answer = await hive.ask("POST", "/v1/workers", json={"public_key": public_key, "name": "one"})
        name = answer["worker"]
        jwt = hive.nats.admit(name, public_key, POOL)
        who, inbox = Credential(seed, lambda: jwt), f"_INBOX_{name}"
        links = [await Link.open(hive.nats.url, who, name, inbox) for _ in range(2)]
        crew = Crew(links[0], name)
        crew.seed = seed
        work = asyncio.create_task(crew.run())
        both = Machines(hive, crew, Copy(links[1], name, Signer(seed)))

        async def ready() -> bool:
            return (await both.row())["state"] == "ready"

        await eventually(ready, "the first is at work")
        try:
            yield both, work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            for link in links:
                await link.close()


async def beat(crew: Crew) -> None:
    """Be heard, as an agent is also while it has nothing to say."""
    while True:
        crew.link.send(f"hb.{POOL}.{crew.worker}", protocol.pack(Heartbeat("session", 1)))
        await asyncio.sleep(HEARD_S / 4)


async def said(both: Machines) -> list[WorkerContested]:
    """What the log says of it."""
    async for entries in both.hive.core.log.read(pool_subject(POOL), 1):
        messages = [catalog.decode(entry.data) for entry in entries]
        events = [event for message in messages for decision in message.decisions for event in decision.events]
        return [event for event in events if isinstance(event, WorkerContested)]
    return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker, liveness):
        monkeypatch.setattr(module, "UNREACHABLE_MS", int(HEARD_S * 1000))


@pytest.mark.usefixtures("quick")
async def test_the_second_is_refused_while_the_first_is_heard_and_let_in_after(tmp_path: Path) -> None:
    async with machines(tmp_path) as (both, work):
        beating = asyncio.create_task(beat(both.crew))
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * HEARD_S
        while loop.time() < until:
            answer = await both.copy.greet()
            assert isinstance(answer, Denied)
            assert (answer.code, "another machine is at work" in answer.detail) == ("two_machines", True)
            await asyncio.sleep(HEARD_S / 4)
        _, job = await both.hive.ask("POST", "/v1/jobs", json={"command": ["true"]})

        async def done() -> bool:
            return (await both.hive.ask("GET", f"/v1/jobs/{job['jobs'][0]['job']}"))[1]["state"] == "succeeded"

        await eventually(done, "the first works on, and its polls are answered")

        beating.cancel()
        work.cancel()
        await asyncio.gather(beating, work, return_exceptions=True)
        # What the refused one says does not count as the first's.
        beating = asyncio.create_task(both.copy.beat())

        async def let_in() -> bool:
            try:
                return isinstance(await both.copy.greet(), Orders)
            except LinkTimeout:  # it asks more often than is taken of one worker
                return False

        await eventually(let_in, "once the first is silent")
        beating.cancel()


async def test_the_owner_is_told_and_others_are_not(tmp_path: Path) -> None:
    async with machines(tmp_path) as (both, _):
        assert (await both.row())["warning"] == ""
        for _ in range(3):
            assert isinstance(await both.copy.greet(), Denied)

        async def told() -> bool:
            return "another machine came with this worker's key" in str((await both.row())["warning"])

        await eventually(told, "the owner sees it")
        assert (await both.row(await both.hive.key_of("user")))["warning"] == ""
        assert [event.boot for event in await said(both)] == ["another boot"], "once, however often it tries"
