"""A small stage for one scene: control planes in virtual time, and workers and a user whose every word is written."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import msgspec

from events import protocol
from events.base import Runs, expand
from events.job import JobSubmitted
from events.protocol import Denied, Ended, Heartbeat, Held, Hello, Orders, Poll, Recorded, Report, Run
from events.spec import TaskText
from events.task import AttemptEnd
from events.worker import Capacity
from infra.link import LinkTimeout
from services.asking import Answer, Ask, answer_of, command_subject, pack
from services.pool.client import service_of
from services.pool.commands import Command, Submit
from tests.pool_support import GIB
from tests.signing_support import heard, said
from tests.simulation.auditor import Auditor
from tests.simulation.clock import run
from tests.simulation.network import Net, SimLink
from tests.simulation.plane import POOL, SEALER, Outputs, Plane, Snapshots

SOON_S = 1.0
"""Well below the time for which a poll waits, and well above a few round trips."""
Polling: TypeAlias = asyncio.Task[Orders | Denied]
"""A poll on its way."""
TEXT = SEALER.seal(msgspec.json.encode(TaskText(["true"])))


class Stage:
    """Two control planes, the first of which is started, a log with its auditor, and a user."""

    def __init__(self, folder: Path) -> None:
        random = Random(1)
        self.net, self.auditor = Net(random), Auditor()
        outputs, snapshots = Outputs(), Snapshots()
        self.a, self.b = (
            Plane(self.net, self.auditor.log, name, folder, outputs, snapshots, random) for name in ("a", "b")
        )
        self.user = SimLink(self.net, "user")

    async def leads(self, plane: Plane) -> None:
        """Start the plane if need be, and wait until it leads."""
        if not plane.alive:
            plane.start()
        await self.until(plane.leads)

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait for a fact."""
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.01)
                self.check()

    def check(self) -> None:
        self.auditor.check()
        if self.net.failed:
            raise self.net.failed[0]

    async def ask(self, *commands: Command, timeout_s: float = SOON_S) -> Answer:
        """One try to have these commands done."""
        data = pack(Ask(list(commands), "u1"))
        answer = answer_of((await self.user.request(command_subject(service_of(POOL)), data, timeout_s)).data)
        assert isinstance(answer, Answer)
        return answer

    async def submit(self, job: str, count: int = 1, **more: Any) -> Answer:
        return await self.ask(Submit(JobSubmitted(job, "u1", "d", TEXT, count=count, **more)))

    def worker(self, name: str = "w1", session: str = "s1", cpus: float = 1) -> "Hand":
        return Hand(self, name, session, cpus)


class Hand:
    """A worker's agent, led by hand."""

    def __init__(self, stage: Stage, name: str, session: str, cpus: float) -> None:
        self.link = SimLink(stage.net, f"{name}-{session}")
        self.stage, self.name, self.session = stage, name, session
        self.capacity = Capacity(int(cpus * 1000), 8 * GIB, ("process", "noop"))
        self.polls = self.reports = self.last = 0

    async def _ask(self, what: str, data: bytes, timeout_s: float) -> bytes:
        return (await self.link.request(f"req.{POOL}.{self.name}.{what}", data, timeout_s)).data

    def poll(self, hello: Hello | None = None, timeout_s: float = 70.0, sequence: int = 0) -> Polling:
        """Send a poll."""
        self.polls += 1
        poll = Poll(self.session, sequence or self.polls, self.last, hello=hello)
        asking = self._ask("next", said(POOL, self.name, poll), timeout_s)
        return asyncio.create_task(self._polled(poll, asking))

    async def _polled(self, poll: Poll, answer: Awaitable[bytes]) -> Orders | Denied:
        orders: Orders | Denied = heard(POOL, self.name, poll, await answer)
        if isinstance(orders, Orders):
            self.last = max([self.last, *(order.number for order in orders.orders)])
        return orders

    async def greets(self, *held: tuple[int, str, Runs]) -> Orders | Denied:
        """Say hello."""
        hello = Hello("boot", self.capacity, "1", "nonce", [Held(*one) for one in held])
        return await self.poll(hello, timeout_s=SOON_S)

    async def runs(self, polling: Polling | None = None) -> Run:
        """The one order to run that the poll is answered with, soon."""
        async with asyncio.timeout(SOON_S):
            told = await (polling or self.poll())
        assert isinstance(told, Orders), told
        (run,) = told.orders
        assert isinstance(run, Run)
        return run

    async def ends(self, run: Run, end: AttemptEnd = "exit", code: int = 0, *, bye: bool = False) -> None:
        """Report the end of all tasks of an order."""
        for index in expand(run.tasks):
            self.stage.auditor.ran[run.job, index, run.number] = (end, code)
        await self.report(Ended(run.number, run.job, run.tasks, end, code), bye=bye)

    async def report(self, *items: Ended, bye: bool = False) -> None:
        self.reports += 1
        report = Report(self.session, self.reports, list(items), bye)
        answer = await self._ask("report", said(POOL, self.name, report), SOON_S)
        told = heard(POOL, self.name, report, answer)
        assert isinstance(told, Recorded), told

    def beats(self) -> None:
        self.link.send(f"hb.{POOL}.{self.name}", protocol.pack(Heartbeat(self.session, 1)))


async def waits(polling: Polling) -> None:
    """The poll gets no answer yet."""
    done, _ = await asyncio.wait((polling,), timeout=SOON_S)
    assert not done, polling.result()


async def unanswered(asking: Awaitable[Any]) -> None:
    """Nobody answers this."""
    try:
        answer = await asking
    except LinkTimeout:
        return
    raise AssertionError(f"answered with {answer}")


def play(scene: Callable[[Stage], Awaitable[None]], folder: Path) -> None:
    """Play a scene to its end in virtual time."""

    async def whole() -> None:
        stage = Stage(folder)
        try:
            async with asyncio.timeout(3600):
                await scene(stage)
            stage.check()
        finally:
            for plane in (stage.a, stage.b):
                await plane.crash()

    run(whole())
