"""What is held for each open job that costs something. Pure; a part of the ledger's books."""

from typing import Protocol

import msgspec

from events.base import UserId
from events.job import Cost
from events.ledger import ChargePosted, HoldExtended, HoldId, HoldPlaced, HoldReleased, HoldShort


class Hold(msgspec.Struct, gc=False):
    """Of one job, in µCPT: `total` was set aside since it was handed in, `charged` of that is paid. `tasks` and `ms` count
    what ended; `charges` numbers the charges. `stops_at` (ms): when it is stopped for want of money; 0: it is not. The
    rest is what one of its tasks reserves.
    """

    owner: UserId
    cost: Cost
    total: int
    charged: int = 0
    tasks: int = 0
    ms: int = 0
    charges: int = 0
    stops_at: int = 0
    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus_milli: int = 0


class Holding(Protocol):
    """Whatever has holds."""

    holds: dict[HoldId, Hold]


def placed(books: Holding, event: HoldPlaced, at: int) -> None:
    """A hold begins."""
    if event.cost is not None:
        reserved = event.cpus_milli, event.memory_bytes, event.gpus_milli
        books.holds[event.hold] = Hold(event.owner, event.cost, event.total, 0, 0, 0, 0, 0, *reserved)


def extended(books: Holding, event: HoldExtended, at: int) -> None:
    """More is held."""
    hold = books.holds[event.hold]
    hold.total, hold.stops_at = event.total, 0


def short(books: Holding, event: HoldShort, at: int) -> None:
    """There is no more to be held."""
    books.holds[event.hold].stops_at = event.stops_at


def charged(books: Holding, event: ChargePosted, at: int) -> None:
    """Something was paid."""
    hold = books.holds[event.hold]
    hold.charged += event.price
    hold.tasks += event.counted
    hold.ms += event.counted_ms
    hold.charges += 1


def released(books: Holding, event: HoldReleased, at: int) -> None:
    """The hold is over."""
    del books.holds[event.hold]
