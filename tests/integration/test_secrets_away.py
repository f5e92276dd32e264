"""A task's secret from end to end, while Postgres, which holds it, is away when the task is to start."""

import contextlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_cli_hive import Hive

VALUE = "swordfish-4711-tango"


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[Hive]:
    one = Hive(tmp_path / "hive")
    one.start()
    yield one
    assert one.stop() == 0, one.said.read_text()


@contextlib.contextmanager
def postgres_stands_still(hive: Hive) -> Generator[None]:
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
        job = hive.ok("submit", "--quiet", "--secret", "TOKEN", "--", "sh", "-c", 'printf "$TOKEN"').strip()

        def now() -> dict[str, object]:
            return json.loads(hive.ok("job", "show", job, "--json"))

        hive.until("a worker has the task", lambda: now()["leased"] == 1)
        # Nothing without the value: it neither started nor failed, and other work goes on.
        other = hive.ok("submit", "--quiet", "--", "true").strip()
        hive.until(
            "other work is done", lambda: json.loads(hive.ok("job", "show", other, "--json"))["state"] == "succeeded"
        )
        assert now()["leased"] == 1
    hive.until("it is done", lambda: now()["state"] == "succeeded")
    assert hive.ok("job", "logs", job) == VALUE
    files = [path for path in (hive.folder / "nats").rglob("*") if path.is_file()]
    assert files
    assert not any(VALUE.encode() in path.read_bytes() for path in files), "the log does not know it"
