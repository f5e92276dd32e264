"""How far ahead of its capacity a worker asks for tasks: only as far as tasks are short. Pure."""

from events.protocol import AHEAD_MAX

WINDOW_MS = 400
"""How much work to have ready, in the time that it takes one slot. Longer tasks are not asked for ahead at all: waiting
for the next order costs them little, and another worker may be idle.
"""
SHORTEST_MS = 0.5
WEIGHT = 0.2
IDLE_MS = 1000
"""After this long without work, what was measured says nothing about what comes next."""


class Pace:
    """The measured duration of recent tasks."""

    __slots__ = ("_last", "_mean")

    def __init__(self) -> None:
        self._mean: float | None = None
        self._last = 0

    def note(self, took_ms: int, now: int) -> None:
        """A task held its place for this long."""
        self._mean = took_ms if self._mean is None else self._mean + WEIGHT * (took_ms - self._mean)
        self._last = now

    def ahead(self, now: int, oldest: int | None) -> int:
        """How many times its capacity the worker may hold beyond it. `oldest`: since when the oldest task runs."""
        if self._mean is None or (oldest is None and now - self._last > IDLE_MS):
            return 0
        mean = max(self._mean, now - oldest if oldest is not None else 0)
        return min(AHEAD_MAX, int(WINDOW_MS / max(mean, SHORTEST_MS)))
