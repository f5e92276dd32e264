"""The base of every event, the ids they name, and runs: the compact form of a set of task numbers.

An event is a frozen Struct whose tag is permanent and written out, never derived from the class name. Tags and
field names are the storage format: fields are only ever added, with defaults.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, dataclass_transform

import msgspec

JobId: TypeAlias = str
WorkerId: TypeAlias = str
UserId: TypeAlias = str
Digest: TypeAlias = str
"""SHA-256 of some bytes, 64 lower-case hexadecimal digits."""
Runs: TypeAlias = list[int]
"""A set of task numbers as closed ranges, flat and ascending: [0, 2, 7, 7] is {0, 1, 2, 7}."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type"):
    """Something that happened. Tags and field names are the storage format."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """What a user typed, encrypted under a data key. Destroying the key erases the text and leaves the event valid."""

    key: str
    data: bytes


def runs_of(numbers: Iterable[int]) -> Runs:
    """The runs of ascending, distinct `numbers`."""
    runs: Runs = []
    last = None
    for number in numbers:
        if last is not None and number == last + 1:
            runs[-1] = number
        else:
            runs += (number, number)
        last = number
    return runs


def expand(runs: Runs) -> Iterator[int]:
    """Each number in `runs`, ascending."""
    for at in range(0, len(runs), 2):
        yield from range(runs[at], runs[at + 1] + 1)


def size_of(runs: Runs) -> int:
    """How many numbers `runs` holds."""
    return sum(runs[1::2]) - sum(runs[::2]) + len(runs) // 2


def holds(runs: Runs, number: int) -> bool:
    """Whether `number` is in `runs`, without expanding them."""
    at = bisect_left(runs, number)
    return at % 2 == 1 or (at < len(runs) and runs[at] == number)


def check_runs(runs: Runs, count: int) -> str | None:
    """Why `runs` is not a well-formed, non-empty set of numbers below `count`; None when it is."""
    if not runs or len(runs) % 2:
        return "runs need an even, non-zero number of bounds"
    last = -1
    for at in range(0, len(runs), 2):
        if not last < runs[at] <= runs[at + 1] < count:
            return f"the run {runs[at]}-{runs[at + 1]} is out of order or outside 0-{count - 1}"
        last = runs[at + 1]
    return None


def tag_of(event: type[Event] | Event) -> str:
    """The permanent name of an event, such as `job.submitted`."""
    config: Any = event.__struct_config__
    return config.tag
