"""What jobs can ask for, done for real: limits, retries, dependencies, files, output; and how each of them fails."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.edges_support import LIMIT_S, Up
from tests.system import ROOT

SMALL = {"cpus": 0.01}
EAT = "import time\nfor n in range(400): globals()[f'a{n}'] = bytearray(5 << 20); time.sleep(0.005)\ntime.sleep(60)"
TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for depth in range(2):
    if os.fork() == 0:
        os.setsid()
    open(f"{sys.argv[1]}/{os.getpid()}", "w")
time.sleep(600)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("jobs") / "hive")
    yield one.start()
    one.close()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("nosuchcmd", "x"), "command not found: 'nosuchcmd'"),
        (("./nosuchfile",), "command not found: './nosuchfile'"),
        (("/tmp",), "'/tmp' is not an executable file"),
        (("/etc/passwd",), "'/etc/passwd' is not an executable file"),
    ],
)
def test_a_command_that_is_none_is_rejected(up: Up, command: tuple[str, ...], said: str) -> None:
    job = up.submit(*command, retries={"rejected": 0}, **SMALL)
    task = up.end(job)
    assert (task["state"], task["end"]) == ("failed", "rejected")
    assert said in task["reason"]
    assert said in up.job(job)["reason"]


def test_an_image_that_is_none_fails_or_waits_with_a_reason(up: Up) -> None:
    job = up.submit("true", image="localhost:1/no/such:image", retries={"rejected": 0}, **SMALL)
    shown = up.reaches(job, "held", "failed")
    assert "localhost:1/no/such:image" in shown["reason"] or "container" in shown["reason"]
    up.http("POST", f"/v1/jobs/{job}/cancel")


def test_more_than_any_worker_has_is_held_until_one_has_it(up: Up) -> None:
    job = up.submit("echo", "big", cpus=64)
    reason = up.reaches(job, "held")["reason"]
    assert reason.startswith("capacity: needs 64 CPUs")
    assert "the most any has is" in reason
    assert "held" in up.ctl("jobs", "--state", "held")[1].decode()
    assert "needs 64 CPUs" in up.ctl("job", "show", job)[1].decode()
    agent = up.system.agent("big", cpus=64)
    assert up.end(job)["code"] == 0
    agent.terminate()
    agent.wait(LIMIT_S)


def test_environment_and_working_folder(up: Up) -> None:
    digest = hashlib.sha256(b"in").hexdigest()
    up.http("PUT", f"/v1/blobs/{digest}", b"in")
    inputs = [{"path": "sub/in", "digest": digest}]
    job = up.submit("sh", "-c", 'echo "$WHO"; cat in', env={"WHO": "a  b"}, cwd="sub", inputs=inputs, **SMALL)
    assert up.end(job)["code"] == 0
    assert up.output(job) == b"a  b\nin"
    task = up.end(up.submit("true", cwd="nowhere", retries={"rejected": 0}, **SMALL))
    assert "'nowhere' cannot be entered" in task["reason"]


def test_higher_priority_goes_first(up: Up) -> None:
    cpus = psutil.cpu_count()
    gate = up.folder.path("priority-gate")
    # Short tasks are given to a worker ahead of time; these come all at once, when what they wait for has ended.
    first = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done", **SMALL)
    jobs = {priority: up.submit("true", cpus=cpus, priority=priority, after=[first]) for priority in (1, 5, 10, 3)}
    gate.touch()
    # Leases are numbered in the order in which they are given.
    leased = {priority: up.end(job)["lease"] for priority, job in jobs.items()}
    assert sorted(leased, key=lambda priority: leased[priority]) == [10, 5, 3, 1], leased


def test_a_time_limit_ends_it(up: Up) -> None:
    task = up.end(up.submit("sleep", "600", time_limit=0.2, **SMALL))
    assert task["end"] == "timeout"
    assert "0.2 s" in task["reason"]
    assert up.end(up.submit("sleep", "600", time_limit=0.0001, **SMALL))["end"] == "timeout"


def test_a_memory_limit_ends_it_and_the_peak_is_told(up: Up) -> None:
    task = up.end(up.submit(sys.executable, "-c", EAT, memory=60 << 20, **SMALL))
    assert task["end"] == "oom"
    assert task["detail"]["memory_peak"] > 60 << 20
    assert task["reason"] == "used more than its 60 MiB of memory; ask for more memory"


@pytest.mark.parametrize(
    ("script", "retries", "attempts", "end"),
    [
        ('test "$HIVE_ATTEMPT" = 3', {"exit": 2}, 3, "exit"),
        ("exit 1", {"exit": 1, "timeout": 5}, 2, "exit"),
        ("exit 1", {"oom": 3}, 1, "exit"),
        ("sleep 600", {"timeout": 1}, 2, "timeout"),
    ],
)
def test_retries_are_counted_by_cause(up: Up, script: str, retries: dict[str, int], attempts: int, end: str) -> None:
    more = {"time_limit": 0.2} if end == "timeout" else {}
    job = up.submit("sh", "-c", script, retries={**retries, "backoff": 0.01}, **more, **SMALL)
    task = up.end(job)
    assert (task["attempt"], task["end"]) == (attempts, end)
    assert (task["state"] == "succeeded") == (attempts == 3)


def test_a_killed_worker_is_replaced_and_its_task_goes_on(up: Up) -> None:
    gate = up.folder.path("killed-gate")
    job = up.submit("sh", "-c", f"until test -e {gate}; do sleep 0.02; done; echo $HIVE_ATTEMPT")
    up.reaches(job, "running")
    psutil.Process(up.agent()).kill()
    up.until("the loss is known", lambda: "local_worker.ended" in up.said())
    gate.touch()
    assert up.end(job)["attempt"] == 1
    assert up.output(job) == b"1\n"


def test_cancelling_ends_the_whole_tree_whatever_it_ignores(up: Up, tmp_path: Path) -> None:
    job = up.submit(sys.executable, "-c", TREE, str(tmp_path), **SMALL)
    up.until("its whole tree runs", lambda: len(list(tmp_path.iterdir())) == 4)
    tree = [int(one.name) for one in tmp_path.iterdir()]
    assert up.http("POST", f"/v1/jobs/{job}/cancel")[0] == 200
    up.reaches(job, "cancelled")
    up.until("its tree is gone", lambda: not any(psutil.pid_exists(one) for one in tree))
    status, problem = up.http("POST", f"/v1/jobs/{up.submit('true', **SMALL)[:5]}/cancel")
    assert status == 404, problem


def test_what_comes_after_runs_or_falls_with_it(up: Up) -> None:
    gate = up.folder.path("after-gate")
    wait = f"until test -e {gate}; do sleep 0.02; done;"
    good = up.submit("sh", "-c", wait, **SMALL)
    bad = up.submit("sh", "-c", f"{wait} exit 3", **SMALL)
    runs = up.submit("echo", "after", after=[good], **SMALL)
    falls = up.submit("true", after=[good, bad], **SMALL)
    falls_too = up.submit("true", after=[falls], **SMALL)
    assert up.job(runs)["state"] == "held"
    gate.touch()
    assert up.end(runs)["code"] == 0
    for job, because in ((falls, bad), (falls_too, falls)):
        shown = up.reaches(job, "cancelled")
        assert because in shown["reason"]
    status, problem = up.http("POST", "/v1/jobs", {"command": ["true"], "after": [bad]})
    assert (status, problem["field"]) == (422, "after[0]")
    assert up.end(up.submit("true", after=[good], **SMALL))["code"] == 0


def test_an_array_tells_which_failed_and_how(up: Up) -> None:
    job = up.submit("sh", "-c", "exit $((HIVE_INDEX % 3))", count=6, **SMALL)
    shown = up.reaches(job, "failed")
    assert (shown["succeeded"], shown["failed"]) == (2, 4)
    up.until("the tables know", lambda: len(_failed(up, job)) == 4)
    assert [(task["index"], task["code"]) for task in _failed(up, job)] == [(1, 1), (2, 2), (4, 1), (5, 2)]


def _failed(up: Up, job: str) -> list[Any]:
    return up.http("GET", f"/v1/jobs/{job}/tasks?state=failed")[1]["tasks"]


def test_names_and_labels_find_jobs(up: Up) -> None:
    job = up.submit("true", name="edge of day", labels={"team": "a", "run": "7"}, **SMALL)
    up.end(job)
    for query in ("name=edge%20of%20day", "name=edge*", "label=team=a&label=run", "label=run=7&state=succeeded"):
        assert [one["job"] for one in up.http("GET", f"/v1/jobs?{query}")[1]["jobs"]] == [job], query
    assert up.http("GET", "/v1/jobs?label=team=b")[1]["jobs"] == []


def test_one_key_two_bodies(up: Up) -> None:
    def send(**more: Any) -> tuple[int, Any]:
        return up.http("POST", "/v1/jobs", {"command": ["true"], **SMALL, **more}, Idempotency_Key="edge")

    assert send()[0] == 201
    before = up.position()
    status, answer = send()
    assert (status, answer["jobs"][0]["existing"]) == (201, True)
    up.end(answer["jobs"][0]["job"])
    before = up.position()
    status, problem = send(count=2)
    assert (status, problem["field"]) == (409, "Idempotency-Key")
    assert up.position() == before


def test_output_of_any_bytes_and_length_is_whole(up: Up) -> None:
    code = "import sys; w = sys.stdout.buffer.write; w(bytes(range(256))); w(b'x' * 3_000_000); w(b'\\r\\x1b[2J\\xff' * 500_000)"
    job = up.submit(sys.executable, "-c", code, **SMALL)
    assert up.end(job)["code"] == 0
    assert up.output(job) == bytes(range(256)) + b"x" * 3_000_000 + b"\r\x1b[2J\xff" * 500_000


def test_logs_follow_while_it_runs(up: Up) -> None:
    gate = up.folder.path("logs-gate")
    job = up.submit("sh", "-c", f"echo one; until test -e {gate}; do sleep 0.02; done; echo two", **SMALL)
    words = [sys.executable, "-m", "services.cli.main", "job", "logs", "-f", job]
    environ = {**os.environ, "HIVE_DATA": str(up.folder.root)}
    with subprocess.Popen(words, env=environ, cwd=ROOT, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"one\n"
        assert up.job(job)["state"] == "running"
        gate.touch()
        assert following.stdout.read() == b"two\n"
        assert following.wait(LIMIT_S) == 0


def test_results_go_to_a_folder(up: Up, tmp_path: Path) -> None:
    script = "mkdir -p a/b; echo 1 > a/b/c; printf '\\0' > d"
    job = up.submit("sh", "-c", script, results=["a/b/c", "d"], count=2, **SMALL)
    up.reaches(job, "succeeded")
    code, out, err = up.ctl("result", job, "--quiet", "--to", str(tmp_path / "to"))
    assert code == 0, err
    assert len(out.splitlines()) == 4
    assert sorted(path.read_bytes() for path in (tmp_path / "to").rglob("*") if path.is_file()) == [
        *(b"\0", b"\0", b"1\n", b"1\n")
    ]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("true", "'kept' was not written"),
        ("ln -s /etc/passwd kept", "'kept'"),
        ("ln -s ../../../keys/worker.seed kept", "'kept'"),
        ("mkdir kept", "not a regular file"),
        ("mkfifo kept", "not a regular file"),
    ],
)
def test_a_result_that_is_no_file_of_the_task_is_refused(up: Up, script: str, said: str) -> None:
    job = up.submit("sh", "-c", script, results=["kept"], retries={"output_lost": 0}, **SMALL)
    task = up.end(job)
    assert task["end"] == "output_lost"
    assert said in task["reason"]
    assert up.http("GET", f"/v1/jobs/{job}/results")[1]["results"] == []


def test_a_task_that_changes_its_input_changes_nothing_else(up: Up) -> None:
    data = b"as it was\n"
    digest = hashlib.sha256(data).hexdigest()
    up.http("PUT", f"/v1/blobs/{digest}", data)
    inputs = [{"path": "x", "digest": digest}]
    script = "cat x; chmod u+w x; echo changed > x; cat x; rm x; echo new > x"
    for _ in range(2):
        job = up.submit("sh", "-c", script, inputs=inputs, **SMALL)
        assert up.end(job)["code"] == 0
        assert up.output(job) == data + b"changed\n"
    assert up.http("GET", f"/v1/blobs/{digest}")[1] == data


def test_json_everywhere_parses_and_pipes_are_plain(up: Up) -> None:
    job = up.submit("echo", "x", name="plain", **SMALL)
    up.end(job)
    for words in (
        *(("jobs",), ("job", "show", job), ("job", "tasks", job), ("result", job), ("workers",), ("status",)),
        *(("version",), ("submit", "--", "true"), ("submit", "--wait", "--", "true")),
    ):
        code, out, err = up.ctl(*words, "--json") if words[0] != "submit" else up.ctl("submit", "--json", *words[1:])
        assert code == 0, (words, err)
        json.loads(out)
    lines = up.ctl("tail", "--from", "1.1", "--no-follow", "--json")[1].splitlines()
    assert all(json.loads(line)["position"] for line in lines)
    for words in (("jobs",), ("job", "show", job), ("workers",), ("tail", "--from", "1.1", "--no-follow")):
        assert b"\x1b" not in up.ctl(*words, NO_COLOR="")[1], words
