"""The average of what is looked at now and then, by time. Pure."""


class Mean:
    """A value over time: what was seen stands for the time since it was last looked at, what was seen last for the rest."""

    __slots__ = ("_area", "_began", "_last", "_until")

    def __init__(self, began: float) -> None:
        self._began = self._until = began
        self._area = 0.0
        self._last = 0

    def saw(self, value: int, now: float) -> None:
        """It is `value` at `now` (s)."""
        self._area += value * max(now - self._until, 0.0)
        self._until, self._last = max(now, self._until), value

    def over(self, end: float) -> int:
        """The average until `end` (s), rounded down; 0 when it was never looked at."""
        took = max(end, self._until) - self._began
        if took <= 0:
            return self._last
        return int((self._area + self._last * max(end - self._until, 0.0)) / took)
