"""Agents as processes of their own: signals, and what is left of one that was killed."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.worker_support import WAIT_S, Rig, gone
from worker import tree

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import json, sys
from pathlib import Path
from typing import Any
from worker.agent import AgentOptions, run
options = json.load(sys.stdin)
sys.exit(run(AgentOptions(**options | {"state": Path(options["state"]), "seed": Path(options["seed"])})))
"""


class Process:
    """An agent's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = b""

    @classmethod
    async def start(cls, rig: Rig, **more: Any) -> "Process":
        """Start it and wait until the pool knows it."""
        # The program reads its options from the standard input: a key is never on a command line.
        given = msgspec.to_builtins(rig.options(**more), enc_hook=str)
        options = {name: value for name, value in given.items() if not name.endswith(("_trust", "rules"))}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        greeted = len(rig.pool.hellos)
        process.stdin.write(msgspec.json.encode(options))
        process.stdin.close()
        await rig.pool.until(lambda: len(rig.pool.hellos) > greeted, "the agent says hello")
        return cls(process)

    async def kill(self) -> None:
        """As `kill -9`."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def ended(self) -> int:
        """Its exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT_S):
            self.said = await self.process.stderr.read()
            return await self.process.wait()


@pytest.fixture
async def agent(rig: Rig) -> AsyncGenerator[Process]:
    agent = await Process.start(rig)
    yield agent
    await agent.kill()


async def pid_of(rig: Rig, lease: int) -> int:
    """The process id that a task printed."""
    await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "a process id")
    return int(rig.pool.text(lease))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_finishes_what_runs(rig: Rig, agent: Process, number: signal.Signals) -> None:
    go = rig.root / "go"
    lease = rig.pool.sh(f"while [ ! -e {go} ]; do sleep 0.01; done")
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    agent.process.send_signal(number)
    await rig.pool.until(lambda: rig.pool.polls[-1].room == 0, "it takes nothing new")
    go.touch()
    assert await agent.ended() == 0
    assert b"stopping: 1 running" in agent.said
    assert rig.pool.ends(lease)[0].code == 0
    assert rig.pool.reports[-1].bye


async def test_a_second_signal_ends_it_at_once(rig: Rig, agent: Process) -> None:
    pid = await pid_of(rig, rig.pool.sh("trap '' TERM; sleep 600 & echo $!; wait"))
    agent.process.send_signal(signal.SIGINT)
    await rig.pool.until(lambda: rig.pool.polls[-1].room == 0, "it takes nothing new")
    agent.process.send_signal(signal.SIGINT)
    assert await agent.ended() == 0
    await gone(pid)


async def test_a_second_agent_is_refused_with_a_remedy(rig: Rig, agent: Process) -> None:
    from worker.identity import StateInUse, claim

    with pytest.raises(StateInUse, match=f"kill {agent.process.pid}"):
        claim(rig.root)


async def test_zombies_are_not_collected(rig: Rig, agent: Process) -> None:
    lease = rig.pool.sh("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05' &) ; done", [0, 9])
    await rig.pool.until(lambda: len(rig.pool.ends(lease)) == 10, "all end")
    async with asyncio.timeout(WAIT_S):
        while tree.children(rig.keeper_pid()):
            await asyncio.sleep(0.01)
