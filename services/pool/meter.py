"""What a job has used of what is held for it: a counter that needs no look at its tasks. Pure.

Ended attempts count as the pool's facts say (`Counted`), running ones by the pool's own clock since their worker said
that they run. Nothing is charged by this: it tells when more must be held, and what a job may cost in the end.
"""

import msgspec

from events.job import Cost, price
from events.units import HOUR_MS

NEARLY_PERCENT = 80
"""A hold is nearly used up when so much of it is."""
MORE_PART = 4
"""Each extension is at least one in so many parts of what was used: a job that runs for days asks seldom."""


class Meter(msgspec.Struct, gc=False):
    """A job's. `total`: what is held, since its beginning. `tasks` and `ms` counted by now. `since`: when (ms) each running
    task was first said to run. `due`: when to look at it again (ms; 0: not by itself). `asked`: whether the ledger was
    asked for more and has not answered; `stops_at`: when the job is stopped, 0: it is not.
    """

    cost: Cost
    total: int
    tasks: int = 0
    ms: int = 0
    since: dict[int, int] = {}
    since_sum: int = 0
    due: int = 0
    asked: bool = False
    stops_at: int = 0

    @property
    def charged(self) -> int:
        """What the ended attempts cost, µCPT."""
        return price(self.cost, self.tasks, self.ms)

    def used(self, now: int) -> int:
        """What it cost by `now` (ms), running tasks included, µCPT."""
        running_ms = max(0, len(self.since) * now - self.since_sum)
        return price(self.cost, self.tasks, self.ms + running_ms)

    def start(self, task: int, at: int) -> None:
        """The task runs."""
        if task not in self.since:
            self.since[task] = at
            self.since_sum += at

    def end(self, task: int) -> None:
        """It does not any more."""
        self.since_sum -= self.since.pop(task, 0)

    def next_look(self, now: int) -> int:
        """When what is held will nearly be used up, as the job runs now (ms); 0: never."""
        if self.stops_at:
            return 0 if self.asked else self.stops_at
        if self.asked or not self.cost.each_ms:
            return 0
        nearly = self.total * NEARLY_PERCENT // 100
        if nearly <= self.charged:
            return now
        reached = self._reaches(nearly)
        return max(now, reached) if reached else 0

    def _reaches(self, amount: int) -> int:
        """When so much will be used, as it runs now (ms); 0: never."""
        left = amount - self.charged
        if left <= 0 or not self.since or not self.cost.per_hour:
            return 0
        needed_ms = -(-left * HOUR_MS // self.cost.per_hour) + self.since_sum
        return -(-needed_ms // len(self.since))

    def ends_at(self) -> int:
        """When what is held will be used up, as the job runs now (ms); 0: it is, or nobody can say."""
        return self._reaches(self.total) if self.cost.each_ms else 0

    def wanted(self, now: int, count: int, left: int) -> int:
        """How much more would let it go on, `left` of its `count` tasks not being over, µCPT."""
        if not self.cost.each_ms:  # what is held was enough for every task once: some were tried again
            return max(1, -(-self.cost.hold * left // count) - (self.total - self.charged))
        some = price(self.cost, 0, self.cost.each_ms * max(1, len(self.since)))
        return max(1, some, self.used(now) // MORE_PART)
