"""SIGKILL at random points in the middle of a 1,000-task job: control plane, nats-server, worker. Nothing acknowledged is
lost, nothing counts twice, and the log folds to what the API says.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from events.base import expand
from events.job import JobFinished, JobSubmitted
from events.task import TasksFailed, TasksFinished
from services.pool import model
from services.pool.state import Pool
from tests.system import System, system
from web.client import AsyncHive

TASKS = 1000
TARGETS = ("nats", "plane", "worker")
ROUNDS = 4
KILLS_EACH = 6
"""Each of TARGETS is killed twice in a round, in any order."""
AGENTS = 2


async def _killed(running: System, rng: random.Random, what: str) -> None:
    if what == "nats":
        os.kill(running.nats_pid(), signal.SIGKILL)
    elif what == "plane":
        running.planes[-1].kill()
        running.planes[-1].wait()
        await running.plane()
    else:
        name = rng.choice(sorted(running.agents))
        running.agents[name].kill()
        running.agents[name].wait()
        running.agent(name)


async def _check(running: System, acknowledged: set[str]) -> None:
    """Fold the log from its first message, checking the state after each, and count every task's effects."""
    state, effects, submitted, ended = Pool("default"), Counter[tuple[str, int]](), set[str](), dict[str, str]()
    last_at, guard = 0, 0
    for entry, message in await running.entries("evt.pool.default"):
        assert message.at >= last_at and entry.position > guard
        last_at, guard = message.at, entry.position
        for event in message.events():
            model.evolve(state, event, message.at)
            if isinstance(event, TasksFinished | TasksFailed):
                effects.update((event.job, index) for index in expand(event.tasks))
            elif isinstance(event, JobSubmitted):
                assert event.job not in submitted
                submitted.add(event.job)
            elif isinstance(event, JobFinished):
                ended[event.job] = event.state
        model.check(state)
    assert acknowledged <= submitted
    assert set(effects.values()) == {1}
    assert len(effects) == TASKS * len(submitted)
    assert ended == dict.fromkeys(submitted, "succeeded")


async def _progress(client: AsyncHive, job: str, least: int, running: System) -> None:
    async def so_far() -> bool:
        return (await client.job(job)).succeeded >= least

    await running.until(so_far, f"{least} tasks end")


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_killed_in_the_middle(tmp_path: Path, seed: int, number: int) -> None:
    rng = random.Random(f"{seed}-{number}")
    async with system(tmp_path / "hive") as running:
        await running.plane()
        for name in range(AGENTS):
            running.agent(f"a{name}")
        async with running.client() as client:
            await running.ready(client, AGENTS)
            job = await client.submit(["/bin/sh", "-c", "echo $HIVE_INDEX"], count=TASKS)
            least = 0
            for what in rng.sample(TARGETS * 2, KILLS_EACH):
                least += rng.randrange(10, TASKS // KILLS_EACH)
                await _progress(client, job.job, least, running)
                await _killed(running, rng, what)
            result = await asyncio.wait_for(client.result(job), 60)
            assert (result.state, result.succeeded) == ("succeeded", TASKS), running.tail()
            row = await client.job(job.job)
            assert (row.state, row.succeeded) == ("succeeded", TASKS)
        await _check(running, {job.job})
