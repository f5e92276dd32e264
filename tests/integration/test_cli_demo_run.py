"""The demo as a user runs it: everything real, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.folder import Folder

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240.0


def environ(data: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HIVE_")}
    return kept | {"HIVE_DATA": str(data), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def left_over(data: Path) -> list[str]:
    """Command lines of the processes that still use the folder."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(data).encode() in path.read_bytes() + path.with_name("cmdline").read_bytes():
                found.append(path.with_name("cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_runs_and_proves_itself(tmp_path: Path) -> None:
    data = tmp_path / "hive"
    words = [sys.executable, "-m", "services.cli.main", "demo"]
    done = subprocess.run(words, env=environ(data), cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert "proved: " in done.stdout
    assert "most used" in done.stdout
    assert "hivectl" in done.stdout or "services.cli.main" in done.stdout
    assert (data / "demo" / "index.json").stat().st_size > 1000
    assert left_over(data) == []


@pytest.mark.timeout(300)
def test_interrupting_the_demo_stops_everything_it_started(tmp_path: Path) -> None:
    data = tmp_path / "hive"
    words = [sys.executable, "-m", "services.cli.main", "demo"]
    demo = subprocess.Popen(words, env=environ(data), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + LIMIT_S
    while not ((running := Folder(data).running()) and running.url):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks at another process
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 130
    assert left_over(data) == []
