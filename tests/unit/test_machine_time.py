"""How a worker stands: uptime, machine time, and that no hour counts twice."""

import pytest

from events.ledger import StandingChanged, Work
from events.task import Detail, TasksFailed, TasksFinished
from events.worker import Capacity, WorkerLost, WorkerRegistered, WorkerReported, WorkerReturned, WorkerUnreachable
from projections.levels import DAY_MS, DAYS, Rewards, Standing, apply, uptime
from services.ledger.machine_time import (
    EndFact,
    Reserved,
    basis_now,
    basis_of,
    machine_us,
    room_us,
    standing_of,
    work_of,
)

GIB = 1 << 30
HOUR_MS = 3_600_000
T0 = 1000 * DAY_MS
ONE = Reserved(1000, GIB)


def stood(*changes: tuple[str, int], cpus: int = 4000, memory: int = 8 * GIB) -> Standing:
    """A worker after these changes, each (state, ms after T0)."""
    state = Rewards()
    for name, at in changes:
        apply(state, StandingChanged("w1", name, T0 + at, cpus, memory), 0)  # pyright: ignore[reportArgumentType]
    return state.standings["w1"]


def works(worker: Standing, event: EndFact, counted_ms: int, reserved: Reserved, at: int = T0) -> list[Work]:
    """The work; and that the terms of its basis are enough to compute it again."""
    basis = basis_now(worker, counted_ms, reserved, at)
    work = work_of(basis, event)
    assert work_of(basis_of(basis.terms()), event) == work
    return work


def share(worker: Standing, reserved: Reserved, ms: int) -> int:
    return machine_us(basis_now(worker, 0, reserved, T0), ms)


def up(hours: int = 1000) -> Standing:
    return stood(("ready", -hours * HOUR_MS))


def test_the_share_is_the_largest_of_what_is_reserved() -> None:
    worker = up()
    assert share(worker, Reserved(1000, GIB), 8) == 2000
    assert share(worker, Reserved(1000, 4 * GIB), 8) == 4000
    assert share(worker, Reserved(4000, GIB), 8) == 8000
    assert share(worker, Reserved(64_000, 99 * GIB), 8) == 8000
    assert share(worker, Reserved(0), 8) == 0
    worker.gpus = 2
    assert share(worker, Reserved(1, 0, 1000), 8) == 4000


def test_a_worker_of_which_nothing_is_known_is_credited_nothing() -> None:
    event = TasksFinished("j1", [0, 0], 1, "w1", 1, [Detail(wall_ms=1000)])
    assert works(Standing(T0), event, 1000, ONE) == [Work(0, 1, True, 0, 0)]


def test_use_is_in_thousandths_of_what_was_reserved() -> None:
    details = [Detail(wall_ms=1000, cpu_ms=899, memory_avg=GIB // 2, gpu_avg=345), Detail(wall_ms=1000, cpu_ms=5000)]
    event = TasksFailed("j1", [0, 1], 1, "w1", 1, "exit", 1, "", details)
    assert works(up(), event, 2000, Reserved(1000, GIB, 500)) == [
        Work(250_000, 1, False, 899, 500, 345),
        Work(250_000, 1, False, 1000, 0, 0),
    ]
    assert works(up(), event, 2000, Reserved(1000))[0].memory == -1


def test_tasks_that_were_alike_are_told_together() -> None:
    event = TasksFinished("j1", [0, 4], 1, "w1", 1, [Detail(wall_ms=10, cpu_ms=5)] * 5)
    assert works(up(), event, 50, ONE) == [Work(2500, 5, True, 500, 0)]


def test_what_the_platform_counts_is_never_exceeded() -> None:
    event = TasksFinished("j1", [0, 1], 1, "w1", 1, [Detail(wall_ms=3000), Detail(wall_ms=1000)])
    assert [work.machine_us for work in works(up(), event, 1000, ONE)] == [187_500, 62_500]
    assert [work.machine_us for work in works(up(), event, 9999, ONE)] == [750_000, 250_000]


def test_without_details_all_tasks_count_alike() -> None:
    event = TasksFinished("j1", [0, 9_999_999], 1, "w1")
    assert works(up(), event, 0, ONE) == [Work(0, 10_000_000, True, 0, 0)]
    assert works(up(), event, 80_000_000, ONE) == [Work(2000, 10_000_000, True, 0, 0)]


def test_never_more_machine_hours_than_the_clock_has() -> None:
    worker = stood(("ready", 0))
    whole = Reserved(4000, 8 * GIB)
    event = TasksFinished("j1", [0, 2], 1, "w1", 1, [Detail(wall_ms=HOUR_MS)] * 3)
    found = works(worker, event, 3 * HOUR_MS, whole, T0 + HOUR_MS)
    assert sum(work.tasks * work.machine_us for work in found) == HOUR_MS * 1000
    worker.credited_us = HOUR_MS * 1000
    assert room_us(worker, T0 + HOUR_MS) == 0
    assert room_us(worker, T0 + HOUR_MS + 5) == 5000
    assert [work.machine_us for work in works(worker, event, 3 * HOUR_MS, whole, T0 + HOUR_MS)] == [0]


def test_silent_is_not_within_reach_but_may_work() -> None:
    worker = stood(("ready", 0), ("silent", HOUR_MS), ("ready", 2 * HOUR_MS), ("gone", 3 * HOUR_MS))
    assert worker.worked_ms == 3 * HOUR_MS
    assert sum(worker.days.values()) == 2 * HOUR_MS
    assert room_us(worker, T0 + 9 * HOUR_MS) == 3 * HOUR_MS * 1000
    assert uptime(worker, T0 + 4 * HOUR_MS) == 500


@pytest.mark.parametrize(
    ("changes", "at", "share"),
    [
        ([("ready", 0)], 0, 1000),
        ([("ready", 0)], HOUR_MS, 1000),
        ([("ready", 0), ("gone", HOUR_MS)], 4 * HOUR_MS, 250),
        ([("ready", 0), ("gone", HOUR_MS)], DAYS * DAY_MS - 1, 1),
        ([("ready", 0), ("gone", HOUR_MS)], DAYS * DAY_MS, 0),
        ([("ready", 0), ("gone", HOUR_MS), ("ready", DAYS * DAY_MS)], DAYS * DAY_MS + 1, 0),
        ([("ready", 0), ("gone", DAY_MS), ("ready", 40 * DAY_MS)], 80 * DAY_MS, 1000),
        ([("ready", 0)], 400 * DAY_MS, 1000),
        ([("ready", 0), ("ready", 400 * DAY_MS)], 401 * DAY_MS, 1000),
    ],
)
def test_uptime(changes: list[tuple[str, int]], at: int, share: int) -> None:
    worker = stood(*changes)
    assert uptime(worker, T0 + at) == share
    assert len(worker.days) <= DAYS + 1


def test_what_follows_from_the_pools_facts() -> None:
    registered = WorkerRegistered("w1", "s1", "b1", Capacity(4000, GIB))
    (said,) = standing_of(None, registered, T0, 7)
    assert said == StandingChanged("w1", "ready", T0, 4000, GIB, evidence=7)
    state = Rewards()
    apply(state, said, 0)
    worker = state.standings["w1"]
    assert standing_of(worker, registered, T0 + 1, 8) == []
    assert standing_of(worker, WorkerReturned("w1"), T0 + 1, 8) == []
    assert standing_of(worker, WorkerReported("w1", 1), T0 + 1, 8) == []
    assert standing_of(worker, WorkerUnreachable("w1"), T0 + 1, 8) == [
        StandingChanged("w1", "silent", T0 + 1, 4000, GIB, evidence=8)
    ]
    assert standing_of(None, WorkerLost("w2"), T0 + 1, 8) == [StandingChanged("w2", "gone", T0 + 1, evidence=8)]
