"""The demo's input: the source files of the Python standard library on this machine, dealt out to tasks."""

import heapq
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

TASKS_MIN = 300
FILES_A_TASK = 2
SKIPPED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Installed packages are no part of the library; its tests are three times as large as itself."""


class Source(NamedTuple):
    """A file: where it is, its path in the library, and its bytes."""

    path: Path
    name: str
    size: int


def find_sources(library: Path | None = None) -> list[Source]:
    """Every Python file of the library but its tests, by name; with the tests when there are too few without."""
    root = library or Path(sysconfig.get_path("stdlib"))
    found = _walk(root, SKIPPED)
    if len(found) < TASKS_MIN:
        found = _walk(root, SKIPPED - {"test", "tests", "idle_test"})
    return found


def _walk(root: Path, skipped: frozenset[str]) -> list[Source]:
    found: list[Source] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - skipped)
        for file in sorted(files):
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if file.endswith(".py") and name.isprintable() and path.is_file():
                found.append(Source(path, name, path.stat().st_size))
    return found


def deal(sources: list[Source]) -> list[list[Source]]:
    """The sources in shares of about equal size, one share a task, at least TASKS_MIN where there are as many files."""
    count = min(len(sources), max(TASKS_MIN, len(sources) // FILES_A_TASK))
    shares: list[list[Source]] = [[] for _ in range(count)]
    smallest = [(0, 0, at) for at in range(count)]
    for source in sorted(sources, key=lambda s: s.size, reverse=True):
        size, number, at = heapq.heappop(smallest)
        shares[at].append(source)
        heapq.heappush(smallest, (size + source.size, number + 1, at))
    return shares
