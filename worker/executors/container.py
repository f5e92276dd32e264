"""Runs tasks as containers: no network, nothing writable but the task's folder at /work and a small /tmp, no
privileges, limits on CPUs, memory and processes. Removed when they end.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import structlog

from events.protocol import Run
from events.task import AttemptEnd
from infra.engine import Attached, Engine, EngineError
from worker import tree
from worker.executors.base import CONTAINER_HOME as HOME
from worker.executors.base import GRACE_S, Launch, Ran, Rejected, over_limit
from worker.executors.mean import Mean
from worker.state import Key

PIDS_MAX = 1024
TMP_OPTIONS = "rw,nosuid,nodev,size=64m"
MEMORY_MIN = 6 * 1024 * 1024
"""Docker refuses less."""
LOOK_S = 1.0
LABEL = "hive.worker"
PULLS_MAX = 2
NOT_FOUND = 404
TRIES_MAX = 10
TRY_S = 1.0

_log = structlog.get_logger()


class _Container:
    """A running container."""

    __slots__ = ("began", "cpu_ms", "end", "id", "memory", "order", "peak", "reason", "started_at", "timers")

    def __init__(self, order: Run, container: str) -> None:
        self.order, self.id = order, container
        self.began = time.monotonic()
        self.memory = Mean(self.began)
        self.started_at = time.time_ns() // 1_000_000
        self.end: AttemptEnd | None = None
        self.reason = ""
        self.peak = self.cpu_ms = 0
        self.timers: list[asyncio.TimerHandle] = []


class ContainerExecutor:
    """Starts, watches and ends containers; callbacks as in `ProcessExecutor`."""

    def __init__(
        self,
        engine: Engine,
        worker: str,
        on_output: Callable[[Run, int, int, bytes], None],
        on_ended: Callable[[Ran], None],
        on_batch: Callable[[], None],
    ) -> None:
        self._engine, self._worker = engine, worker
        self._on_output, self._on_ended, self._on_batch = on_output, on_ended, on_batch
        self.running: dict[Key, _Container] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._loop = asyncio.get_running_loop()

    async def clear(self) -> None:
        """Remove what an earlier agent of this worker left."""
        for container in await self._engine.labelled(f"{LABEL}={self._worker}"):
            await self._engine.remove(container)
            _log.warning("worker.container_left", container=container[:12])

    async def close(self) -> None:
        """Remove what runs; nothing is reported."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(EngineError):
            for found in self.running.values():
                await self._engine.remove(found.id)
        await self._engine.close()

    async def launch(self, launch: Launch) -> None:
        """Start a task's container, fetching its image when it is not here. Raises Rejected."""
        order, key = launch.order, (launch.order.number, launch.index)
        container = ""
        try:
            container = await self._create(launch)
            attached = await self._engine.attach(container)
            await self._engine.start(container)
        except EngineError as error:
            if container:
                await self._remove(container)
            raise Rejected(f"the container could not be started: {error.detail}") from None
        except asyncio.CancelledError:
            if container:
                await self._remove(container)
            raise
        found = self.running[key] = _Container(order, container)
        if order.time_limit_ms:
            found.timers.append(self._loop.call_later(order.time_limit_ms / 1000, self._time_up, key))
        self._run(self._watch(key, found, attached))

    def _run(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _create(self, launch: Launch) -> str:
        image = launch.order.text.image
        name = f"hive-{self._worker}-{launch.order.number}.{launch.index}"
        config = self._config(launch)
        try:
            return await self._engine.create(name, config)
        except EngineError as error:
            if error.status != NOT_FOUND:
                raise
        async with self._pulls:
            try:
                await self._engine.pull(image)
            except EngineError as error:
                raise Rejected(
                    f"the image {image!r} is not on this machine and could not be fetched: {error.detail}"
                ) from None
        return await self._engine.create(name, config)

    def _config(self, launch: Launch) -> dict[str, Any]:
        order, index = launch.order, launch.index
        env = {
            "HOME": HOME,
            "TMPDIR": "/tmp",
            **order.text.env,
            **launch.env,
            "HIVE_JOB": order.job,
            "HIVE_INDEX": str(index),
            "HIVE_COUNT": str(order.count),
            "HIVE_ATTEMPT": str(order.attempt),
            tree.WORKER_MARK: self._worker,
        }
        host: dict[str, Any] = {
            "Binds": [f"{launch.folder}:{HOME}:rw"],
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": TMP_OPTIONS},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": PIDS_MAX,
            "NanoCpus": order.cpus_milli * 1_000_000,
            "LogConfig": {"Type": "none"},
        }
        if order.memory_bytes:
            host["Memory"] = host["MemorySwap"] = max(order.memory_bytes, MEMORY_MIN)
        config: dict[str, Any] = {
            "Image": order.text.image,
            "User": f"{os.getuid()}:{os.getgid()}",
            "WorkingDir": f"{HOME}/{order.text.cwd}" if order.text.cwd else HOME,
            "Env": [f"{name}={value}" for name, value in env.items()],
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "Labels": {LABEL: self._worker, "hive.task": f"{order.number}.{index}"},
            "HostConfig": host,
        }
        if launch.args:
            config["Cmd"] = launch.args
        return config

    # Watching

    async def _watch(self, key: Key, found: _Container, attached: Attached) -> None:
        looking = self._loop.create_task(self._look(found))
        ran = Ran(found.order, key[1], "lost", 0, "the container engine stopped answering")
        try:
            async for stream, data in attached.read():
                self._on_output(found.order, key[1], stream, data)
            await attached.close()  # or the engine would hold up a container whose output nobody reads
            ended = await self._engine.wait(found.id)
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
            await attached.close()
        await self._remove(found.id)
        self.running.pop(key, None)
        now = time.monotonic()
        ran.started_at, ran.wall_ms = found.started_at, round((now - found.began) * 1000)
        ran.cpu_ms, ran.memory_peak, ran.memory_avg = found.cpu_ms, found.peak, found.memory.over(now)
        self._on_ended(ran)
        self._on_batch()

    async def _look(self, found: _Container) -> None:
        """Measure it, now and then: an engine tells nothing of a container that has ended."""
        while True:
            with contextlib.suppress(EngineError):
                used = await self._engine.used(found.id)
                found.cpu_ms = max(found.cpu_ms, used.cpu_ms)
                found.peak = max(found.peak, used.memory)
                found.memory.saw(used.memory, time.monotonic())
            await asyncio.sleep(LOOK_S)

    async def _remove(self, container: str) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self._engine.remove(container)
            except EngineError as error:
                _log.warning("worker.container_not_removed", container=container[:12], why=error.detail)
                await asyncio.sleep(TRY_S)
            else:
                return

    def _time_up(self, key: Key) -> None:
        found = self.running.get(key)
        if found is not None and found.end is None:
            self.kill(key, "timeout", f"ran longer than its time limit of {found.order.time_limit_ms / 1000:g} s")

    # Ending

    def kill(self, key: Key, end: AttemptEnd, reason: str, grace_s: float = GRACE_S) -> None:
        """End a task's container: SIGTERM, and SIGKILL after `grace_s` (0: at once)."""
        found = self.running.get(key)
        if found is None:
            return
        if found.end is None:
            found.end, found.reason = end, reason
        if grace_s:
            self._run(self._signal(found, "SIGTERM"))
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
