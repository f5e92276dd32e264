"""What every projection is: a name, a version, a first state, and how one message changes the state.

`apply` consumes its state: it changes it in place, does no I/O, reads no clock, and nobody may keep the old one.
A snapshot is a cache: a stored one with another version is ignored, and deleting it is always safe.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from events.base import Runs
from events.catalog import Message

State = TypeVar("State")


@dataclass(frozen=True)
class Projection(Generic[State]):
    """`apply(state, message, position)`; `pack` gives the state in pieces of bounded size, `unpack` takes them back."""

    name: str
    version: int
    initial: Callable[[], State]
    apply: Callable[[State, Message, int], None]
    pack: Callable[[State], Iterator[bytes]]
    unpack: Callable[[Iterable[bytes]], State]


NUMBER_BITS = 16


def number_of(position: int, n: int) -> int:
    """One ascending number for the event `n` of the message at `position` (a message never holds 65,536 events)."""
    return position << NUMBER_BITS | n


def position_in(number: int) -> int:
    """The position of the message that holds the event with this number."""
    return number >> NUMBER_BITS


def size(runs: Runs) -> int:
    """`events.base.size_of`, quick for the usual single run."""
    if len(runs) == 2:
        return runs[1] - runs[0] + 1
    return sum(runs[1::2]) - sum(runs[::2]) + len(runs) // 2


def pairs(runs: Runs) -> Iterator[tuple[int, int]]:
    """Each run as (first, last)."""
    return zip(runs[::2], runs[1::2], strict=True)
