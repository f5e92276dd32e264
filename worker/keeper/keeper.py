"""The keeper as a process: it owns the tasks of one worker, reaps them, drains what they print to its spool, and tells the
agent. It needs no network and no key. Agents come and go: while none is there, all goes on as when the link is down.

It tells of each attempt's end until the agent has it on disk, so nothing depends on when an agent died. It goes when
the agent says so, or when none came for ALONE_S.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog

from events.protocol import Run
from worker import leftovers
from worker.emits import LOOK_S, Emits
from worker.executors import cgroups
from worker.executors.base import Executor, Launch, Ran, Rejected
from worker.executors.cgroups import Cgroups
from worker.executors.process import ProcessExecutor
from worker.keeper import wire
from worker.keeper.through import Through
from worker.output import OutputDesk
from worker.proxy import Proxies
from worker.state import Key

if TYPE_CHECKING:
    from worker.executors.container import ContainerExecutor

ALONE_S = 3600.0
"""Without an agent for so long, tasks are ended: the platform has given them up long ago."""
NOTE_S = 0.5
"""How often the running processes are written down, for the case that the keeper is killed."""
MOVED = "this keeper watches over another worker's tasks"

_log = structlog.get_logger()


class Attempt:
    """An attempt that the agent launched, until it says that its end is safe."""

    __slots__ = ("began", "container", "ended", "folder", "index", "order", "settled")

    def __init__(self, order: Run, index: int, folder: str, began: float) -> None:
        self.order, self.index, self.folder, self.began = order, index, folder, began
        self.container = ""
        self.ended: wire.Ended | None = None
        self.settled: wire.Settled | None = None


class Keeper:
    """Hosts the executors and the output of one worker, for one agent at a time."""

    def __init__(self, worker: str, version: str, on_leave: Callable[[], None]) -> None:
        self.worker, self._version, self.leave = worker, version, on_leave
        self.executors: dict[str, Executor] = {}
        self.processes: ProcessExecutor
        self.containers: ContainerExecutor | None = None
        self.desk: OutputDesk
        self.attempts: dict[Key, Attempt] = {}
        self._launching: dict[Key, asyncio.Task[None]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._finding = asyncio.Lock()
        self._agent: Agent | None = None
        self._words: list[wire.Word] = []
        self._delivery: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._alone_since = self._loop.time()
        self.through = Through(self.tell)

    def compose(self, folder: Path, spool_bytes_max: int, groups: Cgroups | None) -> None:
        """Make the executors and the desk for output."""
        self._folder = folder
        self.desk = OutputDesk(folder / "spool" / "output", self._on_settled, self.flush, spool_bytes_max)
        self._emits = Emits(self.desk.write, self.desk.progress)
        self._proxies = Proxies()
        self.processes = ProcessExecutor(
            self.worker, self.desk.write, self._on_ended, self.flush, owns_children=True, cgroups=groups,
            proxies=self._proxies,
        )  # fmt: skip
        self.executors |= dict.fromkeys(("process", "shell", "python"), self.processes)

    async def close(self) -> None:
        """End everything."""
        self._detach()
        if self._looking is not None:
            self._looking.cancel()
        for task in list(self._launching.values()):
            task.cancel()
        await asyncio.gather(*self._launching.values(), return_exceptions=True)
        for executor in {*self.executors.values()}:
            await executor.close()
        self.desk.close()

    @property
    def alone_s(self) -> float:
        """For how long no agent was here."""
        return 0.0 if self._agent is not None else self._loop.time() - self._alone_since

    # The agent

    def hear(self, agent: "Agent", orders: list[wire.Order]) -> None:
        """Do what an agent says. One that was replaced is not heard."""
        for order in orders:
            if isinstance(order, wire.Attach):
                self._attach(agent, order)
            elif agent is self._agent or isinstance(order, wire.Leave):
                _HANDLE[type(order)](self, order)
        self.flush()

    def _attach(self, agent: "Agent", attach: wire.Attach) -> None:
        if attach.worker != self.worker or attach.protocol != wire.PROTOCOL:
            agent.send([wire.Refusal(MOVED if attach.worker != self.worker else f"it speaks {wire.PROTOCOL}")])
            return
        self._detach()
        self._agent, self._words = agent, []
        now = self._loop.time()
        kept = [
            wire.Kept(
                one.order,
                one.index,
                one.folder,
                round((now - one.began) * 1000),
                one.ended,
                one.settled,
                one.container,
            )
            for key, one in self.attempts.items()
            if key not in self._launching
        ]
        self.tell(wire.Welcome(wire.PROTOCOL, self._version, os.getpid(), kept))
        abandoned, self._launching = self._launching, {}  # whoever asked for these has gone
        for task in abandoned.values():
            task.cancel()
        self._delivery = self._loop.create_task(
            self.desk.run(self.through, attach.subject, attach.session, self.through)
        )

    def gone(self, agent: "Agent") -> None:
        """An agent hung up."""
        if agent is self._agent:
            self._detach()

    def _detach(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent, self._alone_since = None, self._loop.time()
        if self._delivery is not None:
            self._delivery.cancel()
            self._delivery = None
        self.through.reset()

    def tell(self, word: wire.Word) -> None:
        """Tell the agent, with what else there is in this round."""
        if self._agent is None:
            return
        if not self._words:
            self._loop.call_soon(self.flush)
        self._words.append(word)

    def flush(self) -> None:
        """Send what there is to tell."""
        if self._words and self._agent is not None:
            words, self._words = self._words, []
            self._agent.send(words)

    # Tasks

    def launch(self, asked: wire.Launch) -> None:
        order, key = asked.order, (asked.order.number, asked.index)
        self.attempts[key] = Attempt(order, asked.index, asked.folder, self._loop.time())
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)
        launch = Launch(order, asked.index, asked.folder, asked.args, asked.env, asked.box)
        if not asked.number:
            try:
                self.processes.spawn(launch)
            except Rejected as error:
                self._on_ended(Ran(order, asked.index, "rejected", 0, str(error)))
            return
        self._launching[key] = self._loop.create_task(self._launch(launch, asked.number))

    def _look(self) -> None:
        """Pass on what the tasks that run emit."""
        running = [(one.order, one.index, one.folder) for one in self.attempts.values() if one.ended is None]
        self._emits.look_at_all(running, self._loop.time())
        self._looking = self._loop.call_later(LOOK_S, self._look) if running else None

    async def _launch(self, launch: Launch, number: int) -> None:
        key = (launch.order.number, launch.index)
        try:
            executor = await self.executor(launch.order.kind)
            await executor.launch(launch)
        except Rejected as error:
            answer: wire.Word = wire.Refused(number, str(error))
        except asyncio.CancelledError:
            answer = wire.Refused(number, "cancelled")
        else:
            container = self.container_of(key)
            if key in self.attempts:
                self.attempts[key].container = container
            answer = wire.Began(number, container)
        if isinstance(answer, wire.Refused):
            self.attempts.pop(key, None)
            if self.desk.has(key):  # it has told how far it came
                self.desk.drop(key)
                self.desk.end(key)
        if self._launching.pop(key, None) is not None:  # it is not abandoned
            self.tell(answer)

    def container_of(self, key: Key) -> str:
        """The id of the container that an attempt runs in; "": in none."""
        found = self.containers.running.get(key) if self.containers is not None else None
        return found.id if found is not None else ""

    async def executor(self, kind: str) -> Executor:
        """Who runs such tasks. Raises Rejected."""
        found = self.executors.get(kind)
        if found is None and kind == "container":
            async with self._finding:
                found = self.executors.get(kind) or await self._containers()
        if found is None:
            raise Rejected(f"this machine runs no tasks of kind {kind!r}")
        return found

    async def _containers(self) -> Executor:
        """Only now: a machine without an engine need not load what talks to one."""
        from infra.engine import Engine  # noqa: PLC0415 - see above
        from worker.executors.container import ContainerExecutor  # noqa: PLC0415 - see above

        engine = await Engine.find()
        if engine is None:
            raise Rejected("no container engine answers on this machine")
        made = self.executors["container"] = self.containers = await ContainerExecutor.open(
            engine, self._folder / "private-images", self.worker, self.desk.write, self._on_ended, self.flush
        )
        made.proxies = self._proxies
        return made

    def kill(self, asked: wire.Kill) -> None:
        key = (asked.lease, asked.index)
        if key in self._launching:
            self._launching[key].cancel()
            return
        for executor in {*self.executors.values()}:
            if key in executor.running:
                executor.kill(key, asked.end, asked.reason, asked.grace_ms / 1000)

    def fail(self, asked: wire.Fail) -> None:
        key = (asked.order.number, asked.index)
        self.attempts[key] = Attempt(asked.order, asked.index, asked.folder, self._loop.time())
        self._on_ended(Ran(asked.order, asked.index, "exit", asked.code, asked.reason))

    def drop(self, asked: wire.Drop) -> None:
        key = (asked.lease, asked.index)
        self.desk.drop(key)
        if key not in self.attempts and self.desk.has(key):
            self.desk.end(key)  # it was never launched

    def forget(self, asked: wire.Forget) -> None:
        for lease, index in asked.attempts:
            self.attempts.pop((lease, index), None)

    def _on_ended(self, ran: Ran) -> None:
        attempt = self.attempts.get(ran.key)
        if attempt is not None:
            self._emits.look(ran.order, ran.key[1], attempt.folder, self._loop.time(), last=True)
        has = self.desk.has(ran.key)
        ended = wire.Ended(
            *ran.key,
            ran.end,
            ran.code,
            ran.reason,
            ran.started_at,
            ran.wall_ms,
            ran.cpu_ms,
            ran.memory_peak,
            has,
            ran.memory_avg,
        )
        if attempt is not None:
            attempt.ended = ended
        self.tell(ended)
        if has:
            self.desk.end(ran.key)

    def _on_settled(self, key: Key, digest: str, size: int, lost: str) -> None:
        settled = wire.Settled(*key, digest, size, lost)
        attempt = self.attempts.get(key)
        if attempt is not None:
            attempt.settled = settled
        self.tell(settled)


_HANDLE: dict[type, Callable[[Keeper, Any], None]] = {
    wire.Launch: Keeper.launch,
    wire.Kill: Keeper.kill,
    wire.Write: lambda keeper, order: keeper.desk.write(order.order, order.index, order.stream, order.data),
    wire.Fail: Keeper.fail,
    wire.Drop: Keeper.drop,
    wire.Forget: Keeper.forget,
    wire.Answer: lambda keeper, order: keeper.through.answered(order),
    wire.Leave: lambda keeper, order: keeper.leave(),
}


class Agent(asyncio.Protocol):
    """One connection of an agent."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper, self._frames = keeper, wire.Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._keeper.hear(self, wire.orders_of(frame))
        except (wire.BadFrame, msgspec.DecodeError) as error:
            _log.error("keeper.malformed", why=str(error))
            self.close()
            self._keeper.gone(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._keeper.gone(self)

    def send(self, words: list[wire.Word]) -> None:
        if self._transport is not None:
            self._transport.write(wire.frame(words))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


def lock(folder: Path) -> int | None:
    """Own the keeper's place in `folder`; None when another does. Held until the descriptor is closed."""
    fd = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())  # for people
    return fd


async def serve(folder: Path, listening: socket.socket, worker: str, version: str, spool_bytes_max: int) -> None:
    """Keep the tasks of the worker with the state in `folder`, until told to leave."""
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()
    keeper = Keeper(worker, version, leave.set)
    groups, _ = cgroups.find(worker)
    keeper.compose(folder, spool_bytes_max, groups)
    server = await loop.create_unix_server(lambda: Agent(keeper), sock=listening)
    noted: frozenset[int] = frozenset()
    try:
        while not leave.is_set() and keeper.alone_s < ALONE_S:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leave.wait(), NOTE_S)
            pids = frozenset(process.pid for process in keeper.processes.running.values() if process.watched)
            if pids != noted:
                noted = pids
                leftovers.note(folder / "spool", pids)
    finally:
        server.close()
        await keeper.close()
        leftovers.note(folder / "spool", ())
