"""Two control planes over one log, paused and resumed at random: whoever is paused loses its place and does no harm, and
the other one goes on within 3 s.
"""

import asyncio
import random
import shutil
import signal
from pathlib import Path

import pytest

from events.job import JobFinished
from events.pool import WriterLed
from events.task import TasksFinished
from infra.nats_authority import Authority
from services.pool import model
from services.pool.state import Pool
from tests.nats_support import write_creds
from tests.system import System, system

PAUSES = 6
GOES_ON_S = 3.0
TASKS = 250
SUBJECT = "evt.pool.default"


def _second(running: System, folder: Path) -> None:
    """Start a control plane of another folder that only decides, on the same log and with the same keys."""
    shutil.copytree(running.folder.path("keys"), folder / "keys")
    authority = Authority(running.folder)
    environ = {
        "HIVE_DATA": str(folder),
        "HIVE_NATS_URL": f"nats://127.0.0.1:{running.folder.path('nats', 'port').read_text()}",
        "HIVE_NATS_SEED_FILE": write_creds(folder / "platform.creds", authority.platform),
        "HIVE_NATS_SYS_SEED_FILE": write_creds(folder / "sys.creds", authority.system),
    }
    running.planes.append(running.spawn("serve", "--role", "pool", environ=environ))


async def _finished(running: System) -> int:
    return sum(
        isinstance(event, TasksFinished) for _, message in await running.entries(SUBJECT) for event in message.events()
    )


async def _goes_on(running: System) -> None:
    """Some task ends within the limit from now."""
    before = await _finished(running)

    async def more() -> bool:
        return await _finished(running) > before

    await running.until(more, "work goes on while a control plane is paused", GOES_ON_S)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_paused_at_random(tmp_path: Path, seed: int) -> None:
    rng = random.Random(f"planes-{seed}")
    folder = tmp_path / "second"
    folder.mkdir(mode=0o700)
    async with system(tmp_path / "hive") as running:
        await running.plane()
        _second(running, folder)
        for name in range(2):
            running.agent(f"a{name}")
        async with running.client() as client:
            await running.ready(client, 2)
            # Long enough that it outlives every pause: until the last one is over each task sleeps a little.
            gate = running.folder.path("gate")
            script = f"test -e {gate} || sleep 0.15"
            jobs = [await client.submit(["/bin/sh", "-c", script], count=TASKS) for _ in range(2)]
            for _ in range(PAUSES):
                paused = rng.choice(running.planes)
                paused.send_signal(signal.SIGSTOP)
                try:
                    await _goes_on(running)
                finally:
                    paused.send_signal(signal.SIGCONT)
                await _goes_on(running)
            gate.touch()
            for job in jobs:
                result = await asyncio.wait_for(client.result(job), 60)
                assert result.state == "succeeded", running.tail()
        state, leaders, ended = Pool("default"), set[str](), list[str]()
        for _, message in await running.entries(SUBJECT):
            for event in message.events():
                model.evolve(state, event, message.at)
                if isinstance(event, WriterLed):
                    leaders.add(event.writer)
                elif isinstance(event, JobFinished):
                    ended.append(event.job)
            model.check(state)
        assert len(leaders) == 2
        assert sorted(ended) == sorted(job.job for job in jobs)
