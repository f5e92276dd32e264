"""The pool's service over a link in memory: asked in the same process, and many idle workers."""

import pytest

from events.worker import Capacity
from infra.link import LinkDown
from services.pool import polls
from services.pool.commands import Accepted, Answer, Ask, Submit
from tests.bench.pool_alone import BenchWorker, PoolAlone, pool_alone


def asking(pool: PoolAlone) -> Ask:
    return Ask([Submit(pool.fact())], "u1")


async def test_a_question_of_the_same_process_is_answered_when_it_is_in_the_log() -> None:
    async with pool_alone() as pool:
        answer = pool.service.ask(asking(pool))
        assert answer is not None
        assert not answer.done()
        assert await answer == Answer(pool.service.writer.position, [Accepted()])


async def test_who_loses_the_place_says_so_at_once_and_is_not_asked_again() -> None:
    async with pool_alone() as pool:
        answer = pool.service.ask(asking(pool))
        assert answer is not None
        pool.service.writer.leads = False
        pool.service.reset()
        with pytest.raises(LinkDown):
            await answer
        assert pool.service.ask(asking(pool)) is None


async def test_idle_workers_are_looked_at_in_parts_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls, "LOOKS_MAX", 3)
    async with pool_alone() as pool:
        small = pool.workers(20, 1000, 2**30)
        large = BenchWorker(pool.link, "wlarge", Capacity(8000, 2**30))
        large.join()
        await pool.settle()
        for _ in range(3):
            await pool.submit([pool.fact(cpus=8000)])
            await pool.settle()
            assert large.held
            large.end()
            await pool.settle()
        await pool.submit([pool.fact(cpus=1000) for _ in range(28)])
        await pool.settle()
        assert sum(len(worker.held) for worker in (*small, large)) == 28


async def test_what_nobody_can_take_now_waits_for_the_one_who_can() -> None:
    async with pool_alone() as pool:
        pool.workers(20, 1000, 2**30)
        large = BenchWorker(pool.link, "wlarge", Capacity(8000, 2**30))
        large.join()
        await pool.settle()
        await pool.submit([pool.fact(cpus=8000) for _ in range(5)])
        for _ in range(5):
            await pool.settle()
            assert len(large.held) == 1
            large.end()
        await pool.settle()
        assert not large.held
        assert not pool.service.writer.state.jobs
