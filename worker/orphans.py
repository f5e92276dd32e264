"""Processes that a task left behind: their parents died, so they became the agent's children. They are ended with
their task, and reaped.
"""

import contextlib
import os
import signal
import time

from worker import tree
from worker.state import Key

REST_ROUNDS_MAX, REST_PAUSE_S = 100, 0.001


class Orphans:
    """Looks after children of this process that it did not start. `owns_children`: nobody else in this process does."""

    def __init__(self, owns_children: bool) -> None:
        self._owns = owns_children
        self._adopts = tree.adopt_orphans(True)
        self._of: dict[int, Key] = {}
        self._unmarked: dict[int, set[Key]] = {}
        """Orphans that wiped their environment, with the tasks that may have started them."""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._of or self._unmarked)

    def close(self) -> None:
        """Stop adopting."""
        if self._adopts:
            tree.adopt_orphans(False)

    def of(self, key: Key) -> list[int]:
        """The orphans that a running task started."""
        return [pid for pid, owner in self._of.items() if owner == key] if self._of else []

    def end_all_of(self, key: Key, ours: set[int], others: set[Key]) -> None:
        """End what a task left that has ended, so that it is gone before anybody is told. Blocks, for a moment at most."""
        running = {f"{lease}.{index}": (lease, index) for lease, index in others}
        self.look(ours, {**running, f"{key[0]}.{key[1]}": key})  # meet them as its own
        for _ in range(REST_ROUNDS_MAX):
            self.look(ours, running)
            if key not in self._of.values() and {key} not in self._unmarked.values():
                return
            time.sleep(REST_PAUSE_S)

    def look(self, ours: set[int], running: dict[str, Key]) -> None:
        """End the orphans of tasks that are gone, and reap the dead. `running`: tasks by their mark."""
        if not self._adopts:
            return
        keys = set(running.values())
        for pid in tree.children(os.getpid()):
            if pid in ours:
                continue
            if tree.is_dead(pid):
                self._reap(pid)
            elif pid not in self._of and pid not in self._unmarked:
                self._meet(pid, running, keys)
        for pid, owner in list(self._of.items()):
            if owner not in keys:
                self._end(pid)
        for pid, suspects in list(self._unmarked.items()):
            if not suspects & keys:
                self._end(pid)

    def _meet(self, pid: int, running: dict[str, Key], keys: set[Key]) -> None:
        mark = tree.environment(pid).get(tree.MARK)
        if mark is not None:
            lease, _, index = mark.partition(".")
            gone = (int(lease), int(index)) if lease.isdigit() and index.isdigit() else (0, 0)
            self._of[pid] = running.get(mark, gone)
        elif self._owns:
            self._unmarked[pid] = keys

    def _reap(self, pid: int) -> None:
        if self._owns or pid in self._of or pid in self._unmarked:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            self._of.pop(pid, None)
            self._unmarked.pop(pid, None)

    def _end(self, pid: int) -> None:
        for each in tree.descendants(pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        if tree.is_dead(pid):
            self._reap(pid)
