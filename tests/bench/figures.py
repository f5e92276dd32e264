"""What a benchmark says: one JSON object, with its peer's figure from the same run."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

PEERS = Path(__file__).parent / "peers"
PEER_S = 600


class Figure(msgspec.Struct, frozen=True):
    """The median of `runs`; `ratio` is value / peer's value, or peer's / value where less is better. `limit`: what the
    machine itself gives, where that can be measured; `parts`: of what the figure is made.
    """

    bench: str
    value: float
    unit: str
    runs: list[float]
    p50_ms: float | None = None
    p99_ms: float | None = None
    peer: dict[str, Any] | None = None
    ratio: float | None = None
    commit: str = ""
    machine: str = ""
    limit: dict[str, Any] | None = None
    parts: dict[str, dict[str, float]] | None = None


def quantile(values: list[float], part: float) -> float:
    """The value below which `part` of `values` lie."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3)


def median(values: list[float]) -> float:
    """The middle of `values`."""
    return round(statistics.median(values), 3)


def peer(python: str, script: str, count: int) -> dict[str, Any]:
    """Run one of `peers/` with another interpreter; what it printed last. Raises RuntimeError."""
    done = subprocess.run(
        [python, str(PEERS / script), str(count)], capture_output=True, text=True, timeout=PEER_S, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"peer {script} failed ({done.returncode}): {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def commit() -> str:
    """The commit that is measured, with + when the tree differs from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> str:
    """What kind of machine this is, without its name."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {sys.version.split()[0]}, {platform.system()}"
