"""What executors have in common: their interface, a task ready to run, how it ended, and why it could not start."""

import contextlib
import errno
import os
import sys
from collections.abc import Container
from typing import Literal, Protocol

import msgspec

from events.protocol import Run
from events.task import AttemptEnd
from events.units import size_text
from worker.state import Key

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL."""
STDERR = 2


CONTAINER_HOME = "/work"
"""Where a container sees its task's folder."""


class Rejected(Exception):
    """The task cannot be started as it was asked for; the text says why."""


class Failed(Exception):
    """The task ended before its program ran, as if that had exited with `code`; the text says why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Box(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How an attempt is shut in. `home`: where it finds its folder. `uid`: as which user and group (-1: as we are).
    `network`: none, the hosts that its job names, or all of the machine's; `named`: hosts that may be at any address. `prefix`: what goes before the arguments of a
    process, `guards` how many processes of its own that leaves above the task's. `cgroup`: whether it is in a control group of its own.
    `pids`, `memory`, `swap`: its limits, in bytes the latter; 0: none.
    """

    home: str
    uid: int = -1
    network: Literal["none", "hosts", "full"] = "full"
    prefix: list[str] = []
    guards: int = 0
    named: list[str] = []
    cgroup: bool = False
    pids: int = 0
    memory: int = 0
    swap: int = 0


class Launch:
    """A task ready to run. `folder` exists and is private to it; `env` is what the job and the task itself asked for;
    without a `box` it runs as the agent does.
    """

    __slots__ = ("args", "box", "env", "folder", "index", "order")

    def __init__(
        self, order: Run, index: int, folder: str, args: list[str], env: dict[str, str], box: Box | None = None
    ) -> None:
        self.order, self.index, self.folder, self.args, self.env, self.box = order, index, folder, args, env, box


class Ran:
    """How an attempt's processes ended. Times in ms, memory in bytes (0: too short to be measured)."""

    __slots__ = (
        "code",
        "cpu_ms",
        "end",
        "key",
        "memory_avg",
        "memory_peak",
        "order",
        "reason",
        "started_at",
        "wall_ms",
    )

    def __init__(self, order: Run, index: int, end: AttemptEnd, code: int = 0, reason: str = "") -> None:
        self.order, self.key = order, (order.number, index)
        self.end: AttemptEnd = end
        self.code, self.reason = code, reason
        self.started_at = self.wall_ms = self.cpu_ms = self.memory_peak = self.memory_avg = 0


class Executor(Protocol):
    """Runs attempts in its own way. It is made with `on_output(order, index, stream, data)`, called for all they write,
    `on_ended(ran)`, called once when nothing of an attempt runs any more, and `on_batch()`, called after some of those.
    """

    @property
    def running(self) -> Container[Key]:
        """The attempts that were launched and have not ended."""
        ...

    async def launch(self, launch: Launch) -> None:
        """Start an attempt; when this returns it runs. Raises Rejected."""
        ...

    def kill(self, key: Key, end: AttemptEnd, reason: str, grace_s: float = GRACE_S) -> None:
        """End an attempt with all it started: the job's stop signal, and SIGKILL after `grace_s` (0: at once). Its `Ran` says `end`,
        unless it ended by itself before. Nothing for one that does not run.
        """
        ...

    async def close(self) -> None:
        """End what runs and let go of everything; nothing is reported."""
        ...


def keep_to_ourselves() -> None:
    """Files that we were started with open are not for tasks. What Python opens never is."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > STDERR:
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(name), False)


def over_limit(limit: int) -> str:
    """Why a task that used more than `limit` bytes of memory was ended."""
    return f"used more than its {size_text(limit)} of memory; ask for more memory"


def why_not(args: list[str], error: OSError) -> str:
    name = args[0]
    if isinstance(error, FileNotFoundError):
        return f"command not found: {name!r} (or the interpreter that its first line names)"
    if isinstance(error, PermissionError):
        return f"{name!r} is not an executable file; make it one (chmod +x) or name its interpreter"
    if error.errno == errno.ENOEXEC:
        return f"{name!r} is not a program that this machine can run; a script needs a first line such as #!/bin/sh"
    if error.errno == errno.E2BIG:
        return "the arguments and environment are too long for this machine; pass them in a file"
    return f"{name!r} could not be started: {error.strerror}"


def require_linux() -> None:
    """Exit with a clear message on a system without pidfds."""
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.write("a worker needs Linux 5.3 or newer\n")
        raise SystemExit(1)
