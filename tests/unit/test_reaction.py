"""Reactions: each fact of another subject is reacted to once, whatever happens between reading it and the append."""

import asyncio

import pytest

from events.catalog import Mark
from events.log import MemoryLog
from services.hosting import Item, NewerFormat
from services.writer import CURSOR_LAG_MAX
from tests.reaction_support import SOURCE, Reactor, alive, echoed, folded, happen, noise, submitted, target
from tests.writer_support import settled, until


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def test_output_and_cursor_are_one_message(log: MemoryLog) -> None:
    position = await happen(log, ["j1"], ["j2", "j3"])
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        await until(lambda: len(echoed(log)) == 3)
    message = target(log)[-1]
    assert [*message.marks()] == [(SOURCE, Mark(position))]
    assert [(one.by, one.cause, one.trace) for one in message.decisions] == [
        ("echo", "1.1", "t-j1"),
        ("echo", "1.1", "t-j2"),
    ]
    assert plane.writer.state.cursors == folded(log).cursors == {SOURCE: Mark(position)}


async def test_what_comes_later_is_reacted_to_as_it_comes(log: MemoryLog) -> None:
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        for n in range(20):
            await happen(log, [f"j{n}"])
            await settled()
        await until(lambda: echoed(log) == submitted(log))


async def test_nobody_reacts_while_following(log: MemoryLog) -> None:
    a, b = Reactor(log, "a"), Reactor(log, "b")
    async with alive(a, b):
        await a.leads()
        await happen(log, ["j1"])
        await until(lambda: echoed(log) == ["j1"])
        await settled()
        assert b.log.appends == 0
        assert b.writer.state.cursors == a.writer.state.cursors


async def test_a_crash_before_the_append_repeats_and_after_it_does_not(log: MemoryLog) -> None:
    await happen(log, ["j1", "j2"])
    first = Reactor(log, "a")
    async with alive(first):
        await first.leads()
        first.log.hold()  # the decision was made, the append is not sent
        await happen(log, ["j3"])
        await until(lambda: first.log.appends >= 2)
    second = Reactor(log, "b")
    async with alive(second):
        await second.leads()
        await until(lambda: echoed(log) == ["j1", "j2", "j3"])
    third = Reactor(log, "c")
    async with alive(third):
        await third.leads()
        await settled()
        await happen(log, ["j4"])
        await until(lambda: len(echoed(log)) >= 4)
    assert echoed(log) == submitted(log)


async def test_an_append_without_an_answer_is_settled_once(log: MemoryLog) -> None:
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        plane.log.faults.extend(("not_sent", "lost_ack", "late"))
        for n in range(3):
            await happen(log, [f"j{n}"])
            await settled()
        await until(lambda: len(echoed(log)) >= 3)
        await plane.log.arrive()
        await settled()
    assert echoed(log) == submitted(log)


async def test_one_that_was_fenced_forgets_what_it_had_decided(log: MemoryLog) -> None:
    a, b = Reactor(log, "a"), Reactor(log, "b")
    async with alive(a, b):
        await a.leads()
        await settled()
        a.log.hold()
        await happen(log, ["j1"])
        await until(lambda: a.log.appends == 2)
        await b.leads()
        await until(lambda: echoed(log) == ["j1"])
        a.log.release()
        await until(lambda: not a.writer.leads)
        await happen(log, ["j2"])
        await until(lambda: len(echoed(log)) == 2)
        await a.leads()  # and back again, from where the other's messages say
        await happen(log, ["j3"])
        await until(lambda: len(echoed(log)) == 3)
    assert echoed(log) == submitted(log)
    assert a.leaderships == 2


async def test_a_cursor_that_was_not_written_down_is_forgotten_with_the_place(log: MemoryLog) -> None:
    a, b = Reactor(log, "a"), Reactor(log, "b")
    async with alive(a, b):
        await a.leads()
        await noise(log, 1)
        await settled()  # a is further than it ever said
        await b.leads()
        a.writer.offer(Item(["ignored"], lambda outcomes, position: None))
        await until(lambda: not a.writer.leads)
        await happen(log, ["j1"])
        await until(lambda: echoed(log) == ["j1"])
        await a.leads()
        await happen(log, ["j2"])
        await until(lambda: len(echoed(log)) >= 2)
        await settled()
    assert echoed(log) == ["j1", "j2"]


async def test_a_message_that_is_full_stands_in_the_middle_of_anothers(log: MemoryLog) -> None:
    jobs = [f"j{n}" for n in range(20)]
    position = await happen(log, jobs[:8], jobs[8:])
    plane = Reactor(log, reason_bytes=100_000)
    async with alive(plane):
        await plane.leads()
        await until(lambda: len(echoed(log)) == 20)
    marks = [mark for message in target(log) for _, mark in message.marks()]
    assert marks[0] == Mark(position - 1, 5)
    assert marks == sorted(marks)
    assert marks[-1] == Mark(position)
    assert echoed(log) == jobs


@pytest.mark.parametrize("messages", [1, 2, 3, 4])
async def test_a_crash_in_the_middle_of_anothers_message(log: MemoryLog, messages: int) -> None:
    jobs = [f"j{n}" for n in range(20)]
    await happen(log, jobs[:8], jobs[8:])
    first = Reactor(log, "a", 100_000)
    async with alive(first):
        await first.leads()
        await until(lambda: len(target(log)) > messages)
        first.log.hold()
    second = Reactor(log, "b", 100_000)
    async with alive(second):
        await second.leads()
        await until(lambda: len(echoed(log)) >= 20)
    assert echoed(log) == jobs


async def test_what_leads_to_nothing_is_not_written_down_until_it_is_much(log: MemoryLog) -> None:
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        await noise(log, CURSOR_LAG_MAX // 2)
        await happen(log, ["ignored-1"])
        await settled()
        assert len(target(log)) == 1
        await noise(log, CURSOR_LAG_MAX)
        await until(lambda: len(target(log)) == 2)
    message = target(log)[1]
    assert not message.decisions
    assert message.read[SOURCE] > CURSOR_LAG_MAX
    assert plane.writer.state.cursors == folded(log).cursors


async def test_a_cursor_rides_on_what_is_appended_anyway(log: MemoryLog) -> None:
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        await noise(log, 3)
        last = await log.last(SOURCE)
        await settled()
        plane.writer.offer(Item(["mine"]))
        await until(lambda: len(target(log)) == 2)
    assert [*target(log)[1].marks()] == [(SOURCE, Mark(last))]


async def test_a_snapshot_brings_its_cursor(log: MemoryLog) -> None:
    await happen(log, ["j1"])
    first = Reactor(log, "a")
    async with alive(first):
        await first.leads()
        await until(lambda: echoed(log) == ["j1"])
    second = Reactor(log, "b")
    second.snapshots.saved = (len(log.entries), folded(log))
    await happen(log, ["j2"])
    async with alive(second):
        await second.leads()
        await until(lambda: len(echoed(log)) == 2)
    assert echoed(log) == ["j1", "j2"]


async def test_a_fact_of_a_newer_version_is_not_passed_over(log: MemoryLog) -> None:
    raw = b'{"id":"m","at":1,"writer":"s","decisions":[{"events":[{"type":"job.teleported"}]}]}'
    await log.append(SOURCE, raw, 0)
    plane = Reactor(log)
    task = asyncio.create_task(plane.run())
    plane.turn.free.set()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(NewerFormat, match="job.teleported")
    assert SOURCE not in plane.writer.state.cursors


async def test_a_backlog_is_read_no_faster_than_it_is_decided(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.reaction.WAITING_MAX", 10)
    plane = Reactor(log)
    async with alive(plane):
        await plane.leads()
        plane.log.hold()
        for n in range(100):
            await happen(log, [f"j{n}"])
        await until(lambda: plane.log.appends == 2)
        await settled()
        held = sum(len(item.commands) for item in plane.reaction._items)  # pyright: ignore[reportPrivateUsage]
        assert held <= 10
        plane.log.release()
        await until(lambda: len(echoed(log)) == 100)
    assert echoed(log) == submitted(log)
