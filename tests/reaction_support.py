"""A writer that reacts: what is submitted on one subject is cancelled on another, each with a reason of a given length."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from events import catalog
from events.catalog import AnyEvent, Decision, Mark, Message, pool_subject
from events.job import JobCancelled, JobSubmitted
from events.log import MemoryLog
from events.pool import WriterLed
from services.hosting import Item, React, Refused
from services.reaction import Reaction
from services.writer import Writer
from tests.faulty_log import FaultyLog
from tests.pool_support import T0, fact
from tests.writer_support import Turn, until

SOURCE, TARGET = pool_subject("source"), pool_subject("target")


class Seen:
    """The state: what was reacted to, in order."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.cursors: dict[str, Mark] = {}


class Echo:
    """The rules."""

    subject = TARGET
    refused: type[Exception] = Refused

    def __init__(self, reason_bytes: int) -> None:
        self._reason = "x" * reason_bytes

    def initial(self) -> Seen:
        return Seen()

    def decide(self, state: Seen, command: Any, now: int) -> Sequence[AnyEvent]:
        name: str = getattr(command.event, "job", "") if isinstance(command, React) else command
        return [JobCancelled(name, self._reason)] if not name.startswith("ignored") else []

    def evolve(self, state: Seen, event: Any, at: int) -> None:
        if isinstance(event, JobCancelled):
            state.jobs.append(event.job)

    def led(self, writer: str) -> AnyEvent:
        return WriterLed("target", writer)

    def cursors(self, state: Seen) -> dict[str, Mark]:
        return state.cursors


class Snapshots:
    """None, or one that a test made."""

    saved: tuple[int, Seen] | None = None

    def latest(self, last: int) -> tuple[int, Seen] | None:
        return self.saved


class Reactor:
    """A control plane that hosts the writer and its reaction."""

    def __init__(self, log: MemoryLog, name: str = "a", reason_bytes: int = 0) -> None:
        self.log, self.name, self.turn, self.snapshots = FaultyLog(log), name, Turn(), Snapshots()
        self.writer: Writer[Seen] = Writer(
            self.log, Echo(reason_bytes), self, self.turn, self.snapshots, name, lambda: T0
        )
        self.reaction = Reaction(self.log, SOURCE, {JobSubmitted}, self.writer.poke, "echo")
        self.leaderships = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.writer.run())
            group.create_task(self.reaction.run())

    async def leads(self) -> "Reactor":
        self.turn.free.set()
        await until(lambda: self.writer.leads)
        return self

    def behind(self, last: int) -> int:
        return last

    def prepare(self, item: Item) -> None: ...

    def closing(self, now: int) -> Iterator[Item]:
        return self.reaction.items()

    def folded(self, event: AnyEvent, at: int) -> None: ...

    def committed(self, position: int) -> None: ...

    def leading(self) -> None:
        self.leaderships += 1
        self.reaction.leading(self.writer.state.cursors)

    def reset(self) -> None:
        self.reaction.reset()


@asynccontextmanager
async def alive(*planes: Reactor) -> AsyncGenerator[None]:
    """They run until the end; what they raise is raised."""
    tasks = [asyncio.create_task(plane.run()) for plane in planes]
    try:
        yield
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()


async def happen(log: MemoryLog, *decisions: Sequence[str]) -> int:
    """A message on the source: the jobs that each decision submitted."""
    events = [Decision([fact(job) for job in jobs], trace=f"t-{jobs[0]}") for jobs in decisions]
    message = Message(f"m{len(log.entries)}", T0, "s", events)
    return await log.append(SOURCE, catalog.encode(message), await log.last(SOURCE))


async def noise(log: MemoryLog, count: int) -> None:
    """So many messages on the source that nobody wants to know of."""
    for n in range(count):
        message = Message(f"n{n}", T0, "s", [Decision([JobCancelled(f"j{n}")])])
        await log.append(SOURCE, catalog.encode(message), await log.last(SOURCE))


def target(log: MemoryLog) -> list[Message]:
    return [catalog.decode(entry.data) for entry in log.entries if entry.subject == TARGET]


def echoed(log: MemoryLog) -> list[str]:
    return [event.job for one in target(log) for event in one.events() if isinstance(event, JobCancelled)]


def submitted(log: MemoryLog) -> list[str]:
    messages = [catalog.decode(entry.data) for entry in log.entries if entry.subject == SOURCE]
    return [event.job for one in messages for event in one.events() if isinstance(event, JobSubmitted)]


def folded(log: MemoryLog) -> Seen:
    state, rules = Seen(), Echo(0)
    for message in target(log):
        for event in message.events():
            rules.evolve(state, event, message.at)
        state.cursors.update(message.marks())
    return state
