"""Runs tasks as containers of this machine's engine, shut in as `container_config` says. Removed when they end."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from events.limits import REGISTRY_VARIABLE
from events.protocol import Run
from events.task import AttemptEnd
from infra.engine import NOT_FOUND, About, Attached, Ended, Engine, EngineError
from worker.executors.base import GRACE_S, STDERR, Box, Launch, Ran, Rejected, over_limit
from worker.executors.container_config import HOME, LABEL, config_of, name_of
from worker.executors.images import Images
from worker.executors.mean import Mean
from worker.proxy import NoWay, Proxies
from worker.state import Key

LOOK_S = 1.0
TRIES_MAX = 10
TRY_S = 1.0
ENGINE_AWAY_S = 120.0
"""How long an engine that went away is waited for; with it come back, its containers go on."""

_log = structlog.get_logger()


class _Container:
    """A running container, and the network that is its own ("": none)."""

    __slots__ = (
        "began", "cpu_ms", "end", "id", "memory", "network", "order", "peak", "reason", "started_at", "timers"
    )  # fmt: skip

    def __init__(self, order: Run) -> None:
        self.order = order
        self.id = self.network = ""
        self.began = time.monotonic()
        self.memory = Mean(self.began)
        self.started_at = time.time_ns() // 1_000_000
        self.end: AttemptEnd | None = None
        self.reason = ""
        self.peak = self.cpu_ms = 0
        self.timers: list[asyncio.TimerHandle] = []


class ContainerExecutor:
    """Starts, watches and ends containers; callbacks as in `ProcessExecutor`. `images`: a file that remembers which of them
    are not for everybody.
    """

    def __init__(
        self,
        engine: Engine,
        about: About,
        images: Path,
        worker: str,
        on_output: Callable[[Run, int, int, bytes], None],
        on_ended: Callable[[Ran], None],
        on_batch: Callable[[], None],
    ) -> None:
        self._engine, self._about, self._worker = engine, about, worker
        self._images = Images(engine, images)
        self.proxies: Proxies | None = None
        self._on_output, self._on_ended, self._on_batch = on_output, on_ended, on_batch
        self.running: dict[Key, _Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        engine: Engine,
        images: Path,
        worker: str,
        on_output: Callable[[Run, int, int, bytes], None],
        on_ended: Callable[[Ran], None],
        on_batch: Callable[[], None],
    ) -> "ContainerExecutor":
        """An executor on this engine, of which nothing of an earlier agent runs any more, as far as it can be told."""
        about = About()
        try:
            about = await engine.about()
            opened = cls(engine, about, images, worker, on_output, on_ended, on_batch)
            await opened.clear()
        except EngineError as error:
            _log.warning("worker.engine", why=error.detail)
            return cls(engine, about, images, worker, on_output, on_ended, on_batch)
        return opened

    @property
    def ids(self) -> list[str]:
        """Of the containers that run."""
        return [found.id for found in self.running.values()]

    async def clear(self) -> None:
        """Remove what an earlier agent of this worker left."""
        label = f"{LABEL}={self._worker}"
        for container in await self._engine.labelled(label):
            await self._engine.remove(container)
            _log.warning("worker.container_left", container=container[:12])
        for network in await self._engine.networks(label):
            await self._engine.remove_network(network)

    async def close(self) -> None:
        """Remove what runs; nothing is reported."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(EngineError):
            for found in self.running.values():
                await self._discard(found)
        await self._engine.close()

    # Starting

    async def launch(self, launch: Launch) -> None:
        """Start a task's container, fetching its image when it is not here. Raises Rejected."""
        order, key, text = launch.order, (launch.order.number, launch.index), launch.order.text
        login = launch.env.pop(REGISTRY_VARIABLE, "")
        await self._images.ready(text.image, text.pull, login, lambda line: self._tell(launch, line))
        found = _Container(order)
        try:
            await self._make(found, launch, launch.box or Box(HOME, network="none"))
            attached = await self._engine.attach(found.id)
            await self._engine.start(found.id)
        except EngineError as error:
            await self._remove(found)
            raise Rejected(f"the container could not be started: {error.detail}") from None
        except asyncio.CancelledError:
            await self._remove(found)
            raise
        if launch.box is not None and launch.box.network == "hosts":
            await self._open_way(found, key, text.hosts, launch.box.named)
        found.began = time.monotonic()
        found.memory = Mean(found.began)
        found.started_at = time.time_ns() // 1_000_000
        self.running[key] = found
        if order.time_limit_ms:
            found.timers.append(self._loop.call_later(order.time_limit_ms / 1000, self._time_up, key))
        self._run(self._watch(key, found, attached))

    async def _open_way(self, found: _Container, key: Key, hosts: list[str], named: list[str]) -> None:
        """Let it reach these hosts. Raises Rejected."""
        try:
            if self.proxies is None:
                raise NoWay("this machine cannot hold tasks to the hosts that they name")
            if pid := await self._engine.pid(found.id):  # else it has ended already
                await self.proxies.open(key, pid, hosts, named)
        except (NoWay, EngineError) as error:
            await self._remove(found)
            raise Rejected(f"the container could not be started: {error}") from None
        except asyncio.CancelledError:
            await self._remove(found)
            raise

    def _tell(self, launch: Launch, line: str) -> None:
        self._on_output(launch.order, launch.index, STDERR, f"hive: {line}\n".encode())

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make(self, found: _Container, launch: Launch, box: Box) -> None:
        name, network = name_of(self._worker, launch), "none"
        if box.network == "full":
            network = name
            found.network = await self._engine.add_network(name, {LABEL: self._worker})
        config = config_of(launch, box, self._worker, self._about, self._user(box), network)
        found.id = await self._engine.create(name, config)

    def _user(self, box: Box) -> str:
        if self._about.rootless:
            return "0:0"  # that is us, and nobody else
        return f"{box.uid}:{box.uid}" if box.uid >= 0 else f"{os.getuid()}:{os.getgid()}"

    # Watching

    async def _watch(self, key: Key, found: _Container, attached: Attached) -> None:
        looking = self._loop.create_task(self._look(found))
        ran = Ran(found.order, key[1], "lost", 0, "the container engine stopped answering")
        try:
            ended = await self._follow(key, found, attached)
            ran = Ran(found.order, key[1], found.end or "exit", ended.code, found.reason or ended.error)
            if ended.oom and ended.code and found.end is None:
                # The flag alone is not enough: it is also set when only a child was killed and the task went on.
                ran.end, ran.reason = "oom", over_limit(found.order.memory_bytes)
        except EngineError as error:
            ran.reason = error.detail
        finally:
            looking.cancel()
            for timer in found.timers:
                timer.cancel()
        await self._remove(found)
        self.running.pop(key, None)
        if self.proxies is not None:
            self.proxies.close(key)
        now = time.monotonic()
        ran.started_at, ran.wall_ms = found.started_at, round((now - found.began) * 1000)
        ran.cpu_ms, ran.memory_peak, ran.memory_avg = found.cpu_ms, found.peak, found.memory.over(now)
        self._on_ended(ran)
        self._on_batch()

    async def _follow(self, key: Key, found: _Container, attached: Attached) -> Ended:
        """Pass on what it prints until it has ended, also over an engine that goes and comes back. Raises EngineError."""
        while True:
            try:
                async for stream, data in attached.read():
                    self._on_output(found.order, key[1], stream, data)
                await attached.close()  # or the engine would hold up a container whose output nobody reads
                return await self._engine.wait(found.id)
            except EngineError as error:
                _log.warning("worker.engine_away", container=found.id[:12], why=error.detail)
            finally:
                await attached.close()
            attached = await self._attach_again(key, found)

    async def _attach_again(self, key: Key, found: _Container) -> Attached:
        """Listen to it again once the engine is back. Raises EngineError: it did not come back, or without the container."""
        until = self._loop.time() + ENGINE_AWAY_S
        while True:
            await asyncio.sleep(TRY_S)
            try:
                if not await self._engine.pid(found.id):
                    raise EngineError(NOT_FOUND, "the container engine went away and ended what it ran")
                attached = await self._engine.attach(found.id)
            except EngineError as error:
                if error.status or self._loop.time() > until:
                    raise
            else:
                gap = b"hive: the container engine was away; what was printed meanwhile may be missing\n"
                self._on_output(found.order, key[1], STDERR, gap)
                return attached

    async def _look(self, found: _Container) -> None:
        """Measure it, now and then: an engine tells nothing of a container that has ended."""
        while True:
            with contextlib.suppress(EngineError):
                used = await self._engine.used(found.id)
                found.cpu_ms = max(found.cpu_ms, used.cpu_ms)
                found.peak = max(found.peak, used.memory)
                found.memory.saw(used.memory, time.monotonic())
            await asyncio.sleep(LOOK_S)

    async def _remove(self, found: _Container) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self._discard(found)
            except EngineError as error:
                _log.warning("worker.container_not_removed", container=found.id[:12], why=error.detail)
                await asyncio.sleep(TRY_S)
            else:
                return

    async def _discard(self, found: _Container) -> None:
        if found.id:
            await self._engine.remove(found.id)
        if found.network:
            await self._engine.remove_network(found.network)

    def _time_up(self, key: Key) -> None:
        found = self.running.get(key)
        if found is not None and found.end is None:
            self.kill(
                key,
                "timeout",
                f"ran longer than its time limit of {found.order.time_limit_ms / 1000:g} s",
                found.order.text.grace,
            )

    # Ending

    def kill(self, key: Key, end: AttemptEnd, reason: str, grace_s: float = GRACE_S) -> None:
        """End a task's container: the job's stop signal, and SIGKILL after `grace_s` (0: at once)."""
        found = self.running.get(key)
        if found is None:
            return
        if found.end is None:
            found.end, found.reason = end, reason
        if grace_s:
            self._run(self._signal(found, f"SIG{found.order.text.stop_signal}"))
            found.timers.append(self._loop.call_later(grace_s, self._kill_now, found))
        else:
            self._kill_now(found)

    def _kill_now(self, found: _Container) -> None:
        self._run(self._signal(found, "SIGKILL"))

    async def _signal(self, found: _Container, name: str) -> None:
        try:
            await self._engine.signal(found.id, name)
        except EngineError as error:
            _log.warning("worker.container_not_signalled", container=found.id[:12], why=error.detail)
