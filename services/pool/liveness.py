"""Who was heard, and when. Silence counts only while this process itself ran and was connected: a pause of the control
plane or of its network never makes a worker look silent.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from events.base import WorkerId
from services.pool.state import Worker
from services.pool.worker import UNREACHABLE_MS

STEP_S_MAX = 1.5
"""A longer gap between two ticks was a pause of ours."""
ASK_EACH_S = 1.0


class Liveness:
    """Measures silence on a clock that stands still while we could not have heard anything."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last = monotonic()
        self._counted = 0.0
        self._heard: dict[WorkerId, float] = {}
        self._next = 0.0

    def advance(self, connected: bool) -> None:
        """Let the clock go on by what has passed, if we could have heard."""
        now = self._monotonic()
        if connected:
            self._counted += min(now - self._last, STEP_S_MAX)
        self._last = now

    def heard(self, worker: WorkerId) -> None:
        """Something came from `worker`."""
        self._heard[worker] = self._counted

    def restart(self, workers: Iterable[WorkerId]) -> None:
        """A takeover: everyone has a full grace from now on."""
        self._heard = dict.fromkeys(workers, self._counted)

    def silent(self, workers: Iterable[Worker]) -> Iterator[tuple[WorkerId, int]]:
        """The known workers that were silent for long, with how long in ms; asked for at most once a second."""
        if self._counted < self._next:
            return
        self._next = self._counted + ASK_EACH_S
        for worker in workers:
            if worker.known and (ms := self._silence_ms(worker.id)) >= UNREACHABLE_MS:
                yield worker.id, ms

    def returned(self, workers: Iterable[Worker]) -> Iterator[WorkerId]:
        """The workers taken for unreachable that were heard since."""
        for worker in workers:
            if worker.state == "unreachable" and self._silence_ms(worker.id) < UNREACHABLE_MS:
                yield worker.id

    def _silence_ms(self, worker: WorkerId) -> int:
        return int((self._counted - self._heard.setdefault(worker, self._counted)) * 1000)
