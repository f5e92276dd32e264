"""hivectl against a real hive: `up` as a process, and everything a user does with it from another."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.folder import Folder

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


class Hive:
    """A hive in a folder, and hivectl talking to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("HIVE_")}
        self.environ |= {"HIVE_DATA": str(folder), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.said = folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "services.cli.main", "up", "--port", "0"]
        with self.said.open("ab") as log:
            self.process = subprocess.Popen(words, env=self.environ, cwd=ROOT, stdout=log, stderr=log)
        self.until("it is up", lambda: (running := Folder(self.folder).running()) is not None and bool(running.url))

    def until(self, what: str, true: object) -> None:
        deadline = time.monotonic() + LIMIT_S
        assert callable(true)
        while not true():
            assert self.process is None or self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}\n{self.said.read_text()}"
            time.sleep(0.02)  # between two looks at another process

    def stop(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return 0
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)

    def ctl(self, *words: str, input: bytes = b"") -> tuple[int, bytes, str]:
        """Exit code, standard output, standard error."""
        whole = [sys.executable, "-m", "services.cli.main", *words]
        done = subprocess.run(whole, env=self.environ, cwd=ROOT, capture_output=True, input=input, timeout=LIMIT_S)
        return done.returncode, done.stdout, done.stderr.decode()

    def ok(self, *words: str) -> str:
        code, out, err = self.ctl(*words)
        assert code == 0, (words, code, out, err)
        return out.decode()


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hive]:
    one = Hive(tmp_path_factory.mktemp("cli") / "hive")
    one.start()
    yield one
    assert one.stop() == 0, one.said.read_text()


def test_up_says_where_it_is_the_key_and_what_to_try(hive: Hive) -> None:
    running = Folder(hive.folder).running()
    assert running is not None
    hive.until("it says so", lambda: "goes on where it was" in hive.said.read_text())
    said = hive.said.read_text()
    assert running.url in said
    assert Folder(hive.folder).admin_key() in said
    assert len(re.findall(r"^  .*hivectl.*|^  .*services\.cli\.main.*", said, re.MULTILINE)) == 3


def test_waiting_streams_output_and_takes_the_tasks_code(hive: Hive) -> None:
    code, out, err = hive.ctl("submit", "--wait", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (code, out) == (7, b"out\n"), err
    assert "err\n" in err


def test_waiting_shows_an_arrays_output_in_order(hive: Hive) -> None:
    code, out, err = hive.ctl("submit", "--wait", "--count", "3", "--", "sh", "-c", "echo $HIVE_INDEX")
    assert (code, out) == (0, b"0\n1\n2\n"), err


def test_waiting_with_json_prints_the_job_alone(hive: Hive) -> None:
    assert json.loads(hive.ok("submit", "--wait", "--json", "--", "echo", "hello"))["state"] == "succeeded"


@pytest.mark.parametrize("words", [(), ("--count", "101"), ("--json",)])
def test_waiting_says_why_a_job_is_held(hive: Hive, words: tuple[str, ...]) -> None:
    whole = [sys.executable, "-m", "services.cli.main", "submit", "--wait", "--cpus", "4000", *words, "--", "true"]
    with subprocess.Popen(whole, env=hive.environ, cwd=ROOT, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        line = next(line for line in waiting.stderr if " is held: " in line)
        assert "capacity: needs 4000 CPUs" in line
        hive.ok("job", "cancel", line.split()[0])
        assert waiting.wait(LIMIT_S) == 1


def test_any_bytes_come_through(hive: Hive) -> None:
    code, out, err = hive.ctl("submit", "--wait", "--", "printf", r"\377\000no newline")
    assert (code, out) == (0, b"\xff\x00no newline"), err


def test_an_array_succeeds_only_as_a_whole(hive: Hive) -> None:
    assert hive.ctl("submit", "--wait", "--count", "5", "--", "true")[0] == 0
    code, _, err = hive.ctl("submit", "--wait", "--count", "5", "--", "sh", "-c", 'test "$HIVE_INDEX" != 3')
    assert code == 1
    assert "failed: 3" in err


def test_files_go_in_and_results_come_out(hive: Hive, tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(b"2\n1\n")
    words = ("--input", f"{tmp_path / 'numbers'}=in/n", "--result", "out/sorted", "--wait", "--json")
    job = json.loads(hive.ok("submit", *words, "--", "sh", "-c", "mkdir out && sort in/n > out/sorted"))["job"]
    assert hive.ok("result", job, "--quiet", "--to", str(tmp_path / "got")).strip() == str(
        tmp_path / "got" / "out" / "sorted"
    )
    assert (tmp_path / "got" / "out" / "sorted").read_bytes() == b"1\n2\n"
    listed = json.loads(hive.ok("result", job, "--json"))
    assert [(one["path"], one["size"]) for one in listed] == [("out/sorted", 4)]


def test_jobs_are_listed_filtered_and_found_by_prefix(hive: Hive) -> None:
    words = ("--name", "the named one", "--label", "colour=blue", "--env", "WHO=me", "--quiet", "--wait")
    hive.ok("submit", *words, "--", "sh", "-c", "test $WHO = me")
    found = json.loads(hive.ok("jobs", "--label", "colour=blue", "--json"))["jobs"]
    assert [job["name"] for job in found] == ["the named one"]
    assert "the named one" in hive.ok("jobs", "--state", "succeeded")
    id = found[0]["job"]
    assert json.loads(hive.ok("job", "show", id[:-3], "--json"))["job"] == id
    assert json.loads(hive.ok("job", "tasks", id, "--json"))["tasks"][0]["state"] == "succeeded"
    assert "the named one" in hive.ok("job", "show", id)
    code, _, err = hive.ctl("job", "show", "j")
    assert code == 2
    assert "more of the id" in err or "no job" in err


def test_a_job_that_is_not_there(hive: Hive) -> None:
    for words, expected in (
        (("job", "show", "jaaaaaaaaaaaaaaaa"), 3),
        (("job", "cancel", "jaaaaaaaaaaaaaaaa"), 3),
        (("result", "jzz"), 2),
    ):
        code, out, err = hive.ctl(*words)
        assert (code, out) == (expected, b""), (words, err)
        assert words[-1] in err
        assert "hivectl jobs" in err


def test_the_same_idempotency_key_never_makes_two_jobs(hive: Hive) -> None:
    words = ("submit", "--quiet", "--idempotency-key", "k1", "--", "true")
    assert hive.ok(*words) == hive.ok(*words)
    code, _, err = hive.ctl("submit", "--idempotency-key", "k1", "--", "false")
    assert code == 3, err


def test_a_job_can_be_cancelled(hive: Hive) -> None:
    id = hive.ok("submit", "--quiet", "--", "sleep", "600").strip()
    hive.ok("job", "cancel", id)
    hive.until("it is cancelled", lambda: hive.ok("job", "show", "--quiet", id).strip() == "cancelled")


def test_logs_of_one_task(hive: Hive) -> None:
    words = ("submit", "--count", "3", "--wait", "--json", "--", "sh", "-c", "echo I am $HIVE_INDEX")
    id = json.loads(hive.ok(*words))["job"]
    assert hive.ok("job", "logs", id, "--task", "2") == "I am 2\n"
    assert hive.ok("job", "logs", "-f", id) == "I am 0\nI am 1\nI am 2\n"


def test_interrupting_a_wait_leaves_the_job(hive: Hive) -> None:
    words = [sys.executable, "-m", "services.cli.main", "submit", "--wait", "--name", "left", "--", "sleep", "600"]
    waiting = subprocess.Popen(words, env=hive.environ, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)

    def listed() -> list[dict[str, str]]:
        return json.loads(hive.ok("jobs", "--name", "left", "--state", "running", "--json"))["jobs"]

    hive.until("it runs", lambda: bool(listed()))
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=LIMIT_S)
    id = listed()[0]["job"]
    assert waiting.returncode == 130
    assert f"job cancel {id}" in err.decode()
    hive.ok("job", "cancel", id)


def test_blobs(hive: Hive, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"some bytes\0")
    digest = hive.ok("blob", "put", "--quiet", str(tmp_path / "a")).strip()
    assert hive.ctl("blob", "get", digest)[1] == b"some bytes\0"
    hive.ok("blob", "get", digest, "--to", str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"some bytes\0"
    assert hive.ctl("blob", "get", "0" * 64)[0] == 3


def test_the_event_tail(hive: Hive) -> None:
    id = json.loads(hive.ok("submit", "--wait", "--json", "--", "true"))["job"]
    lines = hive.ok("tail", "--since", "1h", "--job", id, "--no-follow").splitlines()
    assert [line.split()[1] for line in lines if "job." in line] == [
        *("job.submitted", "job.held", "job.runnable", "job.finished")
    ]
    shown = [json.loads(line) for line in hive.ok("tail", "--from", "1.1", "--no-follow", "--json").splitlines()]
    assert shown[0]["position"] == "1.1"
    only = hive.ok("tail", "--from", "1.1", "--type", "job.submitted", "--no-follow", "--json").splitlines()
    assert {json.loads(line)["event"]["type"] for line in only} == {"job.submitted"}


def test_workers_are_drained_and_taken_back(hive: Hive) -> None:
    hive.until("a worker is ready", lambda: json.loads(hive.ok("workers", "--json")) != [])
    assert "local-1" in hive.ok("workers")
    id = hive.ok("workers", "--quiet").split()[0]
    hive.ok("worker", "drain", id)
    assert "drained" in hive.ok("workers")
    hive.ok("worker", "undrain", id[:6])
    assert "drained" not in hive.ok("workers")


def test_status_and_proof(hive: Hive) -> None:
    assert json.loads(hive.ok("status", "--json"))["database"] == "ok"
    # The log says why without the user's words, and the hive with them: no difference.
    for words, said in (
        (("--retry", "rejected=0", "--", "no-such-command"), "'no-such-command' is not in"),
        (("--retry", "output_lost=0", "--result", "never", "--", "true"), "'never' was not written"),
    ):
        code, _, err = hive.ctl("submit", "--wait", *words)
        assert (code, said in err) == (1, True), err
    assert "proved: " in hive.ok("prove")


def test_a_second_up_names_the_first(hive: Hive) -> None:
    code, _, err = hive.ctl("up", "--port", "0")
    assert code == 4
    assert "in use" in err
    assert "--data" in err


def test_a_reader_that_leaves_is_no_error(hive: Hive) -> None:
    words = f"{sys.executable} -m services.cli.main tail --from 1.1 | head -1"
    done = subprocess.run(["sh", "-c", words], env=hive.environ, cwd=ROOT, capture_output=True, timeout=LIMIT_S)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_the_lines_of_python_in_the_readme_run(hive: Hive) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 6
    done = subprocess.run([sys.executable, "-c", code[1]], env=hive.environ, capture_output=True, timeout=LIMIT_S)
    assert done.stdout.split() == [str(n * n).encode() for n in range(10)], done.stderr


def test_interrupting_up_once_waits_and_twice_does_not(tmp_path: Path) -> None:
    own = Hive(tmp_path / "hive")
    own.start()
    try:
        id = own.ok("submit", "--quiet", "--", "sleep", "600").strip()
        own.until("it runs", lambda: own.ok("job", "show", "--quiet", id).strip() == "running")
        assert own.process is not None
        own.process.send_signal(signal.SIGINT)
        own.until("it says what it waits for", lambda: id in own.said.read_text())
        assert own.process.poll() is None
    finally:
        code = own.stop()
    assert code == 0, own.said.read_text()
    own.start()
    try:
        own.until("it goes on where it was", lambda: own.ok("job", "show", "--quiet", id).strip() == "running")
        own.ok("job", "cancel", id)
        own.until("it is cancelled", lambda: own.ok("job", "show", "--quiet", id).strip() == "cancelled")
    finally:
        own.stop()
