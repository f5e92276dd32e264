"""Whose a process is: a task of this worker started it, or somebody else did."""

import os
from collections.abc import Collection

from worker import tree

PARENTS_MAX = 64
"""How far up its parents are asked."""
_PARENT_FIELD = 1


def is_own(pid: int, worker: str, containers: Collection[str] = ()) -> bool:
    """Whether `pid` belongs to a task of `worker`: it carries the worker's mark, a parent of it does, or it is in one of
    `containers` (their ids). A process that this agent may not look into is somebody else's.
    """
    here = pid
    for _ in range(PARENTS_MAX):
        if tree.environment(here).get(tree.WORKER_MARK) == worker and here != os.getpid():
            return True
        here = _parent(here)
        if here <= 1:
            break
    return bool(containers) and any(container in _cgroups(pid) for container in containers)


def _parent(pid: int) -> int:
    fields = tree.stat_fields(pid)
    return int(fields[_PARENT_FIELD]) if len(fields) > _PARENT_FIELD else 0


def _cgroups(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
