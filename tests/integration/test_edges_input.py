"""Wrong input over HTTP and on the command line: each is refused clearly, names the field, and changes nothing."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edges_support import LIMIT_S, Up
from tests.system import ROOT

COMMAND = {"command": ["true"]}
NO_JOB = "j" + "a" * 16
ZEROS = "0" * 64


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("input") / "hive")
    one.start("--workers", "0")
    one.until("all that comes at a first start is on the log", lambda: _started(one))
    yield one
    one.close()


def _started(up: Up) -> bool:
    """Whether each writer took its place, and the admin has its grant."""
    _, log, _ = up.ctl("tail", "--from", "1.1", "--no-follow", "--json")
    return all(fact in log for fact in (b"accounts.writer_led", b"pool.writer_led", b"transfer.posted"))


@pytest.fixture(autouse=True)
def nothing_changes(up: Up) -> Iterator[None]:
    """Whatever a test here sends, the log stays as it is."""
    before = up.position()
    yield
    assert up.position() == before


def _input(**more: str) -> dict[str, Any]:
    return {**COMMAND, "inputs": [{"path": "x", **more}]}


SPECS: list[tuple[str, Any, int, str, str]] = [
    ("no command", {}, 422, "command", "is empty"),
    ("empty program", {"command": [""]}, 422, "command[0]", "is empty"),
    ("command is text", {"command": "echo"}, 400, "command", "Expected `array`"),
    ("NUL", {"command": ["a\0"]}, 422, "command[0]", "NUL"),
    ("unknown kind", {**COMMAND, "kind": "vm"}, 400, "kind", "vm"),
    ("bad image", {**COMMAND, "image": "../x y"}, 422, "image", "not an image"),
    ("no tasks", {**COMMAND, "count": 0}, 422, "count", "must be from 1 to 10000000 tasks"),
    ("negative tasks", {**COMMAND, "count": -1}, 422, "count", "is -1"),
    ("absurd tasks", {**COMMAND, "count": 10**30}, 422, "count", "1e+30"),
    ("half a task", {**COMMAND, "count": 1.5}, 400, "count", "Expected `int`"),
    ("priority", {**COMMAND, "priority": 11}, 422, "priority", "from 1 to 10"),
    ("no CPU", {**COMMAND, "cpus": 0}, 422, "cpus", "from 0.001 to 4096"),
    ("negative CPU", {**COMMAND, "cpus": -1}, 422, "cpus", "is -1"),
    ("memory", {**COMMAND, "memory": -1}, 422, "memory", "is -1"),
    ("absurd memory", {**COMMAND, "memory": 2**70}, 422, "memory", "bytes"),
    ("time limit", {**COMMAND, "time_limit": -1}, 422, "time_limit", "is -1"),
    ("retries", {**COMMAND, "retries": {"exit": 101}}, 422, "retries.exit", "from 0 to 100"),
    ("unknown cause", {**COMMAND, "retries": {"rain": 1}}, 400, "retries.rain", "not a field"),
    ("long name", {**COMMAND, "name": "x" * 201}, 422, "name", "at most 200"),
    ("escape in a name", {**COMMAND, "name": "\x1b[31m"}, 422, "name", "printable"),
    ("label without a name", {**COMMAND, "labels": {"": "x"}}, 422, "labels", "non-empty"),
    ("escape in a label", {**COMMAND, "labels": {"x": "\x1b[2J"}}, 422, "labels", "printable"),
    ("env name", {**COMMAND, "env": {"A=B": "1"}}, 422, "env.A=B", "without '='"),
    ("cwd leaves", {**COMMAND, "cwd": "a/../../b"}, 422, "cwd", "inside the task's folder"),
    ("cwd is absolute", {**COMMAND, "cwd": "/etc"}, 422, "cwd", "inside the task's folder"),
    ("result leaves", {**COMMAND, "results": ["../x"]}, 422, "results[0]", "inside the task's folder"),
    ("result is the folder", {**COMMAND, "results": ["."]}, 422, "results[0]", "inside the task's folder"),
    ("input leaves", {**COMMAND, "inputs": [{"path": "/x", "digest": ZEROS}]}, 422, "inputs[0].path", "inside"),
    ("input twice", {**COMMAND, "inputs": [{"path": "x", "digest": ZEROS}] * 2}, 422, "inputs[1].path", "twice"),
    ("digest format", _input(digest="ABC"), 422, "inputs[0].digest", "64 lower-case"),
    ("unknown blob", _input(digest=ZEROS), 422, "inputs[0].digest", "there is no blob"),
    ("neither blob nor job", _input(), 422, "inputs[0]", "exactly one"),
    ("unknown job's results", _input(job=NO_JOB), 422, "inputs[0].job", "there is no job"),
    ("unknown manifest", {**COMMAND, "each": ZEROS}, 422, "each", "there is no blob"),
    ("unknown dependency", {**COMMAND, "after": [NO_JOB]}, 422, "after[0]", "there is no job"),
    ("no id at all", {**COMMAND, "after": ["first"]}, 422, "after[0]", "neither the id"),
    ("itself", {**COMMAND, "ref": "a", "after": ["a"]}, 422, "after", "cycle"),
    (
        *("a cycle", [{**COMMAND, "ref": "a", "after": ["b"]}, {**COMMAND, "ref": "b", "after": ["a"]}]),
        *(422, "jobs[0].after", "'a' waits for 'b' waits for 'a'"),
    ),
    ("one wrong in a list", [COMMAND, {**COMMAND, "cpus": -1}], 422, "jobs[1].cpus", "is -1"),
    ("too many", [COMMAND] * 1001, 422, "jobs", "1 to 1000"),
    ("none", [], 422, "jobs", "1 to 1000"),
    ("a slip", {"commnad": ["true"]}, 400, "commnad", "not a field"),
    ("too much text", {"command": ["x" * 70_000]}, 413, "command", "the limit is 65536"),
]


@pytest.mark.parametrize(("body", "status", "field", "said"), [spec[1:] for spec in SPECS], ids=[s[0] for s in SPECS])
def test_a_submission_that_cannot_be(up: Up, body: Any, status: int, field: str, said: str) -> None:
    found, problem = up.http("POST", "/v1/jobs", body)
    assert (found, problem["field"]) == (status, field), problem
    assert said in problem["detail"]
    assert problem["type"].startswith("urn:hive:problem:")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b'{"command":["true"', "not JSON"),
        (b'{"command":["\xff\xfe"]}', "not JSON"),
        (b'{"command":["true"],"cpus":NaN}', "not JSON"),
        (b'{"command":["true"],"cpus":1e999}', "cpus"),
        (b"null", "Expected `object`"),
        (b"[" * 1_000_000, "Expected `object`"),
        (b"<job/>", "not JSON"),
    ],
)
def test_a_body_that_is_no_submission(up: Up, body: bytes, said: str) -> None:
    status, problem = up.http("POST", "/v1/jobs", body)
    assert status == 400
    assert said in problem["detail"]
    assert "openapi" in problem["remedy"] or "such as" in problem["remedy"]


def test_ten_megabytes_of_json_are_too_much(up: Up) -> None:
    file = up.folder.path("ten.json")
    file.write_bytes(b"[" + b'{"command":["true"]},' * 500_000 + b"{}]")
    key = up.folder.admin_key()
    # The key through a file: it is on no command line, also not here.
    head = up.folder.path("head")
    head.write_text(f"Authorization: Bearer {key}")
    words = ["curl", "-s", "-H", f"@{head}", "--data-binary", f"@{file}", f"{up.system.url()}/v1/jobs"]
    done = subprocess.run(words, capture_output=True, timeout=LIMIT_S)
    problem = json.loads(done.stdout)
    assert problem["status"] == 413
    assert "8 MiB" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("GET", f"/v1/jobs/{NO_JOB}", None, 404, ""),
        ("GET", "/v1/jobs/..%2f..%2fkeys", None, 404, ""),
        ("GET", f"/v1/jobs/{NO_JOB}/tasks", None, 404, ""),
        ("GET", f"/v1/jobs/{NO_JOB}/results", None, 404, ""),
        ("GET", f"/v1/jobs/{NO_JOB}/tasks/0/output", None, 404, ""),
        ("POST", f"/v1/jobs/{NO_JOB}/cancel", {}, 404, ""),
        ("GET", "/v1/jobs?limit=0", None, 400, "limit"),
        ("GET", "/v1/jobs?limit=1001", None, 400, "limit"),
        ("GET", "/v1/jobs?limit=x", None, 400, "limit"),
        ("GET", "/v1/jobs?cursor=zzz", None, 400, "cursor"),
        ("GET", "/v1/jobs?cursor=-5", None, 400, "cursor"),
        ("GET", "/v1/jobs?state=nope", None, 400, "state"),
        ("GET", "/v1/jobs?min_position=x", None, 400, "min_position"),
        ("GET", "/v1/jobs?min_position=2.1", None, 400, "min_position"),
        ("GET", "/v1/events?from=x", None, 400, "from"),
        ("GET", "/v1/events?since=x", None, 400, "since"),
        ("GET", "/v1/events?type=nope", None, 400, "type"),
        ("GET", "/v1/workers/waaaaaaaaaaaa", None, 404, ""),
        ("POST", "/v1/workers/waaaaaaaaaaaa/drain", {"on": True}, 404, ""),
        ("POST", "/v1/workers/waaaaaaaaaaaa/drain", {"on": "yes"}, 400, "on"),
        ("DELETE", "/v1/workers/waaaaaaaaaaaa", None, 404, ""),
        ("POST", "/v1/workers", {}, 400, "public_key"),
        ("POST", "/v1/workers", {"public_key": "nope"}, 422, "public_key"),
        ("GET", f"/v1/blobs/{ZEROS}", None, 404, ""),
        ("GET", "/v1/blobs/zz", None, 400, "digest"),
        ("GET", "/v1/blobs/..%2f..%2fkeys%2fadmin.key", None, 404, ""),
        ("PUT", "/v1/blobs/zz", b"x", 400, "digest"),
        ("PUT", f"/v1/blobs/{ZEROS}", b"x", 422, "digest"),
        ("POST", "/v1/blobs/missing", {}, 400, "digests"),
        ("POST", "/v1/blobs/missing", {"digests": "x"}, 400, "digests"),
        ("POST", "/v1/blobs/missing", b"{", 400, ""),
        ("DELETE", "/v1/jobs", None, 405, ""),
        ("GET", "/v1/nothing", None, 404, ""),
    ],
)
def test_a_request_that_cannot_be(up: Up, method: str, path: str, body: Any, status: int, field: str) -> None:
    found, problem = up.http(method, path, body)
    assert (found, problem.get("field", "")) == (status, field), problem
    assert problem["detail"]


def test_bytes_that_are_not_their_digest_are_not_kept(up: Up) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    status, problem = up.http("PUT", f"/v1/blobs/{digest}", b"wrong")
    assert status == 422
    assert digest in problem["detail"]
    assert up.http("GET", f"/v1/blobs/{digest}")[0] == 404
    assert up.http("PUT", f"/v1/blobs/{digest}", b"right")[0] == 201
    status, problem = up.http("GET", f"/v1/blobs/{digest}", Range="bytes=9-")
    assert (status, problem["field"]) == (416, "Range")


NO_KEY, WRONG_KEY = "there is no key", "the key is unknown, revoked or expired"


def test_what_is_open_is_said_to_be(up: Up) -> None:
    with urllib.request.urlopen(f"{up.system.url()}/health", timeout=LIMIT_S) as answer:
        assert json.load(answer) == {"status": "ok"}
    paths = up.http("GET", "/schema/openapi.json")[1]["paths"]
    assert len(paths) >= 15
    before = up.position()
    for path, methods in paths.items():
        for method in methods:
            for key in ("", "hive_wrong"):
                real = path.replace("{index}", "0")
                status, problem = up.http(method.upper(), real.replace("{", "").replace("}", ""), key=key)
                if "security" not in methods[method]:
                    assert status == 401, (method, path, problem)
                else:  # it may refuse what it was given, but not for want of a key
                    assert problem.get("detail") not in (NO_KEY, WRONG_KEY), (method, path, problem)
    assert up.http("GET", "/v1/no/such/path", key="")[0] == 401
    assert up.position() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, ""),
        (("job",), 2, ""),
        (("jbos",), 2, "Did you mean 'jobs'"),
        (("job", "shw"), 2, "Did you mean 'show'"),
        (("job", "show"), 2, "'JOB'"),
        (("jobs", "--stat", "queued"), 2, "--state"),
        (("jobs", "--json", "--quiet"), 2, "exclude each other"),
        (("submit",), 2, "COMMAND is missing"),
        (("submit", "--memroy", "1", "--", "true"), 2, "Did you mean one of: '--gpu-memory', '--memory'"),
        (("submit", "--memory", "3q", "--", "true"), 2, "2GiB"),
        (("submit", "--time-limit", "5x", "--", "true"), 2, "1h30m"),
        (("submit", "--cpus", "nan", "--", "true"), 2, "--cpus is nan"),
        (("submit", "--count", "0", "--", "true"), 2, "--count is 0"),
        (("submit", "--result", "../x", "--", "true"), 2, "inside the task's folder"),
        (("submit", "--input", "/no/such", "--", "true"), 2, "/no/such is not a file"),
        (("submit", "--after", NO_JOB, "--", "true"), 3, "there is no job"),
        (("job", "show", NO_JOB), 3, "hivectl jobs"),
        (("blob", "get", ZEROS), 3, "hivectl blob put"),
        (("up", "--port", "99999"), 2, "65535"),
        (("completion", "tcsh"), 2, "fish"),
    ],
)
def test_a_command_that_cannot_be(up: Up, words: tuple[str, ...], code: int, said: str) -> None:
    found, out, err = up.ctl(*words)
    assert found == code, err
    if said:
        assert said in err
        assert out == b""
        assert "\n  try: " in err or "submit it first" in err
    else:
        assert out.startswith(b"Usage: hivectl")
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("environ", "words", "code", "said"),
    [
        ({"HIVE_URL": "http://127.0.0.1:9", "HIVE_KEY": "x"}, ("jobs",), 4, "no hive answers at http://127.0.0.1:9"),
        ({"HIVE_URL": "http://127.0.0.1:9"}, ("jobs",), 5, "HIVE_KEY"),
        ({"HIVE_URL": "nonsense", "HIVE_KEY": "x"}, ("jobs",), 2, "not the address of a hive"),
        ({"HIVE_DATA": "/no/such"}, ("jobs",), 4, "hivectl up"),
        ({"HIVE_KEY": "hive_wrong"}, ("jobs",), 5, "the key is unknown"),
        ({"HIVE_PORT": "many", "HIVE_DATA": "/tmp/no-such-hive"}, ("up",), 2, "`port`"),
        ({"HIVE_PROT": "1", "HIVE_DATA": "/tmp/no-such-hive"}, ("up",), 2, "HIVE_PORT"),
    ],
)
def test_an_environment_that_cannot_be(
    up: Up, environ: dict[str, str], words: tuple[str, ...], code: int, said: str
) -> None:
    found, _, err = up.ctl(*words, **environ)
    assert found == code, err
    assert said in err


def test_completion_works_in_bash(up: Up) -> None:
    script = up.ctl("completion", "bash")[1].decode()
    ask = 'COMP_WORDS=(hivectl wor); COMP_CWORD=1; _hivectl_completion hivectl; printf "%s\\n" "${COMPREPLY[@]}"'
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script + ask], env=environ, cwd=ROOT, capture_output=True, timeout=LIMIT_S)
    assert set(done.stdout.decode().split()) == {"worker", "workers"}, done.stderr
