"""What machines said of themselves lately, by their heartbeats: kept in memory, asked for by the API.

It may be gone at any time (the heartbeats themselves are kept a week in TELEMETRY); nothing is decided by it.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from events import protocol
from events.base import WorkerId
from events.hardware import Inventory
from events.protocol import Heartbeat
from infra.link import Link
from services.group import Group

HISTORY_S = 600
BEATS_MAX = 20_000
"""Heartbeats that are kept, of all workers together: with more than some 160 of them less than HISTORY_S are there."""
WORKERS_MAX = 20_000


class Heard(msgspec.Struct, gc=False):
    """What a worker said: its latest heartbeats, the last one's time of arrival (ms), and its inventory."""

    beats: deque[Heartbeat]
    at: int
    inventory: Inventory | None = None


def listen(link: Link, pool: str, group: Group) -> "Beats":
    """What the machines of `pool` say, from now on, as long as `group` runs."""
    beats = Beats(lambda: time.time_ns() // 1_000_000)
    group.start(beats.run(link, pool))
    return beats


class Beats:
    """Listens to the heartbeats of one pool. `clock` gives ms since 1970."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._heard: OrderedDict[WorkerId, Heard] = OrderedDict()
        self._kept = 0

    async def run(self, link: Link, pool: str) -> None:
        """Listen until cancelled."""
        subscription = await link.subscribe(f"hb.{pool}.*", self._received)
        try:
            await asyncio.Event().wait()
        finally:
            subscription.close()

    def _received(self, subject: str, reply: str, data: bytes) -> None:
        try:
            self.take(subject.rpartition(".")[2], protocol.heartbeat_of(data))
        except msgspec.DecodeError:
            return  # of another version; the pool's service counts such messages

    def take(self, worker: WorkerId, beat: Heartbeat) -> None:
        """Keep a heartbeat. When there are too many, the oldest of whoever was silent longest go first."""
        now = self._clock()
        heard = self._heard.get(worker)
        if heard is None:
            heard = self._heard[worker] = Heard(deque(), now)
        self._heard.move_to_end(worker)
        heard.at = now
        if beat.inventory is not None:
            heard.inventory = beat.inventory
            beat = msgspec.structs.replace(beat, inventory=None)
        heard.beats.append(beat)
        self._kept += 1
        while heard.beats[0].at < beat.at - HISTORY_S * 1000:
            heard.beats.popleft()
            self._kept -= 1
        while self._kept > BEATS_MAX or len(self._heard) > WORKERS_MAX:
            self._forget_some()

    def _forget_some(self) -> None:
        name, heard = next(iter(self._heard.items()))
        if len(heard.beats) > 1:
            heard.beats.popleft()
            self._heard.move_to_end(name)
            self._kept -= 1
        else:
            del self._heard[name]
            self._kept -= len(heard.beats)

    def of(self, worker: WorkerId) -> Heard | None:
        """What it said, if it said anything within HISTORY_S."""
        heard = self._heard.get(worker)
        return heard if heard is not None and self._clock() - heard.at <= HISTORY_S * 1000 else None
