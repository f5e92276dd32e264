"""A writer with everything around it in memory, for its tests."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from events import catalog
from events.catalog import AnyEvent, Message, pool_subject
from events.job import JobSubmitted
from events.log import MemoryLog
from services.hosting import Item
from services.pool import model
from services.pool.service import PoolModel
from services.pool.state import Pool
from services.writer import Writer
from tests.faulty_log import FaultyLog
from tests.pool_support import T0

SUBJECT = pool_subject("p")


class Host:
    """Writes down what a writer tells its service; keeps ids as the index does."""

    def __init__(self) -> None:
        self.noted: dict[str, str] = {}
        self.sure: dict[str, str] = {}
        self.position = self.resets = self.led = 0
        self.closings: list[Item] = []

    def behind(self, last: int) -> int:
        return self.position

    def prepare(self, item: Item) -> None:
        pass

    def closing(self, now: int) -> Iterator[Item]:
        while self.closings:
            yield self.closings.pop(0)

    def folded(self, event: AnyEvent, at: int) -> None:
        if isinstance(event, JobSubmitted):
            self.noted[event.job] = event.digest

    def committed(self, position: int) -> None:
        self.sure |= self.noted
        self.noted, self.position = {}, position

    def leading(self) -> None:
        self.led += 1

    def reset(self) -> None:
        self.resets += 1
        self.noted = {}


class Turn:
    """Leads when it is told that nobody does."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.taken = False

    async def wait(self) -> None:
        await self.free.wait()

    def take(self) -> None:
        self.taken = True

    def leave(self) -> None:
        self.taken = False
        self.free.clear()


class Snapshots:
    """At most one snapshot."""

    def __init__(self) -> None:
        self.saved: tuple[int, Pool] | None = None

    def latest(self, last: int) -> tuple[int, Pool] | None:
        return self.saved if self.saved and self.saved[0] <= last else None


class Plane:
    """A writer with everything around it."""

    def __init__(self, log: MemoryLog, name: str = "a") -> None:
        self.log, self.name = FaultyLog(log), name
        self.host, self.turn, self.snapshots, self.clock = Host(), Turn(), Snapshots(), T0
        self.writer: Writer[Pool] = Writer(
            self.log, PoolModel("p", "1"), self.host, self.turn, self.snapshots, name, lambda: self.clock
        )
        self.answers: list[tuple[list[Any], int]] = []

    def ask(self, *commands: Any, **more: Any) -> bool:
        """Offer commands; the answer will be in `answers`."""

        def done(outcomes: list[Any], position: int) -> None:
            self.answers.append((outcomes, position))

        return self.writer.offer(Item(commands, done, **more))

    async def answered(self, count: int = 1) -> list[tuple[list[Any], int]]:
        await until(lambda: len(self.answers) >= count)
        assert len(self.answers) == count
        return self.answers

    async def leads(self) -> "Plane":
        self.turn.free.set()
        await until(lambda: self.writer.leads)
        return self


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a fact."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def settled() -> None:
    """Give everyone who could act their turn."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*planes: Plane) -> AsyncGenerator[None]:
    tasks = [asyncio.create_task(plane.writer.run()) for plane in planes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def messages(log: MemoryLog) -> list[Message]:
    return [catalog.decode(entry.data) for entry in log.entries]


def jobs_in(log: MemoryLog) -> list[str]:
    return [event.job for one in messages(log) for event in one.events() if isinstance(event, JobSubmitted)]


def folded(log: MemoryLog) -> Pool:
    state = Pool("p")
    for message in messages(log):
        model.fold(state, message)
    return state
