"""A task's secret from end to end, while Postgres, which holds it, is away when the task is to start."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_cli_hive import LIMIT_S, ROOT, Hive

VALUE = "swordfish-4711-tango"


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[Hive]:
    one = Hive(tmp_path / "hive")
    one.start()
    yield one
    assert one.stop() == 0, one.said.read_text()


@contextlib.contextmanager
def postgres_stands_still(hive: Hive) -> Iterator[None]:
    """As if its machine were gone: nothing is refused, and nothing answered."""
    (pid_file,) = hive.folder.rglob("postmaster.pid")
    server = psutil.Process(int(pid_file.read_text().split()[0]))
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def test_a_task_waits_for_its_secret_and_gets_it(hive: Hive) -> None:
    code, _, err = hive.ctl("secret", "set", "TOKEN", input=f"{VALUE}\n".encode())
    assert code == 0, err
    with postgres_stands_still(hive):
        words = ("submit", "--wait", "--secret", "TOKEN", "--", "sh", "-c", 'printf "$TOKEN"')
        whole = [sys.executable, "-m", "services.cli.main", *words]
        waiting = subprocess.Popen(whole, env=hive.environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def leased() -> bool:
            jobs = json.loads(hive.ok("jobs", "--json"))
            return any(job["leased"] == 1 for job in jobs)

        hive.until("a worker has the task", leased)
        # Nothing without the value: it neither started nor failed, and other work goes on.
        assert hive.ok("submit", "--wait", "--", "echo", "meanwhile") == "meanwhile\n"
        assert leased()
    out, err = waiting.communicate(timeout=LIMIT_S)
    assert (waiting.returncode, out.decode()) == (0, VALUE), err
    files = [path for path in (hive.folder / "nats").rglob("*") if path.is_file()]
    assert files
    assert not any(VALUE.encode() in path.read_bytes() for path in files), "the log does not know it"
