"""A task that runs as a process of this machine, as its executor knows it."""

import asyncio
import time

from events.protocol import Run
from events.task import AttemptEnd
from worker.executors.base import Box
from worker.executors.mean import Mean
from worker.state import Key

YOUNG_S = 0.01
"""A task that has run for less is not watched yet."""


def group_of(lease: int, index: int) -> str:
    """What a task's control group is called."""
    return f"{lease}.{index}"


class Process:
    """A running task."""

    __slots__ = (
        "began",
        "box",
        "cpu_ms",
        "end",
        "gate",
        "grace",
        "key",
        "limit",
        "looks_at",
        "memory",
        "order",
        "peak",
        "pid",
        "pidfd",
        "pipes",
        "reason",
        "started_at",
        "watched",
    )

    def __init__(self, order: Run, key: Key, pid: int, pidfd: int, pipes: list[int], began: float) -> None:
        self.order, self.key, self.pid, self.pidfd, self.pipes, self.began = order, key, pid, pidfd, pipes, began
        self.started_at = time.time_ns() // 1_000_000
        self.watched = False
        self.peak = self.cpu_ms = 0
        self.memory = Mean(began)
        self.looks_at = began + YOUNG_S
        self.end: AttemptEnd | None = None
        """Why we ended it, when we did."""
        self.reason = ""
        self.box: Box | None = None
        self.gate: tuple[int, bytes] | None = None
        """Where to write what, and then to close, for the task to go on in its box."""
        self.limit: asyncio.TimerHandle | None = None
        self.grace: asyncio.TimerHandle | None = None
