"""How often somebody may ask: a bucket each, filled evenly, that holds one minute's worth."""

import math
from collections import OrderedDict

BUCKETS_MAX = 10_000
MINUTE_S = 60.0


class Rates:
    """Buckets by name."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, per_min: int, now: float) -> int:
        """Count a request of `name`, who may make `per_min` (0: any number) at `now` (s); 0 when it may go on, else
        the seconds to wait.
        """
        if not per_min:
            return 0
        left, since = self._buckets.get(name, (float(per_min), now))
        left = min(float(per_min), left + (now - since) * per_min / MINUTE_S)
        if left < 1:
            return max(1, math.ceil((1 - left) * MINUTE_S / per_min))
        self._buckets[name] = (left - 1, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return 0
