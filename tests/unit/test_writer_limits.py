"""Limits and time of the writer: full messages, clocks, versions, snapshots."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from events.base import Sealed
from events.catalog import MESSAGE_BYTES_MAX
from events.job import JobSubmitted
from events.log import MemoryLog
from services.hosting import NewerFormat
from services.pool.commands import Submit
from tests.pool_support import T0, normal, submit
from tests.writer_support import (
    SUBJECT,
    Plane,
    folded,
    jobs_in,
    messages,
    running,
)

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
