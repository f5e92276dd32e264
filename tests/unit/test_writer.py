"""The writer: one answer a decision and only for what is in the log, whatever the network does."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from events import catalog
from events.base import Sealed
from events.catalog import MESSAGE_BYTES_MAX, AnyEvent, Decision, Message, pool_subject
from events.job import JobSubmitted
from events.log import MemoryLog
from events.pool import WriterLed
from services.hosting import Item
from services.pool import model
from services.pool.commands import CancelJob, Refused, Submit
from services.pool.model import NewerFormat
from services.pool.service import PoolModel
from services.pool.state import Pool
from services.writer import QUEUE_COMMANDS_MAX, Writer
from tests.faulty_log import FaultyLog
from tests.pool_support import T0, fact, normal, submit

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


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def a(log: MemoryLog) -> Plane:
    return Plane(log, "a")


@pytest.fixture
def b(log: MemoryLog) -> Plane:
    return Plane(log, "b")


def messages(log: MemoryLog) -> list[Message]:
    return [catalog.decode(entry.data) for entry in log.entries]


def jobs_in(log: MemoryLog) -> list[str]:
    return [event.job for one in messages(log) for event in one.events() if isinstance(event, JobSubmitted)]


def folded(log: MemoryLog) -> Pool:
    state = Pool("p")
    for message in messages(log):
        for event in message.events():
            model.evolve(state, event, message.at)
    return state


# In good weather


async def test_it_takes_the_place_with_a_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
    assert [*messages(log)[0].events()] == [WriterLed("p", "a", "1")]
    assert a.host.led == 1


async def test_an_answer_names_its_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"), by="ada", cause="c", trace="t")
        assert await a.answered() == [([None], 2)]
    assert messages(log)[1].decisions == [Decision([fact("j1")], "ada", "c", "t")]
    assert a.host.sure == {"j1": "d"}


async def test_what_arrives_while_an_append_is_on_its_way_shares_the_next(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.hold()
        a.ask(submit("j0"))
        await until(lambda: a.log.appends == 2)
        for n in range(1, 9):
            a.ask(submit(f"j{n}"))
        a.log.release()
        await a.answered(9)
    assert [len([*one.events()]) for one in messages(log)] == [1, 1, 8]


async def test_commands_see_what_was_decided_before_them(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"), submit("j1"), submit("j1", digest="e"), submit("j2", after=["j1"]))
        ((outcomes, position),) = await a.answered()
    assert outcomes[:2] == [None, False]
    assert isinstance(outcomes[2], Refused)
    assert (outcomes[3], position) == (None, 2)


async def test_the_services_own_commands_close_a_message(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.host.closings.append(Item([submit("j9")], by="scheduler"))
        a.ask(submit("j1"))
        await a.answered()
    assert [one.by for one in messages(log)[1].decisions] == ["", "scheduler"]


async def test_what_is_offered_to_one_that_does_not_lead_is_dropped(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await settled()
        assert a.ask(submit("j1"))
        await a.leads()
        a.ask(submit("j2"))
        await a.answered()
    assert jobs_in(log) == ["j2"]


async def test_a_full_queue_says_so(a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.hold()
        a.ask(submit("j0"))
        await until(lambda: a.log.appends == 2)
        assert a.ask(*[CancelJob("j0")] * QUEUE_COMMANDS_MAX)
        assert not a.ask(submit("j1"))


# Unknown outcomes


async def test_a_lost_acknowledgement_is_found_in_the_log(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.append("lost_ack")
        a.ask(submit("j1"))
        assert await a.answered() == [([None], 2)]
        a.ask(submit("j2"))
        await a.answered(2)
    assert jobs_in(log) == ["j1", "j2"]


async def test_an_append_that_never_arrived_is_sent_again(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.extend(("not_sent", "not_sent", "lost_ack"))
        a.ask(submit("j1"))
        assert await a.answered() == [([None], 2)]
    assert jobs_in(log) == ["j1"]


async def test_an_append_that_arrives_after_its_second_try_changes_nothing(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.faults.append("late")
        a.ask(submit("j1"))
        await a.answered()
        assert await a.log.arrive() == [False]
        a.ask(submit("j2"))
        await a.answered(2)
    assert jobs_in(log) == ["j1", "j2"]


async def test_ours_followed_by_anothers_is_answered_and_then_fenced(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        await settled()
        a.log.faults.append("lost_ack")
        a.ask(submit("j1"))
        await until(lambda: len(log.entries) == 2)
        await b.leads()
        await a.answered()
        a.ask(submit("j2"))
        await until(lambda: a.host.resets == 1)
        assert len(a.answers) == 1
    assert jobs_in(log) == ["j1"]


async def test_a_lost_acknowledgement_while_taking_the_place(log: MemoryLog, a: Plane) -> None:
    a.log.faults.append("lost_ack")
    async with running(a):
        await a.leads()
    assert len(log.entries) == 1


async def test_nothing_is_answered_while_the_log_is_away(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.down = True
        a.ask(submit("j1"))
        await until(lambda: a.log.appends >= 3)
        a.ask(CancelJob("j9"))
        assert not a.answers
        a.log.down = False
        await a.answered(2)
    assert jobs_in(log) == ["j1"]


# Fencing


async def test_a_second_writer_fences_the_first(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.ask(submit("j1"))
        await a.answered()
        await b.leads()
        b.ask(submit("j2"))
        await b.answered()
        a.ask(submit("j3"))
        await until(lambda: a.host.resets == 1)
        await until(lambda: a.writer.position == 4)
        assert len(a.answers) == 1
        assert not a.writer.leads
        assert not a.turn.taken
        assert normal(a.writer.state) == normal(b.writer.state)
    assert jobs_in(log) == ["j1", "j2"]
    assert a.host.sure.keys() == {"j1", "j2"}
    assert not a.host.noted


async def test_a_writer_that_was_paused_answers_nothing(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.log.hold()
        a.ask(submit("j1"))
        await until(lambda: a.log.appends == 2)
        a.ask(submit("j2"))
        await b.leads()
        b.ask(submit("j3"))
        await b.answered()
        a.log.release()
        await until(lambda: a.host.resets == 1)
        await until(lambda: a.writer.position == 3)
    assert a.answers == []
    assert jobs_in(log) == ["j3"]


async def test_a_paused_writer_does_not_even_refuse(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.log.hold()
        asked = a.log.asked
        a.ask(CancelJob("j1"))
        await until(lambda: a.log.asked > asked)
        await b.leads()
        b.ask(submit("j1"))
        await b.answered()
        a.log.release()
        await until(lambda: a.host.resets == 1)
    assert a.answers == []


async def test_a_refusal_is_confirmed_with_the_log(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.log.down = True
        asked = a.log.asked
        a.ask(CancelJob("j1"))
        await until(lambda: a.log.asked > asked + 1)
        assert not a.answers
        a.log.down = False
        ((outcomes, position),) = await a.answered()
    assert isinstance(outcomes[0], Refused)
    assert position == 1


async def test_it_leads_again_after_it_was_fenced(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        await b.leads()
        a.ask(submit("j1"))
        await until(lambda: a.host.resets == 1)
        await a.leads()
        a.ask(submit("j1"))
        await a.answered()
        assert a.host.led == 2
    assert jobs_in(log) == ["j1"]


async def test_two_that_take_the_place_at_once(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        a.log.hold()
        b.log.hold()
        a.turn.free.set()
        b.turn.free.set()
        await settled()
        a.log.release()
        b.log.release()
        await until(lambda: len(log.entries) >= 1)
        await settled()
        for n in range(4):
            a.ask(submit(f"ja{n}"))
            b.ask(submit(f"jb{n}"))
            await settled()
        state = folded(log)
        model.check(state)
        assert {*jobs_in(log)} >= {job for plane in (a, b) for job in plane.host.sure}


# Sizes


def big(job: str, size: int) -> Submit:
    return Submit(JobSubmitted(job, "u1", "d", Sealed("k1", b"x" * size)))


async def test_a_message_closes_when_it_is_full_and_the_rest_comes_next(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(*[big(f"j{n}", 60_000) for n in range(20)])
        a.ask(submit("jlast"))
        first, last = await a.answered(2)
    assert first == ([None] * 20, len(log.entries))
    assert last[1] == len(log.entries)
    assert jobs_in(log) == [*[f"j{n}" for n in range(20)], "jlast"]
    assert len(log.entries) == 5
    assert all(len(entry.data) <= MESSAGE_BYTES_MAX for entry in log.entries)


async def test_a_command_too_large_for_a_message_is_refused_alone(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"), big("j2", MESSAGE_BYTES_MAX), submit("j3"))
        ((outcomes, _),) = await a.answered()
        assert outcomes[0] is outcomes[2] is None
        assert outcomes[1].code == "too_large"
        assert "j2" not in a.writer.state.jobs
        assert normal(a.writer.state) == normal(folded(log))
    assert jobs_in(log) == ["j1", "j3"]


async def test_who_asked_and_why_count_in_the_size(log: MemoryLog, a: Plane) -> None:
    async with running(a):
        await a.leads()
        for n in range(12):
            a.ask(submit(f"j{n}"), by="é" * 40_000, cause=f"{n}\x01" * 3)
        await a.answered(12)
    assert all(len(entry.data) <= MESSAGE_BYTES_MAX for entry in log.entries)


# Time, versions, snapshots


def times(log: MemoryLog) -> list[int]:
    return [one.at for one in messages(log)]


async def test_time_never_goes_back(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a, b):
        await a.leads()
        a.clock -= 60_000
        a.ask(submit("j1"))
        await a.answered()
        b.clock -= 120_000
        await b.leads()
        b.clock = T0 + 7
        b.ask(submit("j2"))
        await b.answered()
    assert times(log) == [T0, T0, T0, T0 + 7]


async def test_time_goes_on_from_a_snapshot(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a):
        await a.leads()
        a.ask(submit("j1"))
        await a.answered()
    b.snapshots.saved = (2, folded(log))
    b.clock -= 60_000
    async with running(b):
        await b.leads()
    assert times(log) == [T0, T0, T0]


async def test_a_snapshot_and_the_rest_are_the_whole(log: MemoryLog, a: Plane, b: Plane) -> None:
    async with running(a):
        await a.leads()
        for n in range(4):
            a.ask(submit(f"j{n}"))
            await a.answered(n + 1)
            if n == 1:
                b.snapshots.saved = (len(log.entries), folded(log))
    async with running(b):
        await b.leads()
        assert normal(b.writer.state) == normal(folded(log))
        # The index of ids was fed what lies before the snapshot, too.
        assert b.host.sure.keys() == {"j0", "j1", "j2", "j3"}


@pytest.mark.parametrize("commands", [(), (submit("j1"),)])
async def test_it_does_not_lead_over_what_it_does_not_know(log: MemoryLog, commands: Sequence[Any]) -> None:
    data = b'{"id":"m","at":1,"writer":"new","decisions":[{"events":[{"type":"job.paused","job":"j1"}]}]}'
    await log.append(SUBJECT, data, 0)
    plane = Plane(log)
    plane.turn.free.set()
    with pytest.raises(NewerFormat):
        await asyncio.wait_for(plane.writer.run(), 5)
    assert len(log.entries) == 1
    assert not plane.writer.leads
