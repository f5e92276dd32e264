"""How often something may be done: counted by name, in memory, within a window. Pure.

Time is an argument, in seconds. What was counted is forgotten when the window is over, when somebody succeeds, and,
the oldest first, when too much would be kept.
"""

import math
from collections import OrderedDict

WINDOW_S = 300.0
COUNTS_MAX = 50_000


class Throttle:
    """Counts failures. A name is counted until WINDOW_S after its first failure, then from the beginning."""

    def __init__(self, failures_max: int, window_s: float = WINDOW_S) -> None:
        self._failures_max, self._window_s = failures_max, window_s
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, name: str, now: float) -> int:
        """Seconds until `name` may try again; 0: now."""
        if self.failures(name, now) < self._failures_max:
            return 0
        _, since = self._counts.get(name, (0, now))
        return max(1, math.ceil(since + self._window_s - now))

    def failures(self, name: str, now: float) -> int:
        """How often `name` failed within the window."""
        failures, since = self._counts.get(name, (0, now))
        return 0 if now - since >= self._window_s else failures

    def failed(self, name: str, now: float) -> None:
        """Count a failure. Counted before it is known how a try ends, many at once cannot pass."""
        failures = self.failures(name, now)
        since = self._counts[name][1] if failures else now
        self._counts[name] = (failures + 1, since)
        if len(self._counts) > COUNTS_MAX:
            self._counts.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forget the failures of `name`."""
        self._counts.pop(name, None)

    def took_back(self, name: str) -> None:
        """One that was counted was none after all."""
        failures, since = self._counts.get(name, (0, 0.0))
        if failures > 1:
            self._counts[name] = (failures - 1, since)
        else:
            self._counts.pop(name, None)
