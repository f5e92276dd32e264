"""The embedded Postgres: a child process in a session of its own that outlives its parent's death and is found again.

Everything it has lies under `pg/` in the data folder: `cluster/`, `run/` (its socket, 0700, the only way in),
`postgres.log`. A hive that was killed leaves its server running; the next `start()` knows it by its working folder and
its command line and adopts it. fsync stays on; how long a commit waits for the disk is its transaction's choice.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import psutil

from infra.folder import make_private
from infra.postgres_system import (
    DATABASE,
    USER,
    Binaries,
    PostgresError,
    RunAs,
    answers,
    binaries,
    keep_name,
    pid_file,
    run_as,
    send,
    socket_folder,
    sweep,
    works_in,
)
from infra.threads import in_thread

__all__ = ["Postgres", "PostgresError"]

START_S = 120.0
"""A server that died replays its log before it answers."""
STOP_S = 10.0
KILL_S = 5.0
POLL_S = 0.01
INITDB_S = 120.0
LOG_BYTES_MAX = 16 * 1024 * 1024
LOG_TAIL_BYTES = 2000

INITDB_OPTIONS = (
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",  # sorts by code point on every machine, whatever its libc or ICU
    "--auth-local=trust",  # the socket's folder lets nobody else in
    "--auth-host=reject",
    "--data-checksums",
    "--no-instructions",
    f"--username={USER}",
)
OLD_INITDB_OPTIONS = tuple(o for o in INITDB_OPTIONS if not o.startswith(("--locale-provider", "--builtin")))
BUILTIN_LOCALE_SINCE = 17

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "40",
    "shared_buffers": "64MB",
    "fsync": "on",
    "full_page_writes": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "checkpoint_timeout": "10min",
    "huge_pages": "off",
    "jit": "off",
    "max_worker_processes": "2",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "120s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements carry what users typed: a log of ours never shows them.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


class Postgres:
    """The Postgres of the data folder `data`. The caller owns the folder (see infra.folder)."""

    def __init__(self, data: Path, way: RunAs | None = None) -> None:
        self._home = Path(os.path.abspath(data)) / "pg"
        self._cluster = self._home / "cluster"
        self._log = self._home / "postgres.log"
        self._way = way
        self._sockets: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._wanted = False
        self._changing = asyncio.Lock()

    @property
    def dsn(self) -> str:
        """Where clients connect: a Unix socket. Known once started."""
        if self._sockets is None:
            raise PostgresError("Postgres was not started yet")
        return f"postgresql://{USER}@/{DATABASE}?host={urllib.parse.quote(str(self._sockets))}"

    @property
    def pid(self) -> int:
        """The server's process; 0 when there is none."""
        return self._process.pid if self._process and self.alive else 0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        if self._child is not None:
            return self._child.poll() is None
        return self._process is not None and works_in(self._process, self._cluster)

    async def start(self) -> None:
        """Make the cluster if there is none, adopt a live server or start one; returns when it takes sessions.

        Raises PostgresError.
        """
        async with self._changing:
            self._wanted = True
            await self._start()

    async def ensure(self) -> bool:
        """Start the server again if it died since `start`; whether it had to. Raises PostgresError."""
        if self.alive or not self._wanted:
            return False
        async with self._changing:
            if self.alive or not self._wanted:  # somebody else was here meanwhile
                return False
            await self._start()
            return True

    async def stop(self) -> None:
        """End the server, adopted or not: sessions are rolled back, everything committed is on the disk."""
        async with self._changing:
            self._wanted = False
            if self._process is not None:
                await self._end(self._process)
            self._child, self._process = None, None
            if self._sockets and self._sockets.parent != self._home:
                with contextlib.suppress(OSError):  # a folder of the system's; the next start makes it again
                    self._sockets.rmdir()

    async def _start(self) -> None:
        make_private(self._home)
        self._sockets = socket_folder(self._home)
        tools = await in_thread(binaries, self._cluster)
        command = [str(tools.folder / "postgres"), "-D", str(self._cluster), *_options(self._sockets)]
        if await self._adopt(command):
            return
        self._child, self._process = None, None
        await in_thread(sweep, self._cluster, self._sockets)
        way = self._way or await in_thread(run_as, self._cluster)
        if not self._cluster.exists():
            await in_thread(self._init, tools, way)
        began = self._turn_log()
        self._spawn([*way.prefix, *command])
        await self._ready(began)

    def _spawn(self, command: list[str]) -> None:
        with open(self._log, "ab", opener=_private) as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C in our terminal is not for the server
            )
        self._process = psutil.Process(self._child.pid)

    async def _adopt(self, command: list[str]) -> bool:
        """Take over the live server of this cluster; one with other options or of another version is ended instead."""
        found = pid_file(self._cluster)
        if found is None or not psutil.pid_exists(found.pid):
            return False
        try:
            process = psutil.Process(found.pid)
            if not works_in(process, self._cluster):
                return False
            same = process.cmdline() == command
        except psutil.NoSuchProcess:
            return False
        if not same:
            await self._end(process)
            return False
        self._child = self._child if self._child and self._child.pid == found.pid else None
        self._process = process
        try:
            await self._ready(_size(self._log))
        except PostgresError:
            if self.alive:
                raise
            return False  # it was about to end
        return True

    async def _ready(self, log_from: int) -> None:
        """Wait until the server takes sessions."""
        assert self._process is not None
        assert self._sockets is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = pid_file(self._cluster)
            if found and found.pid == self._process.pid and found.ready and await answers(self._sockets):
                return
            if not self.alive:
                raise PostgresError(f"Postgres ended while it started: {self._said(log_from)}")
            await asyncio.sleep(POLL_S)
        raise PostgresError(f"Postgres did not answer within {START_S:.0f} s; see {self._log}")

    async def _end(self, process: psutil.Process) -> None:
        """Ask more and more firmly."""
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGQUIT, KILL_S), (signal.SIGKILL, KILL_S)):
            send(process, number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                if self._child is not None and self._child.pid == process.pid:
                    gone = self._child.poll() is not None
                else:
                    gone = not works_in(process, self._cluster)
                if gone:
                    return
                await asyncio.sleep(POLL_S)
        raise PostgresError(f"the Postgres process {process.pid} cannot be ended; end it by hand")

    def _init(self, tools: Binaries, way: RunAs) -> None:
        """Make the cluster under another name first: one that bears its name is whole."""
        new = self._home / "cluster.new"
        if new.exists():
            shutil.rmtree(new)
        options = INITDB_OPTIONS if tools.major >= BUILTIN_LOCALE_SINCE else OLD_INITDB_OPTIONS
        try:
            made = subprocess.run(
                [*way.prefix, str(tools.folder / "initdb"), "-D", str(new), *options],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                timeout=INITDB_S,
            )
        except subprocess.TimeoutExpired:
            raise PostgresError(
                f"initdb did not end within {INITDB_S:.0f} s; is the disk of {new} very slow?"
            ) from None
        if made.returncode != 0:
            said = (made.stderr.strip() or made.stdout.strip())[-LOG_TAIL_BYTES:]
            raise PostgresError(f"initdb could not make {new}: {said}")
        keep_name(new, self._cluster)

    def _turn_log(self) -> int:
        """Put a long log aside; where in it the next server begins."""
        if _size(self._log) > LOG_BYTES_MAX:
            self._log.replace(self._log.with_suffix(".log.1"))
        return _size(self._log)

    def _said(self, start: int) -> str:
        """The end of what the server said since `start`."""
        with open(self._log, "rb") as log:
            log.seek(max(start, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").split("\n")
        return "; ".join(line for line in lines if line.strip()) or f"it said nothing; see {self._log}"


def _options(sockets: Path) -> list[str]:
    settings = SETTINGS | {"unix_socket_directories": f'"{sockets}"'}
    if sys.platform == "linux":
        settings["recovery_init_sync_method"] = "syncfs"  # after a death: one call instead of one for each file
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _environment() -> dict[str, str]:
    """Ours without what steers Postgres or its language."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
