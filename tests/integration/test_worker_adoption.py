"""Agents killed while tasks run: the next one goes on with them, with their output complete and their exit code known."""

import asyncio
import hashlib
import os
import random
import signal
from collections.abc import AsyncGenerator

import pytest

from events.protocol import Cancel
from events.spec import TaskText
from tests.integration.test_worker_process import Process
from tests.worker_support import JOB, WAIT_S, Rig, gone
from worker import tree
from worker.keeper.line import end_keeper

KILLS = 20


class Agents:
    """The agents of one worker, one after the other."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.now: Process

    async def next(self, **more: object) -> None:
        """Start the next one. What the pool has told before is told again, as the real one does of what is held."""
        self.now = await Process.start(self.rig, **more)

    async def kill(self) -> None:
        await self.now.kill()


@pytest.fixture
async def agents(rig: Rig) -> AsyncGenerator[Agents]:
    found = Agents(rig)
    await found.next()
    yield found
    await found.kill()


async def said(rig: Rig, lease: int, text: bytes) -> None:
    await rig.pool.until(lambda: text in rig.pool.text(lease), f"it prints {text!r}")


def held(rig: Rig) -> list[tuple[int, list[int]]]:
    return [(one.lease, one.tasks) for one in rig.pool.hellos[-1][1].holding]


async def test_a_task_goes_on_and_is_held(rig: Rig, agents: Agents) -> None:
    go = rig.root / "go"
    lease = rig.pool.sh(f"echo first; while [ ! -e {go} ]; do sleep 0.01; done; echo last; exit 7")
    await said(rig, lease, b"first\n")
    await agents.kill()
    await agents.next()
    assert held(rig) == [(lease, [0, 0])]
    go.touch()
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code) == ("exit", 7)
    assert rig.pool.text(lease) == b"first\nlast\n"
    assert ended.details[0].out == hashlib.sha256(bytes(rig.pool.outputs[lease, 0])).hexdigest()


async def test_one_that_ended_while_nobody_was_there(rig: Rig, agents: Agents) -> None:
    go, done = rig.root / "go", rig.root / "done"
    lease = rig.pool.sh(f"while [ ! -e {go} ]; do sleep 0.01; done; head -c 300000 /dev/zero; touch {done}; exit 3")
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    await agents.kill()
    go.touch()
    async with asyncio.timeout(WAIT_S):
        while not done.exists():
            await asyncio.sleep(0.01)
    await agents.next()
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code) == ("exit", 3)
    assert len(rig.pool.text(lease)) == 300_000


async def test_results_of_one_that_ended_meanwhile_are_kept(rig: Rig, agents: Agents) -> None:
    go = rig.root / "go"
    text = TaskText(
        command=["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.01; done; echo made > result"], results=["result"]
    )
    lease = rig.pool.run([0, 0], text)
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    await agents.kill()
    go.touch()
    await agents.next()
    (detail,) = (await rig.pool.ended(lease)).details
    assert rig.shelf.blobs[detail.results[0].digest] == b"made\n"


async def test_an_adopted_task_is_cancelled_with_its_daemons(rig: Rig, agents: Agents) -> None:
    lease = rig.pool.sh("(setsid sh -c 'trap \"\" TERM HUP INT; echo $$; while :; do sleep 1; done' &) ; sleep 600")
    await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "a process id")
    await agents.kill()
    await agents.next()
    rig.pool.say(Cancel(rig.pool.number(), JOB))
    assert (await rig.pool.ended(lease)).end == "cancelled"
    await gone(int(rig.pool.text(lease)))


async def test_what_is_not_current_any_more_is_ended(rig: Rig, agents: Agents) -> None:
    lease = rig.pool.sh("echo $$; exec sleep 600")
    await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "a process id")
    await agents.kill()
    rig.pool.orders = [Cancel(rig.pool.number(), JOB, lease)]
    await agents.next()
    await gone(int(rig.pool.text(lease)))


async def test_a_new_version_takes_over(rig: Rig, agents: Agents) -> None:
    go = rig.root / "go"
    lease = rig.pool.sh(f"while [ ! -e {go} ]; do sleep 0.01; done; echo done")
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    keeper = rig.keeper_pid()
    await agents.kill()
    await agents.next(version="newer")
    assert rig.pool.hellos[-1][1].version == "newer"
    go.touch()
    await rig.pool.ended(lease)
    assert rig.pool.text(lease) == b"done\n"
    await gone(keeper)  # the keeper is of the version before, and goes when nothing needs it any more
    assert (await rig.pool.ended(rig.pool.sh("exit 5"))).code == 5


async def test_a_killed_keeper_ends_its_tasks_as_lost(rig: Rig, agents: Agents) -> None:
    lease = rig.pool.sh("setsid sleep 600 & echo $!; wait")
    await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "a process id")
    os.kill(rig.keeper_pid(), signal.SIGKILL)
    ended = await rig.pool.ended(lease)
    assert ended.end == "lost"
    assert "was killed" in ended.reason
    await gone(int(rig.pool.text(lease)))  # the next keeper sees to what is left
    assert (await rig.pool.ended(rig.pool.sh("exit 6"))).code == 6


async def test_both_killed_nothing_is_left_running(rig: Rig, agents: Agents) -> None:
    inside = rig.pool.sh("exec env -i sleep 600", [0, 0])
    await rig.pool.until(lambda: rig.pool.started(inside), "it starts")
    record = rig.root / "spool" / "running"
    async with asyncio.timeout(WAIT_S):
        while not record.exists():
            await asyncio.sleep(0.01)
    (pid,) = tree.children(rig.keeper_pid())
    await agents.kill()
    os.kill(rig.keeper_pid(), signal.SIGKILL)
    rig.pool.orders.clear()
    await agents.next()
    await gone(pid)
    assert held(rig) == []
    assert not any((rig.root / "tasks").iterdir())


async def test_an_agent_that_stops_takes_its_keeper_along(rig: Rig, agents: Agents) -> None:
    await rig.pool.ended(rig.pool.sh("true"))
    keeper = rig.keeper_pid()
    agents.now.process.send_signal(signal.SIGTERM)
    assert await agents.now.ended() == 0
    await gone(keeper)


async def test_a_state_folder_with_a_long_name(rig: Rig, agents: Agents) -> None:
    assert len(str(rig.root / "keeper.sock")) > 60
    end_keeper(rig.root)  # an agent whose keeper was told to go has another one
    assert (await rig.pool.ended(rig.pool.sh("exit 4"))).code == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_killed_twenty_times_at_any_point(rig: Rig, agents: Agents, seed: int) -> None:
    """Long tasks that print all the time, and short ones; nothing is missing, and nothing is there twice."""
    rng = random.Random(seed)
    script = (
        "i=0; while [ $i -lt 600 ]; do echo $HIVE_INDEX line $i; i=$((i+1)); sleep 0.02; done; exit $((HIVE_INDEX+1))"
    )
    lease = rig.pool.run([0, 3], TaskText(command=["sh", "-c", script]), cpus_milli=100)
    await rig.pool.until(lambda: len(rig.pool.started(lease)) == 4, "all start")
    whole = [b"".join(b"%d line %d\n" % (index, n) for n in range(600)) for index in range(4)]
    for _ in range(KILLS):
        short = rig.pool.run([0, 9], TaskText(command=["sh", "-c", "echo $HIVE_INDEX; exit 9"]), cpus_milli=10)
        least = min(len(whole[0]), len(rig.pool.text(lease)) + rng.randint(0, 150))
        await rig.pool.until(lambda: len(rig.pool.text(lease)) >= least, "more is printed")  # noqa: B023 - awaited here
        await agents.kill()
        await agents.next()
        for index, ended in rig.pool.ends(short).items():
            assert (ended.end, ended.code, rig.pool.text(short, index)) == ("exit", 9, b"%d\n" % index)
    for index in range(4):
        ended = await rig.pool.ended(lease, index)
        assert (ended.end, ended.code) == ("exit", index + 1)
        assert rig.pool.text(lease, index) == whole[index]
        assert ended.details[0].out == hashlib.sha256(bytes(rig.pool.outputs[lease, index])).hexdigest()


async def test_a_task_that_ignores_signals_and_double_forks_is_gone_when_it_is_told(rig: Rig, agents: Agents) -> None:
    fork = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "pids = []\n"
        "for _ in range(3):\n"
        "  r, w = os.pipe()\n"
        "  if not os.fork():\n"
        "    os.setsid()\n"
        "    if pid := os.fork(): os.write(w, b'%d' % pid); os._exit(0)\n"
        "    time.sleep(600)\n"
        "  pids.append(os.read(r, 20).decode())\n"
        "print(*pids, flush=True)\ntime.sleep(600)\n"
    )
    text = TaskText(command=["python3", "-c", fork], stop_signal="INT", grace=0.3)
    lease = rig.pool.run([0, 0], text)
    await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "process ids")
    rig.pool.say(Cancel(rig.pool.number(), JOB))
    ended = await rig.pool.ended(lease)
    assert ended.end == "cancelled"
    assert all(tree.is_dead(int(pid)) for pid in rig.pool.text(lease).split())


async def test_the_signal_of_choice_is_the_first(rig: Rig, agents: Agents) -> None:
    script = "trap 'echo heard; exit 0' USR1; echo ready; while :; do sleep 0.01; done"
    lease = rig.pool.run([0, 0], TaskText(command=["sh", "-c", script], stop_signal="USR1", grace=60))
    await said(rig, lease, b"ready\n")
    rig.pool.say(Cancel(rig.pool.number(), JOB))
    assert (await rig.pool.ended(lease)).end == "cancelled"
    assert rig.pool.text(lease).endswith(b"heard\n")
