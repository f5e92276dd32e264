"""The control plane's memory does not grow with tasks that wait, and little with jobs; a replay never holds the log."""

import asyncio
import sys
from pathlib import Path

import msgspec

from events import catalog
from events.base import Sealed
from events.catalog import AnyEvent, Decision, Message, pool_subject
from events.job import JobSubmitted
from events.task import TasksFinished, TasksLeased
from infra.nats_log import JetStreamLog
from tests.bench.memory import memory
from tests.nats_support import linked, serving
from tests.tools import run

MILLION = 1_000_000
JOBS, JOBS_OF_THE_FLOOR = 10_000, 100_000
JOBS_MIB_MAX = 1024 * JOBS / JOBS_OF_THE_FLOOR
ARRAY_MIB_MAX = 300
EVENTS = 400_000
"""Held at once they take about five times REPLAY_MIB_MAX."""
REPLAY_MIB_MAX = 32
EVENTS_IN_A_MESSAGE = 4000


async def test_what_waits_costs_little_and_a_killed_control_plane_comes_back_with_it() -> None:
    parts = await memory(JOBS, MILLION)
    nothing, array, jobs, again = (part["mib"] for part in parts.values())
    assert array < ARRAY_MIB_MAX
    assert jobs - nothing < JOBS_MIB_MAX
    assert again - nothing < JOBS_MIB_MAX


def facts(number: int) -> list[AnyEvent]:
    """A message's events: leases of single tasks of one array, and their ends."""
    some = range(number * EVENTS_IN_A_MESSAGE // 2, (number + 1) * EVENTS_IN_A_MESSAGE // 2)
    found: list[AnyEvent] = []
    for task in some:
        found.append(TasksLeased("j" * 17, [task, task], task + 1, "w1", 1))
        found.append(TasksFinished("j" * 17, [task, task], task + 1, "w1", 1, []))
    return found


async def test_a_replay_never_holds_the_whole_log(tmp_path: Path) -> None:
    subject, stored = pool_subject("default"), 0
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        first: list[AnyEvent] = [JobSubmitted("j" * 17, "u1", "d", Sealed("k1", b""), count=EVENTS)]
        for number in range(EVENTS // EVENTS_IN_A_MESSAGE):
            message = Message(f"m{number}", number, "test", [Decision(first if not number else facts(number - 1))])
            data = catalog.encode(message)
            stored += len(data)
            assert await log.append(subject, data, number) == number + 1
    said = await asyncio.to_thread(run, [sys.executable, "-m", "tests.bench.refold", str(tmp_path)])
    assert not said.returncode, said.stderr
    found = msgspec.json.decode(said.stdout.splitlines()[-1], type=dict[str, float])
    assert found["events"] > EVENTS * 0.98
    assert found["peak_mib"] - found["before_mib"] < REPLAY_MIB_MAX, f"the log has {stored / 2**20:.0f} MiB as stored"
