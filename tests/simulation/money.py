"""The ledger of a simulation: a real service beside the pool's in each control plane, and its own fold of the log."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from events import catalog
from events.account import UserRegistered
from events.base import UserId, WorkerId
from events.catalog import ACCOUNTS_SUBJECT, AnyEvent, Decision, Message
from events.job import Cost, JobSubmitted
from events.ledger import MINT, ChargePosted, HoldReleased
from events.log import MemoryLog
from infra.index import Index
from infra.turn import BeaconTurn
from services.ledger import model
from services.ledger.service import LEDGER, LedgerService
from services.ledger.state import Ledger, Rules
from tests.pool_support import T0
from tests.simulation.network import SimLink

MICRO = 1_000_000
GRANT = 60 * MICRO
RULES = Rules(sign_up_grant=GRANT, grace_ms=5_000)
USERS = ("u1", "owner")


class NoSnapshots:
    """It is folded from the first message each time."""

    def latest(self, last: int) -> tuple[int, Ledger] | None:
        return None


def owner_of(worker: WorkerId) -> UserId:
    """Whose all workers are."""
    return USERS[1]


async def enrol(log: MemoryLog) -> None:
    """The users register; the ledger gives each its grant."""
    facts: list[AnyEvent] = [UserRegistered(user, ["user"]) for user in USERS]
    await log.append(ACCOUNTS_SUBJECT, catalog.encode(Message("users", T0, "accounts", [Decision(facts)])), 0)


def cost_of(random: Random, count: int, limit_ms: int) -> Cost | None:
    """What a job costs, if anything: sometimes more than its owner has, sometimes so little that it is soon used up."""
    if random.random() < 0.3:
        return None
    per_hour, each_ms = random.choice([0, 3600 * MICRO, 36_000 * MICRO]), limit_ms or random.choice([1000, 20_000])
    base = random.choice([0, 1000])
    hold = base * count - (-per_hour * count * each_ms // 3_600_000)
    return Cost(base, per_hour, hold, 0 if limit_ms else each_ms)


class Purse:
    """One control plane's ledger: lives come and go, the index stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.service: LedgerService | None = None

    async def run(self, link: SimLink, way: Any, name: str, clock: Callable[[], int]) -> None:
        """Serve until cancelled."""
        index = Index(self._path)
        turn = BeaconTurn(link, LEDGER, name)  # pyright: ignore[reportArgumentType]
        await turn.start()
        self.service = LedgerService(
            link,  # pyright: ignore[reportArgumentType]
            way,
            index=index,
            snapshots=NoSnapshots(),
            turn=turn,
            name=name,
            version="1",
            rules=RULES,
            owner_of=owner_of,
            clock=clock,
        )
        try:
            await self.service.run()
        finally:
            await turn.stop()
            index.close()


class Accounts:
    """The auditor's own books: what the ledger's messages come to, each checked as it comes."""

    def __init__(self) -> None:
        self.state = Ledger()
        self.costs: dict[str, Cost | None] = {}
        self.charged: dict[str, int] = {}
        self.released: list[str] = []

    def submitted(self, event: JobSubmitted) -> None:
        """A job was handed in."""
        self.costs[f"p/{event.job}"] = event.cost

    def take(self, message: Message) -> None:
        """Fold a message of the ledger. Raises AssertionError."""
        model.fold(self.state, message)
        model.check(self.state)
        for event in message.events():
            if isinstance(event, ChargePosted):
                assert self.costs[event.hold] is not None, f"{event.hold} costs nothing"
                self.charged[event.hold] = self.charged.get(event.hold, 0) + event.price
            elif isinstance(event, HoldReleased):
                assert event.charged == self.charged.get(event.hold, 0)
                self.released.append(event.hold)

    def conclude(self) -> None:
        """All jobs are over: so are all holds, and no money is lost."""
        books = self.state.books
        assert not books.holds, f"held for jobs that are over: {[*books.holds]}"
        assert len(self.released) == len(set(self.released)), "released twice"
        assert not [name for name in books.balances if name.startswith("hold:")]
        there = sum(balance for name, balance in books.balances.items() if name != MINT)
        assert there == -books.balance(MINT)
        assert books.balance(MINT) <= -GRANT * len(USERS)


async def together(*works: Any) -> None:
    """Run them until the first that fails, with its own error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
