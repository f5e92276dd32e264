"""A pool for agents under test: a real nats-server and a small HTTP server for blobs, played by the test itself.

What it answers is what the real one may answer; what it records is what the agent said.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec

from events import protocol
from events.base import Runs, expand, holds, runs_of
from events.job import Kind
from events.masking import unmask
from events.protocol import (
    Denied,
    Ended,
    Hello,
    Order,
    Orders,
    Output,
    Poll,
    Recorded,
    Report,
    Run,
    Started,
    Stored,
)
from events.spec import TaskText
from infra import signing
from infra.link import Link
from infra.nats_server import NatsServer
from infra.nkey import verify
from services.credentials import CredentialDesk
from tests.nats_support import linked, serving
from tests.shelf_support import Shelf
from tests.signing_support import CHAIN, HIVE, opened
from worker import identity, tree
from worker.agent import Agent, AgentOptions
from worker.keeper.line import end_keeper

WAIT_S = 20.0
POOL = "default"
JOB = "jaaaaaaaaaaaaaaaa"
TICKET = "a-ticket"


class Pool:
    """The platform's side of one worker."""

    def __init__(self, link: Link, worker: str, keys: Callable[[], Collection[str]]) -> None:
        self._link, self.worker, self.keys = link, worker, keys
        self.orders: list[Order] = []
        self.polls: list[Poll] = []
        self.hellos: list[tuple[str, Hello]] = []
        self.reports: list[Report] = []
        self.outputs: dict[tuple[int, int], bytearray] = {}
        self.unwanted: set[int] = set()
        self.beats: list[protocol.Heartbeat] = []
        self.silent_reports = 0
        """How many reports to lose the answer of."""
        self.take_reports = True
        self.take_output = True
        self.deny = ""
        self.hive = HIVE
        """With which key the platform signs."""
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        """What becomes of its answers on their way."""
        self.slow_downs = {"next": 0, "report": 0, "output": 0}
        """How many messages of each kind are refused with `slow_down`."""
        self._parked: tuple[str, Poll] | None = None
        self._number = 0
        self._seen: set[tuple[str, int]] = set()
        self._changed = asyncio.Event()

    def _refused(self, subject: str, reply: str) -> bool:
        kind = subject.rpartition(".")[2]
        if not self.slow_downs[kind]:
            return False
        self.slow_downs[kind] -= 1
        self._link.send(reply, protocol.pack(Denied("slow_down", "said the test")))
        return True

    def _say(self, verb: protocol.Verb, reply: str, asked: protocol.Asked, answer: protocol.Said) -> None:
        """Answer, signed as the test wants it."""
        data = signing.answered(
            self.hive, verb, POOL, self.worker, asked.session, asked.sequence, protocol.pack(answer)
        )
        self._link.send(reply, self.spoil(data))

    async def open(self) -> None:
        """Listen."""
        base = f"req.{POOL}.{self.worker}"
        await self._link.subscribe(f"{base}.next", self._polled)
        await self._link.subscribe(f"{base}.report", self._reported)
        await self._link.subscribe(f"{base}.output", self._output)
        await self._link.subscribe(f"hb.{POOL}.{self.worker}", self._beat)

    def _polled(self, subject: str, reply: str, data: bytes) -> None:
        if self._refused(subject, reply):
            return
        poll = protocol.poll_of(opened(data))
        self.polls.append(poll)
        self._changed.set()
        if self.deny:
            self._say("next", reply, poll, Denied(self.deny, "said the test"))
        elif poll.hello is not None:
            if self.hellos and self.hellos[-1][0] != poll.session:
                self._resume(poll.hello)
            self.hellos.append((poll.session, poll.hello))
            self._answer(reply, poll)
        elif not self.hellos or self.hellos[-1][0] != poll.session:
            self._say("next", reply, poll, Orders([], resync=True))
        elif any(order.number > poll.last for order in self.orders):
            self._answer(reply, poll)
        else:
            self._parked = (reply, poll)

    def _resume(self, hello: Hello) -> None:
        """What a new session does not hold is given up, and what it holds stays its own, as long as it has not ended."""
        holding = {held.lease: held.tasks for held in hello.holding}
        left: list[Order] = []
        for order in self.orders:
            if isinstance(order, Run):
                ended = self.ends(order.number)
                kept = [n for n in expand(order.tasks) if holds(holding.get(order.number, []), n) and n not in ended]
                if not kept:
                    continue
                left.append(msgspec.structs.replace(order, tasks=runs_of(kept)))
            else:
                left.append(order)
        self.orders = left

    def _answer(self, reply: str, poll: Poll) -> None:
        self._say("next", reply, poll, Orders([order for order in self.orders if order.number > poll.last]))

    def say(self, order: Order) -> None:
        """Give an order."""
        self.orders.append(order)
        if self._parked is not None:
            (reply, poll), self._parked = self._parked, None
            self._answer(reply, poll)

    def number(self) -> int:
        """A new order's number."""
        self._number += 1
        return self._number

    def run(self, tasks: Runs, text: TaskText, kind: Kind = "process", job: str = JOB, **more: Any) -> int:
        """Order tasks; the lease."""
        number = self.number()
        count = more.pop("count", tasks[-1] + 1)
        self.say(Run(number, job, tasks, more.pop("attempt", 1), kind, count, text, **more))
        return number

    def sh(self, script: str, tasks: Runs | None = None, **more: Any) -> int:
        """Order a shell script."""
        text: dict[str, Any] = {
            name: more.pop(name) for name in ("env", "cwd", "inputs", "results", "each") if name in more
        }
        return self.run(tasks or [0, 0], TaskText(command=["sh", "-c", script], **text), **more)

    def _reported(self, subject: str, reply: str, data: bytes) -> None:
        if self._refused(subject, reply):
            return
        signed = signing.split(data)
        assert signed is not None, "a report is signed"
        report = protocol.report_of(signed.body)
        text = signing.spoken_text("report", POOL, self.worker, signed.digest)
        assert any(verify(key, text, signed.signature) for key in self.keys()), "by the worker"
        if not self.take_reports:
            return
        if (report.session, report.sequence) not in self._seen:
            self._seen.add((report.session, report.sequence))
            self.reports.append(report)
            self._changed.set()
        if self.silent_reports:
            self.silent_reports -= 1
            return
        self._say("report", reply, report, Recorded(f"1.{len(self.reports)}"))

    def _output(self, subject: str, reply: str, data: bytes) -> None:
        if self._refused(subject, reply):
            return
        if not self.take_output:
            return
        output: Output = protocol.output_of(data)
        safe: list[int] = []
        for piece in output.pieces:
            if piece.lease in self.unwanted:
                safe.append(-1)
                continue
            have = self.outputs.setdefault((piece.lease, piece.index), bytearray())
            if piece.offset <= len(have):
                have += piece.data[len(have) - piece.offset :]
            safe.append(len(have))
        self._say("output", reply, output, Stored(safe))
        self._changed.set()

    def _beat(self, subject: str, reply: str, data: bytes) -> None:
        self.beats.append(protocol.heartbeat_of(data))
        self._changed.set()

    # What was said

    def ends(self, lease: int) -> dict[int, Ended]:
        """How each task of a lease ended."""
        found: dict[int, Ended] = {}
        sessions: dict[int, set[str]] = {}
        for report in self.reports:
            for item in report.items:
                if isinstance(item, Ended) and item.lease == lease:
                    for at, index in enumerate(expand(item.tasks)):
                        if index in found:
                            # A report that an agent could not forget any more, told again by the next one.
                            assert report.session not in sessions[index], f"task {index} of lease {lease} ended twice"
                            assert (found[index].end, found[index].code) == (item.end, item.code)
                            continue
                        sessions.setdefault(index, set()).add(report.session)
                        details = item.details[at : at + 1]
                        found[index] = Ended(
                            lease, item.job, [index, index], item.end, item.code, self._words(item), details
                        )
        return found

    def _words(self, ended: Ended) -> str:
        """Its reason with the user's own words in it."""
        texts = [order.text for order in self.orders if isinstance(order, Run) and order.number == ended.lease]
        return unmask(ended.reason, texts[0]) if texts else ended.reason

    def started(self, lease: int) -> set[int]:
        """Which tasks of a lease were reported as started."""
        return {
            index
            for report in self.reports
            for item in report.items
            if isinstance(item, Started) and item.lease == lease
            for index in expand(item.tasks)
        }

    async def until(self, fact: Callable[[], Any], what: str) -> None:
        """Return once `fact()` holds; it is looked at whenever the agent said something."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not fact():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"never happened: {what}") from None

    async def ended(self, lease: int, index: int = 0) -> Ended:
        """How a task ended, once it has."""
        await self.until(lambda: index in self.ends(lease), f"task {index} of lease {lease} ends")
        return self.ends(lease)[index]

    def text(self, lease: int, index: int = 0, stream: int = 0) -> bytes:
        """What a task printed: on one stream, or on both (0)."""
        data, at, out = bytes(self.outputs.get((lease, index), b"")), 0, b""
        while at < len(data):
            number, length = data[at], int.from_bytes(data[at + 1 : at + 5], "big")
            if stream in (0, number):
                out += data[at + 13 : at + 13 + length]
            at += 13 + length
        return out


class Rig:
    """One worker, its pool, and the agents that are started for it."""

    def __init__(self, server: NatsServer, pool: Pool, shelf: Shelf, root: Path, who: identity.Identity) -> None:
        self.server, self.pool, self.shelf, self.root, self.who = server, pool, shelf, root, who
        self.agent: Agent
        self.running: list[asyncio.Task[int]] = []

    def options(self, **more: Any) -> AgentOptions:
        """How its agents are started."""
        base: dict[str, Any] = {
            "state": self.root,
            "worker": self.who.worker,
            "pool": POOL,
            "nats_url": self.server.url,
            "api_url": self.shelf.url,
            "seed": self.who.seed_path,
            "cpus": 2.0,
            "memory_bytes": 4 * 1024**3,
            "engines": "none",
            "version": "test",
        }
        return AgentOptions(**(base | more))

    async def start_without_waiting(self, **more: Any) -> asyncio.Task[int]:
        """Start an agent in this loop."""
        self.agent = Agent(self.options(**more))
        task = asyncio.get_running_loop().create_task(self.agent.run())
        self.running.append(task)
        return task

    async def start(self, **more: Any) -> asyncio.Task[int]:
        """Start an agent in this loop and wait until the pool knows it."""
        task = await self.start_without_waiting(**more)
        ready = asyncio.get_running_loop().create_task(self.agent.ready.wait())
        await asyncio.wait([task, ready], timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        return task

    async def kill(self, task: asyncio.Task[int]) -> None:
        """End an agent without its good-bye."""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def keeper_pid(self) -> int:
        """The process that keeps this worker's tasks."""
        return int((self.root / "keeper.lock").read_text())

    async def close(self) -> None:
        """End all agents, and the keeper."""
        for task in self.running:
            await self.kill(task)
        await asyncio.to_thread(end_keeper, self.root)


async def gone(pid: int) -> None:
    """Return once the process has ended."""
    async with asyncio.timeout(WAIT_S):
        while not tree.is_dead(pid):
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def rigged(root: Path) -> AsyncGenerator[Rig]:
    """A worker with its pool."""
    async with serving(root / "hive") as server, linked(server) as link, Shelf().open() as shelf:
        who = identity.load_or_create(root / "worker")

        async def rekey(worker: str, before: str, public_key: str) -> bool:
            if shelf.mints.pop((worker, before), None) is not None:
                shelf.mints[worker, public_key] = lambda: server.admit(worker, public_key, POOL)
                await server.revoke(before)
            return (worker, public_key) in shelf.mints

        shelf.desk = CredentialDesk(shelf.mint, rekey, CHAIN)
        shelf.mints[who.worker, who.public_key] = lambda: server.admit(who.worker, who.public_key, POOL)
        keys = {who.public_key}
        pool = Pool(link, who.worker, lambda: keys | {key for _, key in shelf.mints})
        await pool.open()
        rig = Rig(server, pool, shelf, root / "worker", who)
        try:
            yield rig
        finally:
            await rig.close()
