"""What one scheduling pass costs with 10,000 workers and 1,000,000 queued tasks: the real service, writer and rules, log
and link in memory. A pass is timed from what brings it about until the last one whom it concerns was answered.
"""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import NamedTuple

from events.worker import Capacity
from services.pool.liveness import Liveness
from tests.bench.pool_alone import BenchWorker, PoolAlone, pool_alone

WORKERS = 10_000
ARRAYS, ARRAY_TASKS, SINGLES = 9, 100_000, 100_000
SHAPES = ((1000, 0), (500, 0), (2000, 2**30), (1000, 2**30), (4000, 2**32))
CPUS, MEMORY = 4000, 16 * 2**30
LARGE_CPUS = 64_000
FREED = 100
SIZES = 10_000
PASSES, PASSES_OF_MANY = 500, 50
PASS_S_MAX = 60.0


class Passes(NamedTuple):
    """What a kind of pass took, in ms, each time."""

    name: str
    waits: list[float]


async def _timed(start: Callable[[Callable[[], None]], None], answers: int) -> float:
    """Milliseconds from `start(answered)` until `answered` was called so often."""
    done, left = asyncio.Event(), answers

    def answered() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    begin = time.perf_counter()
    start(answered)
    async with asyncio.timeout(PASS_S_MAX):
        await done.wait()
    return (time.perf_counter() - begin) * 1000


async def _freed(pool: PoolAlone, workers: list[BenchWorker], most: int) -> float:
    """These workers report that what they hold ended, and get as much again."""

    def start(answered: Callable[[], None]) -> None:
        for worker in workers:
            worker.answered = answered
            worker.end(most)

    took = await _timed(start, len(workers))
    for worker in workers:
        worker.answered = lambda: None
    await pool.settle()
    return took


async def _submitted(pool: PoolAlone, cpus: int) -> float:
    """One job arrives and nobody can take it now."""
    took = await _timed(lambda answered: pool.ask([pool.fact(cpus=cpus)], lambda data: answered()), 1)
    await pool.settle()
    return took


async def _busy(passes: int, workers: int) -> list[Passes]:
    """All are busy, and a million tasks wait."""
    found: list[Passes] = []
    async with pool_alone() as pool:
        # What fills the machines, then what waits; of every shape, in arrays and alone, with all priorities.
        await pool.submit([pool.fact(workers * 4, 1000, 0, 10)])
        await pool.submit([pool.fact(ARRAY_TASKS, *SHAPES[at % len(SHAPES)], 1 + at % 9) for at in range(ARRAYS)])
        await pool.submit([pool.fact(1, *SHAPES[at % len(SHAPES)], 1 + at % 9) for at in range(SINGLES)])
        machines = pool.workers(workers, CPUS, MEMORY)
        await pool.settle()
        assert all(machine.held for machine in machines), "every worker is busy"
        gc.freeze()
        turn = iter(range(10**9))
        one = [await _freed(pool, [machines[next(turn) % workers]], 1) for _ in range(passes)]
        found.append(Passes("one worker is free", one))
        many: list[float] = []
        for at in range(PASSES_OF_MANY):
            some = [machines[(at * FREED + number) % workers] for number in range(FREED)]
            many.append(await _freed(pool, some, 1))
        found.append(Passes(f"{FREED} workers are free at once", many))
        found.append(Passes("a job arrives, all are busy", [await _submitted(pool, 1000) for _ in range(passes)]))
        joins: list[float] = []
        for at in range(PASSES_OF_MANY):
            new = BenchWorker(pool.link, f"wnew{at:06d}", Capacity(CPUS, MEMORY))

            def join(answered: Callable[[], None], new: BenchWorker = new) -> None:
                new.answered = lambda: answered() if new.held else None
                new.join()

            joins.append(await _timed(join, 1))  # until it has its first tasks
            new.answered = lambda: None
            await pool.settle()
        found.append(Passes("a worker joins", joins))
        found.append(Passes("who is silent", _silence(pool, passes)))
        gc.unfreeze()
    return found


def _silence(pool: PoolAlone, passes: int) -> list[float]:
    """What looking for silent workers costs."""
    now = 0.0
    liveness, waits = Liveness(lambda: now), list[float]()
    workers = pool.service.writer.state.workers
    liveness.restart(workers)
    for _ in range(passes):
        now += 1.0
        for name in workers:
            liveness.heard(name)
        begin = time.perf_counter()
        liveness.advance(True)
        assert not [*liveness.silent(workers.values()), *liveness.returned(workers.values())]
        waits.append((time.perf_counter() - begin) * 1000)
    return waits


async def _sizes(passes: int, workers: int) -> list[Passes]:
    """All are busy, and 10,000 arrays wait that all need something else of a machine."""
    found: list[Passes] = []
    async with pool_alone() as pool:
        await pool.submit([pool.fact(workers * 4, 1000, 0, 10)])
        sizes = [(250 + at * 7919 % 3750, at * 2**20 % MEMORY) for at in range(SIZES)]
        await pool.submit([pool.fact(10, *size, 1 + at % 9) for at, size in enumerate(sizes)])
        machines = pool.workers(workers, CPUS, MEMORY)
        await pool.settle()
        gc.freeze()
        one = [await _freed(pool, [machines[at % workers]], 1) for at in range(passes)]
        found.append(Passes(f"one worker is free, {SIZES:,} sizes wait", one))
        many: list[float] = []
        for at in range(passes, passes + PASSES_OF_MANY * FREED, FREED):
            before = pool.service.writer.position
            took = await _freed(pool, [machines[(at + number) % workers] for number in range(FREED)], 1)
            many.append(took / (pool.service.writer.position - before))
        found.append(Passes(f"{FREED} workers are free at once, {SIZES:,} sizes wait: each of the passes", many))
        gc.unfreeze()
    return found


async def _idle(passes: int, workers: int) -> list[Passes]:
    """All are idle but one large machine, and nothing waits."""
    found: list[Passes] = []
    async with pool_alone() as pool:
        machines = pool.workers(workers, CPUS, MEMORY)
        large = BenchWorker(pool.link, "wlarge", Capacity(LARGE_CPUS, MEMORY))
        large.join()
        await pool.settle()
        gc.freeze()
        waits: list[float] = []
        taken: list[BenchWorker] = []
        told: list[Callable[[], None]] = []
        for machine in (*machines, large):
            machine.answered = lambda machine=machine: (taken.append(machine), told[-1]())[1]
        for _ in range(passes):

            def start(answered: Callable[[], None]) -> None:
                told.append(answered)
                pool.ask([pool.fact()], lambda data: answered())

            waits.append(await _timed(start, 2))
            await pool.settle()
            taken.pop().end()
            await pool.settle()
        found.append(Passes("a job arrives, all are idle", waits))
        await pool.submit([pool.fact(cpus=LARGE_CPUS)])
        await pool.settle()
        assert large.held
        hopeless: list[float] = []
        told.append(lambda: None)
        for at in range(PASSES_OF_MANY):
            # Each of another size: none is known to be hopeless already.
            hopeless.append(await _submitted(pool, LARGE_CPUS - 1 - at))
        found.append(Passes("a job arrives that no idle worker can take", hopeless))
        gc.unfreeze()
    return found


async def plan(workers: int = WORKERS, passes: int = PASSES) -> list[Passes]:
    """Every kind of pass."""
    return [*await _busy(passes, workers), *await _sizes(passes, workers), *await _idle(passes, workers)]
