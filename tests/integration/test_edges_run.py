"""Starting, stopping, killing and crowding `hivectl up`, as it happens on people's machines."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.edges_support import LIMIT_S, Up
from tests.system import ROOT

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
notes = os.environ["NOTES"]
for depth in range(2):
    if os.fork() == 0:
        os.setsid()
        os.environ.clear()
    open(f"{notes}/{os.getpid()}", "w")
time.sleep(600)
"""
"""Ignores SIGTERM, forks twice, each child in a session of its own; each leaves a file named by its process id."""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    one = Up(tmp_path / "hive")
    yield one
    one.close()


def test_a_taken_port_is_named_with_its_owner_and_the_remedy(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = up.ctl("up", "--port", str(port))
    assert (code, out) == (4, b"")
    assert f"port {port} on 127.0.0.1 is taken" in err
    assert "--port" in err
    assert up.processes() == []


def test_of_two_at_once_one_runs_and_the_other_names_it(up: Up) -> None:
    first, second = (up.system.spawn("up", "--port", "0", "--workers", "0") for _ in range(2))
    up.system.planes += [first, second]
    up.until("one gives way", lambda: (first.poll() is None) != (second.poll() is None))
    loser, winner = (first, second) if first.poll() is not None else (second, first)
    assert loser.returncode == 4
    assert f"in use by `main.py up` (process {winner.pid})" in up.said()
    up.until("the other is up", lambda: (running := up.folder.running()) is not None and bool(running.url))
    code, _, err = up.ctl("up", "--port", "0")
    assert code == 4
    assert f"(process {winner.pid}) at {up.system.url()}" in err
    assert f"kill {winner.pid}" in err
    assert "--data" in err


def test_ctrl_c_waits_says_for_what_and_everything_goes_on_later(up: Up) -> None:
    up.start()
    gate = up.folder.path("gate")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done; echo finished", cpus=0.001)
    up.reaches(job, "running")
    later = up.submit("echo", "later", cpus=psutil.cpu_count())
    up.signal(signal.SIGINT)
    up.until("it says what it waits for", lambda: f"1 running: {job} task 0" in up.said())
    gate.touch()
    assert up.ended() == 0
    assert up.processes() == []
    up.start()
    assert up.end(later)["code"] == 0
    assert (up.output(job), up.output(later)) == (b"finished\n", b"later\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_now_and_leaves_no_process(up: Up, number: int, tmp_path: Path) -> None:
    up.start()
    job = up.submit(sys.executable, "-c", STUBBORN, env={"NOTES": str(tmp_path)})
    up.until("its whole tree runs", lambda: len([one for one in tmp_path.iterdir() if one.name.isdigit()]) == 4)
    tree = [int(one.name) for one in tmp_path.iterdir() if one.name.isdigit()]
    up.signal(number)
    up.until("it says that it waits", lambda: "once more stops now" in up.said())
    up.signal(number)
    assert up.ended() == 0
    assert up.processes() == []
    up.until("the task's tree is gone", lambda: not any(psutil.pid_exists(one) for one in tree))
    assert job in up.said()


def test_a_hangup_reloads_the_disk_thresholds_and_a_full_disk_takes_nothing_new(up: Up) -> None:
    up.start()
    gate, file = up.folder.path("gate"), up.folder.path("hive.toml")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done; echo recorded")
    file.write_text("disk_min_bytes = 1000000000000000")
    up.signal(signal.SIGHUP)
    up.until("it says so", lambda: "settings reloaded" in up.said())
    up.until("it warns", lambda: "new work is refused" in up.said())
    before = up.position()
    status, problem = up.http("POST", "/v1/jobs", {"command": ["true"]})
    assert (status, problem["type"]) == (507, "urn:hive:problem:disk-full")
    assert "free some space" in problem["remedy"]
    assert up.http("PUT", f"/v1/blobs/{'0' * 64}", b"x")[0] == 507
    code, _, err = up.ctl("submit", "--", "true")
    assert code == 3
    assert "free some space" in err
    assert up.position() == before or up.job(job)["state"] == "running"
    gate.touch()
    assert up.end(job)["code"] == 0
    assert up.output(job) == b"recorded\n"
    file.write_text("disk_low_bytes = 1000000000000000")
    up.signal(signal.SIGHUP)
    up.until("only a warning is left", lambda: "new work is refused below" in up.http("GET", "/v1/status")[1]["disk"])
    assert up.end(up.submit("true"))["code"] == 0
    file.write_text("disk_low_bytes = 'much'")
    up.signal(signal.SIGHUP)
    up.until("a mistake is told", lambda: "settings not reloaded: `disk_low_bytes`" in up.said())


def test_ctrl_c_names_the_tasks_of_an_adopted_worker_as_well(up: Up) -> None:
    up.start()
    gate = up.folder.path("gate")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done", count=5, cpus=0.001)
    up.until("all of it runs", lambda: up.job(job)["running"] == 5)
    up.kill()
    up.system.log.write_text("")
    up.start()
    up.submit("true", cpus=0.001)  # whoever takes this knows what runs
    up.signal(signal.SIGINT)
    waits = f"waiting for 1 local worker to finish 5 tasks: {job} task 0, {job} task 1, {job} task 2 and 2 more"
    up.until("it says what it waits for", lambda: waits in up.said())
    gate.touch()
    assert up.ended() == 0


@pytest.mark.parametrize("moved", [True, False])
def test_a_folder_that_is_gone_stops_it_with_what_to_do(up: Up, tmp_path: Path, moved: bool) -> None:
    up.start()
    log = tmp_path / "said.log"
    os.link(up.system.log, log)
    up.until(
        "its worker works", lambda: [w for w in up.http("GET", "/v1/workers")[1]["workers"] if w["state"] == "ready"]
    )
    running = up.processes()
    if moved:
        up.folder.root.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(up.folder.root)
    assert up.ended() == 4
    said = log.read_text()
    assert f"the data folder {up.folder.root} was removed, moved or replaced" in said
    assert "start again" in said
    assert "Traceback" not in said
    up.until("nothing is left running", lambda: not any(one.is_running() for one in running))
    assert not up.folder.root.exists()


def test_what_a_killed_up_left_is_adopted_with_its_running_task(up: Up) -> None:
    up.start()
    gate = up.folder.path("gate")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done; echo $HIVE_ATTEMPT")
    up.reaches(job, "running")
    agent, nats, url = up.agent(), up.system.nats_pid(), up.system.url()
    up.kill()
    up.start()
    assert (up.agent(), up.system.nats_pid(), up.system.url()) == (agent, nats, url)
    gate.touch()
    assert up.end(job)["attempt"] == 1
    assert up.output(job) == b"1\n"
    assert up.end(up.submit("true"))["code"] == 0
    assert "already" not in up.said()
    assert up.agent() == agent
    up.signal(signal.SIGINT)
    assert up.ended() == 0
    assert up.processes() == []


def test_a_worker_that_knows_an_old_address_only_finishes_and_is_replaced(up: Up) -> None:
    up.start()
    gate = up.folder.path("gate")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done; echo $HIVE_ATTEMPT")
    up.reaches(job, "running")
    agent, port = up.agent(), int(up.folder.path("api.port").read_text())
    up.kill()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        up.start()
    assert not up.system.url().endswith(f":{port}")
    gate.touch()
    assert up.end(job)["attempt"] == 1
    up.until("there is another one", lambda: not psutil.pid_exists(agent))
    assert up.end(up.submit("true"))["code"] == 0
    assert up.agent() != agent


def test_everything_is_private_and_no_secret_shows(up: Up) -> None:
    up.start(HIVE_KEY="hive_of_another_hive")
    job = up.submit("env")
    assert up.end(job)["code"] == 0
    names = {line.partition(b"=")[0].decode() for line in up.output(job).splitlines()}
    assert not names & {"HIVE_KEY", "HIVE_DATA", "HIVE_URL"}
    assert {name for name in names if name.startswith("HIVE_")} == {
        *("HIVE_JOB", "HIVE_INDEX", "HIVE_COUNT", "HIVE_ATTEMPT", "HIVE_EMIT", "HIVE_WORKER", "HIVE_TASK")
    }
    open_to_others = [path for path in up.folder.root.rglob("*") if not path.is_symlink() and _open(path)]
    assert open_to_others == [up.system.log]  # the test's own
    found = [path.read_bytes().strip() for path in up.folder.root.rglob("keys/*") if path.is_file()]
    secrets = [secret for secret in found if secret]  # the log of an SQLite file may be empty
    assert len(secrets) >= 6
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        assert not any(secret in words for secret in secrets), words


def _open(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.lstat().st_mode) & 0o077)
    except FileNotFoundError:
        return False


def test_an_error_of_ours_shows_no_values_in_the_log(up: Up) -> None:
    """Local variables hold keys, so no traceback may print them."""
    code = "from infra.logging import configure; import structlog; configure(json={}, level='info')\n"
    code += "def f(key):\n  1/0\ntry: f('hive_s' + 'ecret')\nexcept Exception: structlog.get_logger().exception('x')"
    for json_lines in (True, False):
        words = [sys.executable, "-c", code.format(json_lines)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=LIMIT_S)
        assert b"ZeroDivisionError" in done.stderr
        assert b"hive_secret" not in done.stderr
