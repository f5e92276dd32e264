"""A worker in a simulation: the real machine (`worker.machine`) in a shell whose tasks only pass time.

A crash ends the running tasks; what the machine had put on disk, and only that, is there at the next start.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from random import Random
from typing import Any

from events import protocol
from events.protocol import Denied, Ended, Heartbeat, Hello, Orders, Output, Piece, Recorded, Report, Run, Stored
from events.worker import Capacity
from infra.link import LinkDown, LinkTimeout, NoResponders
from infra.signing import split
from tests.signing_support import heard, said
from tests.simulation.auditor import Auditor
from tests.simulation.network import Net, SimLink
from worker import messages
from worker.machine import step, wants_ticks
from worker.state import State, next_poll

POOL = "p"
POLL_TIMEOUT_S = protocol.POLL_S_MAX + 5
REPORT_TIMEOUT_S = 5.0
OUTPUT_TIMEOUT_S = 2.0
HEARTBEAT_S = 5.0
TICK_S = 0.1
PAUSE_S = 0.2


class Disk:
    """What outlives a crash of the agent."""

    def __init__(self) -> None:
        self.batches: dict[int, list[Ended]] = {}
        self.sessions = 0


class Trade:
    """How tasks go in this run."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.seconds = random.choice([0.01, 0.3, 2.0, 5.0])
        self.fails = random.choice([0.0, 0.0, 0.1, 0.5])
        self.bytes = random.choice([0, 0, 100])

    def end(self) -> tuple[float, str, int]:
        """How long one attempt takes, and how it ends."""
        took = self.random.uniform(0, 2) * self.seconds
        if self.random.random() >= self.fails:
            return took, "exit", 0
        return took, *self.random.choice([("exit", 1), ("oom", 0), ("timeout", 0), ("rejected", 0)])


class Agent:
    """One life of a worker's agent, from start to crash or good-bye."""

    def __init__(self, net: Net, auditor: Auditor, disk: Disk, name: str, capacity: Capacity, trade: Trade) -> None:
        disk.sessions += 1
        self.name, self.capacity, self.disk, self.trade, self.auditor = name, capacity, disk, trade, auditor
        self.session = f"{name}-{disk.sessions}"
        self.link = SimLink(net, self.session)
        hello = Hello("boot", capacity, "1", "nonce", [], self._now())
        self.state = State(self.session, hello, dict(disk.batches))
        self.alive, self.exit_code = False, None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[tuple[int, int], tuple[asyncio.Task[None], Run]] = {}
        self._poll_again = asyncio.Event()
        self._greeted = asyncio.Event()

    def start(self) -> None:
        self.alive = True
        for work in (self._poll(), self._beat(), self._tick()):
            self._begin(work)
        self._begin(self._listen())
        self._do(messages.Tick(self._now()))

    def crash(self) -> None:
        """Stop at once; nothing is said or saved any more."""
        self.alive = False
        for task in [*self._tasks]:
            task.cancel()
        self.link.cut_off(noticed=True)
        for one in [one for one in self.link.net.subscriptions if one.link is self.link]:
            one.close()

    def stop(self) -> None:
        """Ask it to finish and leave."""
        self._do(messages.Stop(self._now()))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.link.net.failed.append(error)

    def _now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)

    def _do(self, stimulus: messages.Stimulus) -> None:
        if not self.alive:
            return
        for instruction in step(self.state, stimulus):
            self._carry_out(instruction)

    def _carry_out(self, instruction: messages.Instruction) -> None:
        if isinstance(instruction, messages.Start):
            key = (instruction.order.number, instruction.index)
            assert key not in self._running, f"{self.name} starts {key} twice"
            took, end, code = self.trade.end()
            task = self._begin(self._attempt(instruction.order, instruction.index, took, end, code))
            self._running[key] = (task, instruction.order)
        elif isinstance(instruction, messages.Kill):
            found = self._running.get((instruction.lease, instruction.index))
            if found is not None:
                found[0].cancel()
                self._begin(self._finish(found[1], instruction.index, instruction.end, 0))
        elif isinstance(instruction, messages.Save):
            self._begin(self._save(instruction))
        elif isinstance(instruction, messages.Send):
            self._begin(self._report(instruction.report))
        elif isinstance(instruction, messages.Forget):
            for number in instruction.batches:
                self.disk.batches.pop(number, None)
        elif isinstance(instruction, messages.Repoll):
            self._poll_again.set()
        else:
            assert isinstance(instruction, messages.Quit)
            self.exit_code = instruction.code
            self.crash()

    async def _attempt(self, order: Run, index: int, took: float, end: str, code: int) -> None:
        await asyncio.sleep(took)
        await self._finish(order, index, end, code)

    async def _finish(self, order: Run, index: int, end: Any, code: int) -> None:
        """The process is gone; its output goes to the platform first."""
        data = b"x" * self.trade.bytes
        safe = 0
        while safe < len(data):
            piece = Piece(order.number, order.job, index, safe, data[safe : safe + 60])
            output = Output(self.session, [piece])
            answer = await self._ask("output", protocol.pack(output), OUTPUT_TIMEOUT_S)
            if answer is None:
                continue
            stored = heard(POOL, self.name, output, answer)
            assert isinstance(stored, Stored)
            if stored.safe[0] < 0:
                break
            self.auditor.told_stored(order.job, index, order.number, data[: stored.safe[0]])
            safe = stored.safe[0]
        self._running.pop((order.number, index), None)
        self.auditor.ran[order.job, index, order.number] = (end, code)
        self._do(messages.Done([messages.End(order.number, index, end, code)], self._now()))

    async def _save(self, save: messages.Save) -> None:
        await asyncio.sleep(0.002)
        self.disk.batches[save.batch] = save.items
        self._do(messages.Saved(save.batch, self._now()))

    # What is said

    async def _ask(self, what: str, data: bytes, timeout_s: float) -> bytes | None:
        """One try; None also for an answer that is not signed, which is a hint to wait."""
        with contextlib.suppress(LinkDown, LinkTimeout, NoResponders):
            answer = (await self.link.request(f"req.{POOL}.{self.name}.{what}", data, timeout_s)).data
            if split(answer) is not None:
                return answer
        await asyncio.sleep(PAUSE_S)
        return None

    async def _report(self, report: Report) -> None:
        data = said(POOL, self.name, report)
        while True:
            answer = await self._ask("report", data, REPORT_TIMEOUT_S)
            if answer is None:
                continue
            answered = heard(POOL, self.name, report, answer)
            if isinstance(answered, Recorded):
                position = int(answered.position.partition(".")[2])
                self.auditor.told_recorded(self.name, report.session, report.sequence, position)
                self._do(messages.Answered(report.sequence, self._now()))
                return
            assert isinstance(answered, Denied)
            if answered.code in ("superseded", "malformed", "unknown_session"):
                self._do(messages.Answered(report.sequence, self._now(), answered.code, answered.detail))
            if answered.code in ("superseded", "malformed"):
                return
            await asyncio.sleep(PAUSE_S)  # asked to slow down, or to say hello first: the same again

    async def _poll(self) -> None:
        while True:
            poll = next_poll(self.state, self._now())
            answer = await self._unless_again(self._ask("next", said(POOL, self.name, poll), POLL_TIMEOUT_S))
            if answer is None:
                continue
            answered = heard(POOL, self.name, poll, answer)
            if isinstance(answered, Orders):
                self._do(messages.Ordered(answered, self._now(), poll.hello is not None))
                if answered.resync:
                    await asyncio.sleep(0.01)
            else:
                self._do(messages.Denial(answered.code, answered.detail, self._now()))
                await asyncio.sleep(PAUSE_S)

    async def _unless_again(self, asking: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        """The answer, or None as soon as there is reason to ask anew."""
        asked, again = asyncio.create_task(asking), asyncio.create_task(self._poll_again.wait())
        try:
            await asyncio.wait((asked, again), return_when=asyncio.FIRST_COMPLETED)
            return asked.result() if asked.done() else None
        finally:
            self._poll_again.clear()
            asked.cancel()
            again.cancel()

    async def _listen(self) -> None:
        await self.link.subscribe(f"push.{POOL}.all.poll", lambda subject, reply, data: self._poll_again.set())

    async def _beat(self) -> None:
        while True:
            try:
                self.link.send(f"hb.{POOL}.{self.name}", protocol.pack(Heartbeat(self.session, 1)))
            except LinkDown:
                pass
            await asyncio.sleep(HEARTBEAT_S)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if wants_ticks(self.state):
                self._do(messages.Tick(self._now()))
