"""Slows down whoever guesses: wrong passwords by account and by address, registrations by address. Counted in Postgres, so
that it holds for all processes of a hive together, and over their restarts. Raises DatabaseAway.
"""

import math
import time
from collections.abc import Mapping

from infra.failure_store import FailureStore

WINDOW_S = 300
ACCOUNT_FAILURES_MAX = 10
ADDRESS_FAILURES_MAX = 50
"""More than one account's: many people can come from one address."""
REGISTRATIONS_MAX = 20
"""From one address."""
LIMITS = {"account": ACCOUNT_FAILURES_MAX, "address": ADDRESS_FAILURES_MAX, "registration": REGISTRATIONS_MAX}
"""Of each kind of name, which stands before its colon."""


class Throttled(Exception):
    """Too many failures, by this account or from this address; try again after `wait_s` seconds."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many failures; try again in {wait_s} s")
        self.wait_s = wait_s


class Failures:
    """Counts by name, such as `account:ada`. One is counted until WINDOW_S after its first failure, then from the beginning."""

    def __init__(self, store: FailureStore) -> None:
        self._store = store

    async def check(self, *names: str) -> list[int]:
        """How often each of these failed within the window. Raises Throttled when one did too often."""
        found = await self._store.look(names, _now())
        _check({name: (failures + 1, since) for name, (failures, since) in found.items()})
        return [found[name][0] if name in found else 0 for name in names]

    async def count(self, *names: str) -> None:
        """Count a failure, before it is known how a try ends: many at once do not pass. Raises Throttled."""
        _check(await self._store.count(names, _now()))

    async def succeeded(self, name: str) -> None:
        """Forget the failures of `name`."""
        await self._store.forget(name)

    async def took_back(self, *names: str) -> None:
        """What was counted was none after all."""
        for name in names:  # one after the other: no lock is held while waiting for another
            await self._store.take_back(name)

    async def forget_over(self) -> None:
        """Forget what counts no more."""
        await self._store.forget_over(_now())


def _check(counts: Mapping[str, tuple[int, int]]) -> None:
    """Raise Throttled for a count that goes beyond its limit."""
    over = [since for name, (failures, since) in counts.items() if failures > LIMITS[name.partition(":")[0]]]
    if over:
        raise Throttled(max(1, math.ceil((max(over) + WINDOW_S * 1000 - _now()) / 1000)))


def _now() -> int:
    return time.time_ns() // 1_000_000
