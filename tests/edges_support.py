"""A hive as its user has it, `hivectl up`, and what a stranger does to it: from other processes, over HTTP, by signals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import psutil

from tests.system import ROOT, System

LIMIT_S = 30.0
LOOK_S = 0.02


class Up:
    """`hivectl up` over one folder. Every wait is bounded and says what it waited for."""

    def __init__(self, data: Path) -> None:
        self.system = System(data)
        self.folder = self.system.folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str, **environ: str) -> "Up":
        """Start it (again); its API answers when this returns."""
        process = self.process = self.system.spawn("up", "--port", "0", *words, environ=environ)
        self.system.planes.append(process)

        def up() -> bool:
            assert process.poll() is None, self.said()
            running = self.folder.running()
            return running is not None and running.pid == process.pid and bool(running.url)

        self.until("it is up", up)
        self.until("a writer leads", lambda: self.position() != "1.0")
        return self

    def signal(self, number: int) -> None:
        """Signal `up` itself."""
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(LIMIT_S)

    def kill(self) -> None:
        """SIGKILL: nothing of it gets to clean up."""
        self.signal(signal.SIGKILL)
        self.ended()

    def close(self) -> None:
        """End everything."""
        asyncio.run(self.system.stop())

    def said(self) -> str:
        """What its processes said."""
        return self.system.log.read_text(errors="replace")

    def until(self, what: str, true: Callable[[], object]) -> None:
        """Look until `true`."""
        deadline = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s: {what}\n{self.said()[-4000:]}"
            time.sleep(LOOK_S)  # between two looks at another process

    def ctl(self, *words: str, **environ: str) -> tuple[int, bytes, str]:
        """hivectl: exit code, standard output, standard error."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("HIVE_")}
        env |= {"HIVE_DATA": str(self.folder.root), "NO_COLOR": "1", **environ}
        command = [sys.executable, "-m", "services.cli.main", *words]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=LIMIT_S)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, done.stdout, done.stderr.decode()

    def http(
        self, method: str, path: str, body: object = None, *, key: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON, or bytes, of an answer. `body`: bytes as they are, anything else as JSON; `key` "": none."""
        key = self.folder.admin_key() if key is None else key
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.system.url() + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            return error.code, _read(error)

    def submit(self, *command: str, **spec: Any) -> str:
        """The id of a new job."""
        status, answer = self.http("POST", "/v1/jobs", {"command": command, **spec})
        assert status == 201, answer
        return answer["jobs"][0]["job"]

    def job(self, job: str) -> Any:
        """The job as the API shows it."""
        return self.http("GET", f"/v1/jobs/{job}")[1]

    def task(self, job: str, index: int = 0) -> Any:
        """One of its tasks."""
        status, answer = self.http("GET", f"/v1/jobs/{job}/tasks?after={index - 1}&limit=1")
        assert status == 200, answer
        return answer["tasks"][0]

    def reaches(self, job: str, *states: str) -> Any:
        """Wait until the job is in one of these states; the job."""
        found: list[Any] = [None]

        def there() -> bool:
            found[0] = self.job(job)
            return found[0].get("state") in states

        self.until(f"{job} is {' or '.join(states)}", there)
        return found[0]

    def end(self, job: str) -> Any:
        """Wait until the job has ended; its first task, which the tables may learn a little later."""
        state = self.reaches(job, "succeeded", "failed", "cancelled")["state"]
        self.until("the tables know its end", lambda: self.task(job)["end"] or state == "cancelled")
        return self.task(job)

    def output(self, job: str, index: int = 0, stream: str = "stdout") -> bytes:
        """What a task printed."""
        return self.http("GET", f"/v1/jobs/{job}/tasks/{index}/output?stream={stream}")[1]

    def position(self) -> str:
        """The end of the log."""
        return self.http("GET", "/v1/status")[1]["position"]

    def agent(self) -> int:
        """The process of the local worker."""
        state = str(self.folder.path("workers", "local-1"))
        found = [one.pid for one in self.processes() if "worker" in one.cmdline() and state in one.cmdline()]
        assert len(found) == 1, found
        return found[0]

    def processes(self) -> list[psutil.Process]:
        """All that run over this folder, whoever started them."""
        root = str(self.folder.root)
        found: list[psutil.Process] = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = " ".join(process.info["cmdline"] or ())
            if root in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


def _read(answer: HTTPResponse | urllib.error.HTTPError) -> Any:
    content = answer.read()
    return json.loads(content) if content and "json" in answer.headers.get("Content-Type", "") else content
