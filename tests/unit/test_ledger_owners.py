"""Who is paid: it does not depend on whether the pool's log or that of the accounts is read first."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from events import catalog
from events.account import UserRegistered
from events.catalog import ACCOUNTS_SUBJECT, Decision, Message, pool_subject
from events.job import Cost, JobFinished
from events.ledger import HoldReleased, RewardPaid
from events.log import MemoryLog
from events.task import Counted, Detail, TasksFinished
from events.worker import Capacity, WorkerRegistered
from infra.index import Index
from services.ledger.service import UNKNOWN_MS, LedgerService
from services.ledger.state import Rules
from tests.ledger_support import T0
from tests.pool_support import fact
from tests.simulation.network import Net, SimLink
from tests.writer_support import Turn, until

POOL = pool_subject("p")
ENDED = TasksFinished("j1", [0, 0], 1, "w1", 1, [Detail(wall_ms=1000)], Counted(1, 1000))


class NoSnapshots:
    def latest(self, last: int) -> None:
        return None


class Rig:
    """A ledger that leads, over logs that have a job which was paid for."""

    def __init__(self, log: MemoryLog, index: Index) -> None:
        self.log, self.owner, self.now = log, "", T0
        self.turn = Turn()
        self.known = False
        link: Any = SimLink(Net(Random(0)), "a")
        self.service = LedgerService(
            link, log, index=index, snapshots=NoSnapshots(), turn=self.turn, name="a", version="1",
            rules=Rules(sign_up_grant=1000), owner_of=lambda worker: self.owner if self.known else None,
            clock=lambda: self.now,
        )  # fmt: skip

    async def say(self, subject: str, *events: Any) -> None:
        message = Message(f"m{len(self.log.entries)}", self.now, "x", [Decision([*events])])
        await self.log.append(subject, catalog.encode(message), await self.log.last(subject))

    def said(self, *types: type) -> list[Any]:
        messages = [catalog.decode(entry.data) for entry in self.log.entries if entry.subject == "evt.ledger.main"]
        return [event for message in messages for event in message.events() if isinstance(event, types)]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    index = Index(tmp_path / "ledger.sqlite")
    made = Rig(MemoryLog(), index)
    task = asyncio.create_task(made.service.run())
    made.turn.free.set()
    await made.say(ACCOUNTS_SUBJECT, UserRegistered("u1", ["user"]))
    await until(lambda: made.service.writer.state.balance("user:u1") == 1000)
    cost = Cost(0, 3_600_000, 1000, 0)
    await made.say(POOL, WorkerRegistered("w1", "s", "b", Capacity(1000, 1)), fact("j1", owner="u1", cost=cost))
    await until(lambda: bool(made.service.writer.state.books.holds))
    await made.say(POOL, ENDED, JobFinished("j1", "succeeded", 1))
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    index.close()


async def test_an_end_waits_until_it_is_known_whose_the_worker_is(rig: Rig) -> None:
    await until(lambda: rig.service._waits)
    assert rig.said(RewardPaid, HoldReleased) == []
    rig.owner, rig.known = "ann", True
    await until(lambda: bool(rig.said(HoldReleased)))
    (paid,) = rig.said(RewardPaid)
    assert (paid.owner, paid.due) == ("ann", 900)


async def test_of_a_worker_that_nobody_knows_the_treasury_has_the_price_after_a_while(rig: Rig) -> None:
    rig.known = True
    await until(lambda: rig.service._waits)
    assert rig.said(HoldReleased) == []
    rig.now += UNKNOWN_MS
    await until(lambda: bool(rig.said(HoldReleased)))
    assert rig.said(RewardPaid) == []
    assert rig.service.writer.state.balance("treasury") == 900
