"""Two ledgers race, are killed, fenced and lose answers, with their indexes on disk; who asks asks again until it is
told. Whatever was acknowledged is on the log once, and nothing is there twice.
"""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from events import catalog
from events.account import UserErased, UserRegistered
from events.catalog import ACCOUNTS_SUBJECT, LEDGER_SUBJECT, Decision, Message
from events.ledger import TransferPending, TransferPosted, TransferVoided
from events.log import MemoryLog
from infra.index import Index
from services.hosting import Item, Refused
from services.ledger import model
from services.ledger.commands import OpenDispute, PostPending, RuleDispute, VoidPending
from services.ledger.service import LedgerService
from services.ledger.state import Ledger, Rules, load, save
from tests.faulty_log import FaultyLog
from tests.ledger_by_hand import by_hand
from tests.ledger_support import T0, transfer
from tests.simulation.network import Net, SimLink
from tests.writer_support import Turn, settled, until

STEPS = ("ask", "ask", "ask", "batch", "again", "switch", "kill", "fault", "late", "hold", "time", "user", "snapshot")
USERS = ("ada", "bob", "cy")
RULES = Rules(supply_cap=2000, sign_up_grant=100)


class Snapshots:
    """The newest, for all."""

    saved: tuple[int, bytes] | None = None

    def latest(self, last: int) -> tuple[int, Ledger] | None:
        return (self.saved[0], load(self.saved[1])) if self.saved and self.saved[0] <= last else None


class Plane:
    """A ledger's service over its own index; `kill` leaves the files as they are."""

    def __init__(self, life: "Life", name: str, folder: Path) -> None:
        self.log, self.turn, self.index = FaultyLog(life.log), Turn(), Index(folder / f"{name}.sqlite")
        link: Any = SimLink(Net(life.random), name)
        self.service = LedgerService(
            link, self.log, index=self.index, snapshots=life.snapshots, turn=self.turn, name=f"{name}-{life.count}",
            version="1", rules=RULES, clock=lambda: life.now,
        )  # fmt: skip
        self.name = name
        self.task = asyncio.create_task(self.service.run())

    async def kill(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self.index.close()
        await self.log.arrive()


class Life:
    """One run, drawn from a seed."""

    def __init__(self, seed: int, steps: list[str], folder: Path) -> None:
        self.random, self.steps, self.folder = Random(seed), steps, folder
        self.log, self.snapshots, self.now, self.count = MemoryLog(), Snapshots(), T0, 0
        self.planes: list[Plane] = []
        self.asked: list[Any] = []
        self.acknowledged: dict[str, Any] = {}

    def start(self, name: str) -> None:
        self.count += 1
        self.planes.append(Plane(self, name, self.folder))

    def command(self) -> Any:
        """Some command; ids are few, so that many claim the same."""
        draw, id = self.random, f"t{self.random.randint(0, 30)}"
        payer, payee = draw.sample(USERS, 2)
        kind = draw.choice(("pay", "pay", "pay", "wait", "post", "void", "open", "rule"))
        if kind in ("pay", "wait"):
            wait = draw.choice((1000, 60_000)) if kind == "wait" else 0
            return transfer(id, payer, (payee, draw.randint(1, 60)), pending_ms=wait)
        if kind == "post":
            return PostPending(id)
        if kind == "void":
            return VoidPending(id)
        if kind == "open":
            return OpenDispute(f"d-{id}", payer, id, draw.randint(1, 30), f"user:{payee}")
        return RuleDispute(f"d-{id}", draw.choice(("upheld", "rejected")))

    def ask(self, *commands: Any) -> None:
        """Of every plane, as over NATS; the one that leads answers."""

        def done(outcomes: list[Any], position: int) -> None:
            for command, outcome in zip(commands, outcomes, strict=True):
                if not isinstance(outcome, Refused) and hasattr(command, "digest"):
                    self.acknowledged[command.transfer] = command

        for plane in self.planes:
            plane.service.writer.offer(Item(commands, done, "user:x"))

    async def user(self) -> None:
        """Somebody comes, or goes."""
        events: list[Any] = [UserRegistered(f"n{self.count}{self.random.random()}", ["user"])]
        if self.random.random() < 0.2:
            events.append(UserErased(self.random.choice(USERS)))
        message = Message(f"u{len(self.log.entries)}", self.now, "a", [Decision(events)])
        await self.log.append(ACCOUNTS_SUBJECT, catalog.encode(message), await self.log.last(ACCOUNTS_SUBJECT))

    async def step(self, step: str) -> None:
        plane = self.random.choice(self.planes)
        if step in ("ask", "batch"):
            commands = [self.command() for _ in range(1 if step == "ask" else self.random.randint(2, 5))]
            self.asked += commands
            self.ask(*commands)
        elif step == "again" and self.asked:
            self.ask(self.random.choice(self.asked))
        elif step == "switch":
            plane.turn.free.set()
        elif step == "kill":
            self.planes.remove(plane)
            await plane.kill()
            self.start(plane.name)
        elif step == "fault":
            plane.log.faults.append(self.random.choice(["lost_ack", "not_sent", "late"]))
        elif step == "late":
            await plane.log.arrive()
        elif step == "hold":
            plane.log.hold()
            await settled()
            plane.log.release()
        elif step == "time":
            self.now += self.random.choice((500, 2000, 70_000))
        elif step == "user":
            await self.user()
        elif step == "snapshot":
            await self.snapshot()
        for _ in range(self.random.randint(0, 30)):
            await asyncio.sleep(0)

    async def snapshot(self) -> None:
        state, at = Ledger(), 0
        for entry in self.ledger():
            model.fold(state, catalog.decode(entry.data))
            at = entry.position
        if at:
            self.snapshots.saved = at, save(state)

    def ledger(self) -> list[Any]:
        return [entry for entry in self.log.entries if entry.subject == LEDGER_SUBJECT]

    async def live(self) -> None:
        self.start("a")
        self.start("b")
        try:
            for user in USERS:
                message = Message(f"u-{user}", T0, "a", [Decision([UserRegistered(user, ["user"])])])
                await self.log.append(ACCOUNTS_SUBJECT, catalog.encode(message), await self.log.last(ACCOUNTS_SUBJECT))
            for step in self.steps:
                await self.step(step)
                assert all(not plane.task.done() for plane in self.planes), "one ended by itself"
            self.planes[0].turn.free.set()
            await until(lambda: any(plane.service.writer.leads for plane in self.planes))
            self.ask(transfer("last", "nobody", ("ada", 1)))
            await settled()
            self.check()
        finally:
            for plane in self.planes:
                await plane.kill()

    def check(self) -> None:
        hand = by_hand(entry.data for entry in self.ledger())  # nothing twice, nobody owes, all adds up
        state, bodies, grants = Ledger(), dict[str, str](), list[str]()
        for entry in self.ledger():
            message = catalog.decode(entry.data)
            model.fold(state, message)
            model.check(state)
            for event in message.events():
                if isinstance(event, TransferPosted | TransferPending) and event.digest:
                    assert event.transfer not in bodies
                    bodies[event.transfer] = event.digest
                if isinstance(event, TransferPosted) and event.kind == "grant":
                    grants.append(event.transfer)
                if isinstance(event, TransferVoided):
                    assert event.transfer in bodies
        assert hand.found() == state.books.balances
        assert len(grants) == len(set(grants))
        for id, command in self.acknowledged.items():
            assert bodies.get(id) == command.digest, f"{id} was acknowledged, and is not there"


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(STEPS), max_size=60))
def test_what_is_acknowledged_is_there_once(seed: int, steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Life(seed, steps, Path(folder)).live())
