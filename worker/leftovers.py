"""What an agent that was killed left running: found by what it wrote down and by the marks in the environment, and
ended at the next start. Adopting them instead will start from the same records.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from worker import tree
from worker.usage import boot_id

RECORD = "running"
ROUNDS_MAX = 50
PAUSE_S = 0.02

_log = structlog.get_logger()


class _Known(msgspec.Struct, frozen=True, gc=False):
    """Leaders of tasks (pid, start in clock ticks) that ran in this boot."""

    boot: str
    processes: list[tuple[int, int]]


_pack = msgspec.msgpack.Encoder().encode
_known_of = msgspec.msgpack.Decoder(_Known).decode


def note(folder: Path, pids: Iterable[int]) -> None:
    """Write down which processes run. Not fsynced: after a power cut there are none."""
    beside = folder / f"{RECORD}.new"
    beside.write_bytes(_pack(_Known(boot_id(), [(pid, tree.started(pid)) for pid in pids])))
    os.replace(beside, folder / RECORD)


def end_all(folder: Path, worker: str) -> int:
    """Kill what is left of earlier tasks of `worker`; how many processes there were. Blocks, for a second at most."""
    found: set[int] = set()
    for pid in _noted(folder):
        below = tree.descendants(pid)
        found.update(below)
        tree.signal_group(pid, signal.SIGKILL)
        tree.signal_all(below, signal.SIGKILL)
    for _ in range(ROUNDS_MAX):
        alive = [pid for pid, _ in tree.marked(worker) if pid != os.getpid()]
        if not alive:
            break
        found.update(alive)
        tree.signal_all(alive, signal.SIGKILL)
        time.sleep(PAUSE_S)
    with contextlib.suppress(FileNotFoundError):
        (folder / RECORD).unlink()
    if found:
        _log.warning("worker.leftovers_ended", processes=len(found))
    return len(found)


def _noted(folder: Path) -> list[int]:
    try:
        known = _known_of((folder / RECORD).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return []
    if known.boot != boot_id():
        return []
    return [pid for pid, ticks in known.processes if ticks and tree.started(pid) == ticks]
