"""Process trees, read from /proc: who descends from whom, how much memory they use, and how to end all of them.

A task's processes are found three ways: its process group, its descendants, and, for those whose parent died, the
mark `HIVE_TASK` in their environment (orphans become children of the agent, which asks the kernel for that).
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator

MARK = "HIVE_TASK"
WORKER_MARK = "HIVE_WORKER"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
TREE_MAX = 10_000
"""Processes of one task that are looked at."""
_PR_SET_CHILD_SUBREAPER = 36
_START_FIELD = 19
_STATE_FIELD = 0
_TIMES = slice(11, 15)


def adopt_orphans(on: bool) -> bool:
    """Whether the kernel agreed to make orphans among our descendants our own children."""
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


def children(pid: int) -> list[int]:
    """The live and unreaped children of a process; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def descendants(pid: int) -> list[int]:
    """`pid` and everything below it, parents first."""
    found, at = [pid], 0
    while at < len(found) and len(found) < TREE_MAX:
        found += children(found[at])
        at += 1
    return found


def rss(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def peak(pid: int) -> int:
    """The most memory in bytes that a live process has had resident; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return 0


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot: with its pid, it names it for good. 0 when it is gone."""
    fields = stat_fields(pid)
    return int(fields[_START_FIELD]) if len(fields) > _START_FIELD else 0


def cpu_ms(pid: int) -> int:
    """The CPU time of a live process and of those below it that it waited for; 0 when it is gone."""
    fields = stat_fields(pid)
    return sum(map(int, fields[_TIMES])) * 1000 // TICKS_PER_S if len(fields) > _START_FIELD else 0


def is_dead(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    fields = stat_fields(pid)
    return not fields or fields[_STATE_FIELD] in ("Z", "X")


def environment(pid: int) -> dict[str, str]:
    """The environment a process was started with, as far as it may be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in data.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}


def marked(worker: str) -> Iterator[tuple[int, str]]:
    """Every process on this machine that a task of `worker` started, with its mark."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        found = environment(int(name))
        if found.get(WORKER_MARK) == worker and MARK in found:
            yield int(name), found[MARK]


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group, if it is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes, those that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def signal_tree(pid: int, number: signal.Signals) -> None:
    """Signal a task's group and its descendants outside of it. `pid` leads the group and is not reaped yet."""
    below = descendants(pid)[1:]
    signal_group(pid, number)
    if below:
        signal_all(below, number)
