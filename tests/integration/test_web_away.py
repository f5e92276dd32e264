"""Following output while the tables are away for good: what the board knows is gone on with, the rest is given up."""

import asyncio

import pytest

from events.protocol import Run
from infra.outputs import frame
from projections.board_state import Guess
from tests.web_support import Api, Crew
from web import output
from web.client import AsyncHive, Unavailable

WAIT_S = 20.0


async def print_all(hive: Api, crew: Crew, count: int) -> None:
    """Have each of `count` tasks print its number, under the lease it was given with."""
    async with asyncio.timeout(WAIT_S):
        while sum(run.tasks[1] - run.tasks[0] + 1 for run in crew.orders) < count:
            await asyncio.sleep(0.005)
    for run in crew.orders:
        for index in range(run.tasks[0], run.tasks[1] + 1):
            await hive.core.outputs.append(run.job, index, run.number, 0, frame(1, 1000, b"%d" % index))


@pytest.mark.parametrize("failing", [(), (2,), (0, 1, 2)])
async def test_an_array_is_followed_to_its_end(hive: Api, client: AsyncHive, failing: tuple[int, ...]) -> None:
    def ends(run: Run, index: int) -> int:
        return int(index in failing)

    async with hive.crew(ends=ends) as crew:
        crew.hold.clear()
        job = await client.submit(kind="noop", count=3)
        await print_all(hive, crew, 3)
        following = asyncio.gather(*(client.output(job, index) for index in range(3)))
        crew.hold.set()
        assert await asyncio.wait_for(following, WAIT_S) == [b"0", b"1", b"2"]


async def test_the_next_attempt_is_found_by_what_it_printed(hive: Api, client: AsyncHive) -> None:
    async with hive.crew(ends=lambda run, index: int(run.attempt == 1)) as crew:
        crew.hold.clear()
        answer = await hive.ask(
            "POST", "/v1/jobs", json={"kind": "noop", "count": 2, "retries": {"exit": 1, "backoff": 0}}
        )
        job = answer[1]["jobs"][0]["job"]
        await print_all(hive, crew, 2)
        following = asyncio.create_task(client.output(job, 1))
        crew.hold.set()
        crew.hold.clear()
        async with asyncio.timeout(WAIT_S):
            while all(run.attempt == 1 for run in crew.orders):
                await asyncio.sleep(0.005)
        await print_all(hive, crew, 4)
        crew.hold.set()
        assert await asyncio.wait_for(following, WAIT_S) == b"11"


async def test_what_nobody_can_know_is_given_up_with_the_reason(hive: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "AWAY_S_MAX", 0.1)
    async with AsyncHive(hive.url, hive.key, try_s=0.5) as client:
        job = await client.submit(kind="noop", count=2)
        with pytest.raises(Unavailable, match=r"whether task 1 has ended cannot be told: .*database") as caught:
            async with asyncio.timeout(WAIT_S):
                await client.output(job, 1)
        assert "when the database is back" in caught.value.remedy


async def test_a_task_that_runs_is_not_given_up(hive: Api, client: AsyncHive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "AWAY_S_MAX", 0.0)
    monkeypatch.setattr(output, "AWAY_S", 0.01)
    looks, live_task = list[str](), hive.core.reads.live_task

    def seen(job: str, index: int) -> Guess:
        looks.append(live_task(job, index))
        return live_task(job, index)

    monkeypatch.setattr(hive.core.reads, "live_task", seen)
    async with hive.crew(starts=True) as crew:
        crew.hold.clear()
        job = await client.submit(kind="noop", count=2)
        await print_all(hive, crew, 2)
        async with asyncio.timeout(WAIT_S):
            while (await client.job(job)).running < 2:
                await asyncio.sleep(0.005)
        following = asyncio.create_task(client.output(job, 1))
        async with asyncio.timeout(WAIT_S):
            while looks.count("running") < 10:
                await asyncio.sleep(0.005)
        assert not following.done()
        crew.hold.set()
        assert await asyncio.wait_for(following, WAIT_S) == b"1"


async def test_tables_that_hang_do_not_hold_up_the_output(
    hive: Api, client: AsyncHive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(output, "ANSWER_S_MAX", 0.05)
    monkeypatch.setattr(hive.core.reads, "task", hangs)
    async with hive.crew(starts=True) as crew:
        crew.hold.clear()
        job = await client.submit(kind="noop", count=2)
        await print_all(hive, crew, 2)
        following = client.logs(job, 1)
        async with asyncio.timeout(WAIT_S):
            assert (await anext(following)).data == b"1"
            crew.hold.set()
            assert [piece async for piece in following] == []
