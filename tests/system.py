"""A whole hive as processes, for tests and benchmarks: control planes, workers, the servers they start. Real SIGKILLs."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path

import psutil

from events import catalog
from events.catalog import Message
from events.log import Entry
from infra.connect import open_platform
from infra.folder import Folder
from infra.nats_log import JetStreamLog
from infra.settings import load
from web.client import AsyncHive
from web.client.address import trust_at

START_S = 60.0
STOP_S = 20.0
LOOK_S = 0.02
ROOT = Path(__file__).parent.parent
PLAIN = {"HIVE_ECONOMY": "off", "HIVE_ISOLATION": "none"}
"""The hives of tests and benchmarks whose matter is neither money nor isolation: nothing costs anything there, and tasks are
processes of this machine, which see its files. Those whose matter it is ask for it.
"""


class SystemFailed(Exception):
    """A part did not do what it must; the text has the end of its log."""


class System:
    """One data folder and the processes started over it. Every process writes to `log`."""

    def __init__(self, data: Path) -> None:
        self.folder = Folder(data)
        self.log = self.folder.directory() / "processes.log"
        self.planes: list[subprocess.Popen[bytes]] = []
        self.agents: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, *arguments: str, environ: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """`hivectl` with these arguments, in the background."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("HIVE_")}
        env |= {"HIVE_DATA": str(self.folder.root), "NO_COLOR": "1", **PLAIN, **(environ or {})}
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=ROOT,
                start_new_session=True,
            )

    async def plane(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a control plane over the folder; its API answers when this returns."""
        process = self.spawn("serve", "--port", str(self.port()), *arguments)
        self.planes.append(process)

        async def up() -> bool:
            running = self.folder.running()
            if process.poll() is not None:
                raise SystemFailed(f"the control plane ended with {process.returncode}:\n{self.tail()}")
            return running is not None and running.pid == process.pid and bool(running.url)

        await self.until(up, "the control plane answers")
        self.folder.path("api-port").write_text(self.url().rpartition(":")[2])
        return process

    def port(self) -> int:
        """The API's port: free at first, the same after a restart, as workers and clients expect."""
        kept = self.folder.path("api-port")
        return int(kept.read_text()) if kept.exists() else 0

    def url(self) -> str:
        """Where the API answers."""
        running = self.folder.running()
        if running is None:
            raise SystemFailed(f"no control plane runs:\n{self.tail()}")
        return running.url

    def agent(self, name: str, cpus: int = 2, *more: str) -> "subprocess.Popen[bytes]":
        """Start (again) the worker `name`, with `more` options."""
        state = str(self.folder.path("agents", name))
        environ = {"HIVE_URL": self.url()} if self.folder.running() else {}
        words = ("--name", name, "--state", state, "--cpus", str(cpus), "--isolation", "none", *more)
        process = self.spawn("worker", "run", *words, environ=environ)
        self.agents[name] = process
        return process

    def nats_pid(self) -> int:
        """The process of the embedded nats-server."""
        return int(self.folder.path("nats", "nats.pid").read_text())

    def client(self) -> AsyncHive:
        """A client of its API."""
        url, trust = trust_at(self.url(), self.folder)
        return AsyncHive(url, self.folder.admin_key(), trust=trust)

    async def ready(self, client: AsyncHive, workers: int) -> None:
        """Wait until so many workers are ready."""

        async def joined() -> bool:
            return sum(worker.state == "ready" for worker in await client.workers()) >= workers

        await self.until(joined, f"{workers} workers join")

    async def until(self, true: Callable[[], Awaitable[bool]], what: str, within_s: float = START_S) -> None:
        """Look until `true`. Raises SystemFailed."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not await true():
            if asyncio.get_running_loop().time() > deadline:
                raise SystemFailed(f"not within {within_s:g} s: {what}\n{self.tail()}")
            await asyncio.sleep(LOOK_S)

    def tail(self) -> str:
        """The end of what the processes said."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    async def entries(self, subject: str = "evt.>") -> list[tuple[Entry, Message]]:
        """The whole log as it is now."""
        link = await open_platform(self.folder, load(self.folder.root, {}), "hive test")
        try:
            log = JetStreamLog(link)
            last, found = await log.last(subject), list[tuple[Entry, Message]]()
            reader: AsyncGenerator[list[Entry], None] = log.read(subject, 1)
            async with contextlib.aclosing(reader):
                async for batch in reader:
                    found += ((entry, catalog.decode(entry.data)) for entry in batch if entry.position <= last)
                    if not batch or batch[-1].position >= last:
                        return found
            return found
        finally:
            await link.close()

    async def stop(self) -> None:
        """End everything, and what a killed control plane left running."""
        for process in [*self.agents.values(), *reversed(self.planes)]:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        await asyncio.to_thread(process.wait, STOP_S / 2)
        for process in psutil.process_iter(["cmdline"]):
            if str(self.folder.root) in " ".join(process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.Error):
                    process.kill()


@contextlib.asynccontextmanager
async def system(data: Path, remove: bool = False) -> AsyncGenerator[System]:
    """A System that is stopped at the end, whatever happened."""
    running = System(data)
    try:
        yield running
    finally:
        await running.stop()
        if remove:
            shutil.rmtree(data, ignore_errors=True)
