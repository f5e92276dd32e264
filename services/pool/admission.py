"""What one worker may send, decided before anything is decoded or reaches the writer. Pure: times (s) are arguments.

Each worker has a meter for each kind of message: so many a second, so many bytes a second, and so many that wait for
their answer. An agent has one request of a kind on its way, so that its rate is bounded by the round trip: the limits
lie well above what any did in a benchmark. What is beyond is refused, told so a few times a second and otherwise
dropped: an answer each would be a flood itself. Who goes on in spite of that has a flood noticed.
"""

from collections import OrderedDict
from typing import Literal, TypeAlias

import msgspec

from events.base import WorkerId

Kind: TypeAlias = Literal["report", "poll", "hello", "output", "heartbeat"]
Verdict: TypeAlias = Literal["take", "slow_down", "drop", "flood"]

MIB = 1024 * 1024


class Limit(msgspec.Struct, frozen=True, gc=False):
    """What one worker may send of one kind. `open_max`: how many may wait for their answer, 0: it is not counted."""

    per_s: float
    bytes_per_s: float
    open_max: int = 0


LIMITS: dict[Kind, Limit] = {
    "report": Limit(2000, 64 * MIB, 4),
    "poll": Limit(2000, 16 * MIB),
    "hello": Limit(5, 4 * MIB),
    "output": Limit(2000, 128 * MIB),
    "heartbeat": Limit(5, 64 * 1024),
}
"""Of hellos, which are polls as well, there are few: at a start, and after a takeover or a resync. An agent whose answer
is late sends the same report again: a few may wait, not many.
"""
BURST_S = 4.0
"""What was not used of the last seconds may be sent at once."""
ANSWERS_PER_S = 10.0
REFUSED_MAX = 500
REFUSED_BYTES_MAX = 32 * MIB
"""After so many refused messages, or bytes of them, within PATIENCE_S it is a flood: whoever waits after a `slow_down`,
and longer each time, gets nowhere near.
"""
PATIENCE_S = 10.0
NOTICED_EACH_S = 2.0
METERS_MAX = 20_000
"""More than workers can be connected; the one that was silent for longest goes."""
IDLE_S = 60.0
FORGET_AT_ONCE_MAX = 4


class _Bucket:
    """Fills with `per_s`, and holds what comes in `burst_s`. Kept as the time at which it is full again."""

    __slots__ = ("_burst_s", "_each_s", "_full_at")

    def __init__(self, per_s: float, burst_s: float = BURST_S) -> None:
        self._each_s, self._burst_s, self._full_at = 1 / per_s, burst_s, 0.0

    def room(self, amount: float, now: float) -> bool:
        """Whether it holds so much; what is more than a whole bucket fits when it is full."""
        used_s = max(self._full_at - now, 0.0)
        return not used_s or used_s + amount * self._each_s <= self._burst_s

    def take(self, amount: float, now: float) -> None:
        """Use so much of it."""
        self._full_at = max(self._full_at, now) + amount * self._each_s


class _Meter:
    """One worker's. `open`: reports that wait for their answer."""

    __slots__ = ("answers", "buckets", "noticed_at", "open", "refused", "refused_bytes", "seen_at")

    def __init__(self) -> None:
        self.buckets: dict[Kind, tuple[_Bucket, _Bucket]] = {}
        self.open: dict[Kind, int] = {}
        self.answers: _Bucket | None = None
        self.refused: _Bucket | None = None
        self.refused_bytes: _Bucket | None = None
        self.seen_at = self.noticed_at = 0.0


class Admission:
    """The meters of all workers."""

    def __init__(self, limits: dict[Kind, Limit] = LIMITS) -> None:
        self._limits = limits
        self._meters: OrderedDict[WorkerId, _Meter] = OrderedDict()

    def admit(self, worker: WorkerId, kind: Kind, size: int, now: float) -> Verdict:
        """Whether a message of `size` bytes is taken, refused with an answer, or dropped (`flood`: and somebody should
        know). What is taken of a kind whose open ones are counted is open until `done`.
        """
        meter = self._meter(worker, now)
        buckets = meter.buckets.get(kind)
        limit = self._limits[kind]
        if buckets is None:
            buckets = meter.buckets[kind] = _Bucket(limit.per_s), _Bucket(limit.bytes_per_s)
        count, volume = buckets
        waiting = meter.open.get(kind, 0)
        if (limit.open_max and waiting >= limit.open_max) or not (count.room(1, now) and volume.room(size, now)):
            return self._refuse(meter, size, now)
        count.take(1, now)
        volume.take(size, now)
        if limit.open_max:
            meter.open[kind] = waiting + 1
        return "take"

    def blame(self, worker: WorkerId, size: int, now: float) -> bool:
        """A message that was taken should not have been sent: it counts as a refused one. Whether that is a flood of them."""
        return self._refuse(self._meter(worker, now), size, now) == "flood"

    @staticmethod
    def _refuse(meter: _Meter, size: int, now: float) -> Verdict:
        if meter.answers is None or meter.refused is None or meter.refused_bytes is None:
            meter.answers = _Bucket(ANSWERS_PER_S, 1.0)
            meter.refused = _Bucket(REFUSED_MAX / PATIENCE_S, PATIENCE_S)
            meter.refused_bytes = _Bucket(REFUSED_BYTES_MAX / PATIENCE_S, PATIENCE_S)
        if meter.refused.room(1, now) and meter.refused_bytes.room(size, now):
            meter.refused.take(1, now)
            meter.refused_bytes.take(size, now)
        elif now >= meter.noticed_at:
            meter.noticed_at = now + NOTICED_EACH_S
            return "flood"
        if meter.answers.room(1, now):
            meter.answers.take(1, now)
            return "slow_down"
        return "drop"

    def _meter(self, worker: WorkerId, now: float) -> _Meter:
        meter = self._meters.get(worker)
        if meter is None:
            meter = self._meters[worker] = _Meter()
        else:
            self._meters.move_to_end(worker)
        meter.seen_at = now
        self._forget(now)
        return meter

    def _forget(self, now: float) -> None:
        """Drop some of those that were silent for long, and the most silent one where there are too many."""
        for _ in range(FORGET_AT_ONCE_MAX):
            silent_s = now - next(iter(self._meters.values())).seen_at
            if silent_s <= IDLE_S and len(self._meters) <= METERS_MAX:
                return
            self._meters.popitem(last=False)

    def done(self, worker: WorkerId, kind: Kind) -> None:
        """A message that was taken has its answer."""
        meter = self._meters.get(worker)
        if meter is not None and meter.open.get(kind, 0):
            meter.open[kind] -= 1

    def reset(self) -> None:
        """What was open gets no answer here any more."""
        for meter in self._meters.values():
            meter.open.clear()

    def __len__(self) -> int:
        """How many workers have a meter."""
        return len(self._meters)
