"""The pool's service over a link in memory: asked in the same process, and many idle workers."""

import pytest

from events.protocol import Denied, Hello, Poll
from events.worker import Capacity
from infra.link import LinkDown
from services.asking import Accepted, Answer, Ask
from services.pool import polls, service
from services.pool.commands import Submit
from services.pool.worker import SUPERSEDED
from tests.bench.pool_alone import POOL, BenchWorker, PoolAlone, pool_alone
from tests.signing_support import heard, said


def asking(pool: PoolAlone) -> Ask:
    return Ask([Submit(pool.fact())], "u1")


async def test_a_question_of_the_same_process_is_answered_when_it_is_in_the_log() -> None:
    async with pool_alone() as pool:
        answer = pool.service.near(asking(pool))
        assert answer is not None
        assert not answer.done()
        assert await answer == Answer(pool.service.writer.position, [Accepted()])


async def test_who_loses_the_place_says_so_at_once_and_is_not_asked_again() -> None:
    async with pool_alone() as pool:
        answer = pool.service.near(asking(pool))
        assert answer is not None
        pool.service.writer.leads = False
        pool.service.reset()
        with pytest.raises(LinkDown):
            await answer
        assert pool.service.near(asking(pool)) is None


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


async def test_tasks_that_need_no_cpu_reach_a_full_machine_that_waits() -> None:
    async with pool_alone() as pool:
        (worker,) = pool.workers(1, 1000, 2**30)
        await pool.submit([pool.fact(2)])
        await pool.settle()
        assert len(worker.held) == 1
        await pool.submit([pool.fact(cpus=0, memory=2**31), pool.fact(cpus=0)])
        await pool.settle()
        assert [run.cpus_milli for run in worker.held] == [1000, 0]
        await pool.submit([pool.fact()])
        await pool.settle()
        assert len(worker.held) == 2


async def test_workers_that_are_free_at_once_are_served_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool_alone() as pool:
        workers = pool.workers(20, 1000, 2**30)
        await pool.submit([pool.fact(100), pool.fact(cpus=2)])
        await pool.settle()
        monkeypatch.setattr(polls, "LOOKS_MAX", 3)
        before = pool.service.writer.position
        for worker in workers:
            worker.end()
        await pool.settle()
        assert all(len(worker.held) == 1 for worker in workers)
        assert pool.service.writer.position - before >= 20 / 2


async def test_work_of_many_sizes_reaches_every_worker() -> None:
    async with pool_alone() as pool:
        workers = pool.workers(20, 2000, 2**30)
        await pool.settle()
        await pool.submit([pool.fact(cpus=2000 - n) for n in range(40)])
        for _ in range(2):
            await pool.settle()
            assert all(len(worker.held) == 1 for worker in workers)
            for worker in workers:
                worker.end()
        await pool.settle()
        assert not pool.service.writer.state.jobs


async def test_the_index_of_ids_is_stamped_after_enough_events_in_however_few_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "INDEX_EVENTS_MAX", 50)
    async with pool_alone() as pool:
        (worker,) = pool.workers(1, 1000, 2**30)
        await pool.submit([pool.fact(20)])
        await pool.settle()
        last = pool.service.writer.position
        assert pool.service.behind(last) == 0
        while worker.held:
            worker.end()
            await pool.settle()
        assert last < pool.service.behind(pool.service.writer.position) <= pool.service.writer.position


async def test_a_late_hello_of_an_older_agent_takes_nothing_from_the_newer() -> None:
    async with pool_alone() as pool:
        worker = BenchWorker(pool.link, "w1", Capacity(1000, 2**30))
        worker.poll(Hello("boot", worker.capacity, "1", "nonce", since_boot_ms=2000))
        await pool.settle()
        late = Poll("s0", 1, hello=Hello("boot", worker.capacity, "1", "nonce", since_boot_ms=1000))
        told: list[bytes] = []
        pool.link.ask(f"req.{POOL}.w1.next", said(POOL, "w1", late), told.append)
        await pool.settle()
        assert [heard(POOL, "w1", late, one) for one in told] == [Denied("superseded", SUPERSEDED)]
        await pool.submit([pool.fact()])
        await pool.settle()
        assert worker.held, "its poll still waits"
