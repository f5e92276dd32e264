"""The embedded nats-server: a child process that outlives its parent's death and is found again.

Everything it has lies under `nats/` in the data folder. The server writes its own pid file, so a hive that was killed
leaves an orphan that the next `start()` recognises by its command line (it names our configuration) and adopts. The
port is chosen once and kept: workers know it.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from infra import nkey
from infra.folder import Folder, write_atomic
from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from infra.nats_config import ServerConfig, WorkerUser, check_worker, render, reserve

START_S = 60.0
"""A server with a long log reads it before it listens."""
STOP_S = 10.0
POLL_S = 0.01
KEEP_S = 0.1
RELOAD_S = 10.0
CONNECT_S = 2.0
PORT_TRIES = 5
PORT_TRIES_MAX = 100
PORTS = range(20_000, 32_000)
RETRY_S = 1.0
OUTPUT_BYTES_MAX = 64 * 1024

_log: Any = structlog.get_logger()
_workers_of = msgspec.json.Decoder(dict[str, WorkerUser]).decode
_encode = msgspec.json.Encoder().encode
_object_of = msgspec.json.Decoder(dict[str, Any]).decode


class NatsServerError(Exception):
    """The embedded nats-server cannot run; the text says why and what to do."""


def program() -> Path:
    """The nats-server that was installed beside this Python. Raises NatsServerError."""
    path = Path(sys.executable).parent / "nats-server"
    if not path.is_file():
        raise NatsServerError(f"no nats-server at {path}; install Hive's dependencies (`make setup`)")
    return path


class NatsServer:
    """The nats-server of a data folder. The caller has claimed the folder."""

    def __init__(
        self, folder: Folder, port: int = 0, host: str = "127.0.0.1", pool: str = "default", sync_always: bool = True
    ) -> None:
        self._home = folder.path("nats")
        self._folder = folder
        self._wanted_port = port
        self._host = host
        self._pool = pool
        self._sync_always = sync_always
        self._child: subprocess.Popen[bytes] | None = None
        self._adopted: psutil.Process | None = None
        self._changing = asyncio.Lock()
        self._stopping = False
        self.port = 0
        self.platform_seed = ""
        self.sys_seed = ""

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"nats://{'127.0.0.1' if self._host == '0.0.0.0' else self._host}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 when none was started or adopted."""
        return self._child.pid if self._child else self._adopted.pid if self._adopted else 0

    def workers(self) -> dict[str, WorkerUser]:
        """The workers that may connect, by id."""
        try:
            return _workers_of((self._home / "workers.json").read_bytes())
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            file = self._home / "workers.json"
            raise NatsServerError(f"{file} is damaged ({error}); restore it, or delete it and enrol again") from None

    # Start and stop

    async def start(self) -> None:
        """Adopt our orphan if it lives, else start a server; it answers when this returns. Raises NatsServerError."""
        self._stopping = False
        self.platform_seed = self._folder.secret("nats_platform.seed", _new_seed).decode()
        self.sys_seed = self._folder.secret("nats_sys.seed", _new_seed).decode()
        kept = self._kept_port()
        orphan = self._find_orphan()
        if orphan is not None and kept and self._wanted_port in (0, kept):
            self._adopted, self.port = orphan, kept
            if await self._listens(orphan.is_running):
                _log.info("nats.adopted", pid=orphan.pid, port=kept)
                await self._reload()
                return
        if orphan is not None:
            # It has another port or does not answer: our data folder cannot have two servers.
            await _end(orphan)
        self._adopted = None
        await self._launch(self._wanted_port or kept)

    async def _launch(self, port: int) -> None:
        for attempt in range(PORT_TRIES):
            self.port = port or _free_port(self._host)
            if port and not _is_free(self._host, port):
                raise NatsServerError(
                    f"port {port} for nats-server is taken by another program; stop that, or choose another port with "
                    f"`nats_port` in hive.toml (workers on other machines must then be told)"
                )
            self._write_config()
            error = await self._spawn()
            if error is None:
                write_atomic(self._home / "port", str(self.port).encode())
                _log.info("nats.started", pid=self.pid, port=self.port)
                return
            if "address already in use" not in error or port:
                raise NatsServerError(f"nats-server did not start: {error} (its log: {self._home / 'nats.log'})")
            _log.warning("nats.port_lost", port=self.port, attempt=attempt)
        raise NatsServerError("no free port found for nats-server; choose one with `nats_port` in hive.toml")

    async def _spawn(self) -> str | None:
        """Run the program; None once it answers, else what it said before it ended."""
        said = self._home / "nats.err"
        log_start = _size(self._home / "nats.log")
        child = self._child = _launch_program(self._home, said)
        if await self._listens(lambda: child.poll() is None):
            return None
        if child.poll() is None:
            child.kill()
            child.wait()
            return f"it did not answer within {START_S:g} s"
        return (
            _complaint(said, 0) or _complaint(self._home / "nats.log", log_start) or f"it ended with {child.returncode}"
        )

    async def _listens(self, runs: Callable[[], bool]) -> bool:
        """Whether the server answers on its port, before it ends or START_S passed."""
        deadline = asyncio.get_running_loop().time() + START_S
        while asyncio.get_running_loop().time() < deadline:
            if await _greets(self._host, self.port, self._config().server_name):
                return runs()
            if not runs():
                return False
            await asyncio.sleep(POLL_S)
        return False

    def alive(self) -> bool:
        """Whether the server's process runs."""
        if self._child is not None:
            return self._child.poll() is None
        return self._adopted is not None and _runs(self._adopted)

    async def ensure(self) -> bool:
        """Start it again, on the same port, when it is dead; whether that was needed. Raises NatsServerError."""
        async with self._changing:
            if self._stopping or self.alive():
                return False
            _log.warning("nats.died", pid=self.pid, port=self.port)
            self._child = self._adopted = None
            await self._launch(self.port)
            return True

    async def keep(self) -> None:
        """Watch over the server until cancelled: a dead one is back within a fraction of a second."""
        said = ""
        while True:
            pause = KEEP_S
            try:
                await self.ensure()
                said = ""
            except NatsServerError as error:
                # Its port or disk may be free again soon, and everything else waits for it.
                pause = RETRY_S
                if str(error) != said:
                    said = str(error)
                    _log.error("nats.not_back", error=said)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the server: politely, then not."""
        self._stopping = True
        async with self._changing:
            child, adopted = self._child, self._adopted
            self._child = self._adopted = None
            if child is not None:
                await _end_child(child)
            elif adopted is not None:
                await _end(adopted)

    # Workers

    async def add_worker(self, worker_id: str, public_key: str, pool: str = "") -> None:
        """Let this worker connect, from when this returns. Raises ValueError or NatsServerError."""
        user = WorkerUser(public_key, pool or self._pool)
        check_worker(worker_id, user)
        async with self._changing:
            users = self.workers()
            reserve(users, worker_id, user)
            if users.get(worker_id) == user:
                return
            await self._change(users | {worker_id: user})

    async def remove_worker(self, worker_id: str) -> bool:
        """Shut this worker out and disconnect it, by when this returns; whether it was known."""
        async with self._changing:
            users = self.workers()
            if users.pop(worker_id, None) is None:
                return False
            await self._change(users)
            return True

    async def _change(self, users: dict[str, WorkerUser]) -> None:
        write_atomic(self._home / "workers.json", _encode(users))
        await self._reload()

    async def _reload(self) -> None:
        """Have the running server take the configuration; one that is dead takes it when it starts."""
        self._write_config()
        if not self.alive():
            return
        try:
            link = await Link.open(self.url, self.sys_seed, "hive nats reload", wait_s=RELOAD_S)
            try:
                # SIGHUP does the same and tells nobody when it is done, or that it failed.
                subject = f"$SYS.REQ.SERVER.{link.server_id}.RELOAD"
                answer = _object_of((await link.request(subject, b"", RELOAD_S)).data)
            finally:
                await link.close()
        except (LinkDown, LinkTimeout, NoResponders) as error:
            if not self.alive():
                return
            raise NatsServerError(f"nats-server did not take its new configuration: {error}") from error
        if problem := answer.get("error"):
            raise NatsServerError(f"nats-server refused its new configuration: {problem.get('description', problem)}")

    def _config(self) -> ServerConfig:
        return ServerConfig(
            home=self._home,
            host=self._host,
            port=self.port,
            platform_key=nkey.public_of(self.platform_seed),
            sys_key=nkey.public_of(self.sys_seed),
            sync_always=self._sync_always,
        )

    def _write_config(self) -> None:
        write_atomic(self._home / "nats.conf", render(self._config(), self.workers()).encode())

    # What an earlier hive left

    def _kept_port(self) -> int:
        try:
            return int((self._home / "port").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _find_orphan(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int((self._home / "nats.pid").read_text()))
            ours = str(self._home / "nats.conf") in process.cmdline()
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours and _runs(process) else None


def _new_seed() -> bytes:
    return nkey.new_user_seed().encode()


def _launch_program(home: Path, said: Path) -> "subprocess.Popen[bytes]":
    with open(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        # Its own session: a Ctrl-C in our terminal is ours to handle.
        return subprocess.Popen(
            [program(), "-c", home / "nats.conf"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=home,
            umask=0o077,
        )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def _end(process: psutil.Process) -> None:
    await _signal_until(lambda: not _runs(process), process.send_signal)


async def _end_child(child: "subprocess.Popen[bytes]") -> None:
    await _signal_until(lambda: child.poll() is not None, child.send_signal)


async def _signal_until(ended: Callable[[], bool], send: Callable[[int], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            send(number)
        except (ProcessLookupError, psutil.Error):
            return
        deadline = asyncio.get_running_loop().time() + STOP_S
        while asyncio.get_running_loop().time() < deadline:
            if ended():
                return
            await asyncio.sleep(POLL_S)
    raise NatsServerError("nats-server did not end, not even by SIGKILL; its disk may hang")


async def _greets(host: str, port: int, name: str) -> bool:
    """Whether the NATS server of this name says hello there; another one may have been faster on a free port."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return f'"server_name":"{name}"'.encode() in await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return False


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _free_port(host: str) -> int:
    # Below the range from which systems take ports for outgoing connections: one of those could hold ours just when
    # a killed server wants it back.
    for port in random.sample(PORTS, PORT_TRIES_MAX):
        if _is_free(host, port):
            return port
    raise NatsServerError("no free port found for nats-server; choose one with `nats_port` in hive.toml")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _complaint(path: Path, start: int) -> str:
    """What the server said was wrong, from byte `start` of its output on; else the last thing it said."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            lines = file.read(OUTPUT_BYTES_MAX).decode(errors="replace").splitlines()
    except OSError:
        return ""
    wrong = [line.partition("] ")[2] for line in lines for tag in ("[FTL]", "[ERR]") if tag in line]
    return "; ".join(text.partition("] ")[2] or text for text in wrong) or "".join(lines[-1:])
