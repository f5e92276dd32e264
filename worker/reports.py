"""How ends become reports: many tasks an item, bounded messages. Pure."""

from collections.abc import Iterable, Sequence

from events.base import Runs, runs_of, size_of
from events.protocol import REPORT_TASKS_MAX, Ended
from events.task import Detail

REPORT_BYTES_MAX = 384 * 1024
"""Of one report, estimated: the platform writes what it says in one message of 512 KiB at most."""
REPORT_ITEMS_MAX = 2000
DETAIL_BYTES = 200
FILE_BYTES = 100
ITEM_BYTES = 120
BOUND_BYTES = 5


def merge(ends: Iterable[Ended]) -> list[Ended]:
    """The same ends with fewer items: tasks of one lease that ended alike are one, ascending, details in their order."""
    groups: dict[tuple[int, str, int, str, bool], list[Ended]] = {}
    for ended in ends:
        key = (ended.lease, ended.end, ended.code, ended.reason, bool(ended.details))
        group = groups.get(key)
        if group is None:
            groups[key] = [ended]
        else:
            group.append(ended)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(group: Sequence[Ended]) -> Ended:
    first = group[0]
    ordered = sorted(group, key=lambda ended: ended.tasks[0])
    if not first.details:
        return Ended(
            first.lease, first.job, join(ended.tasks for ended in ordered), first.end, first.code, first.reason
        )
    # With details each has one task: items are merged once, from single ends.
    tasks = runs_of(ended.tasks[0] for ended in ordered)
    details: list[Detail] = [ended.details[0] for ended in ordered]
    return Ended(first.lease, first.job, tasks, first.end, first.code, first.reason, details)


def join(many: Iterable[Runs]) -> Runs:
    """One set of runs from disjoint ones that may interleave."""
    bounds = sorted((runs[at], runs[at + 1]) for runs in many for at in range(0, len(runs), 2))
    joined: Runs = []
    for low, high in bounds:
        if joined and joined[-1] + 1 == low:
            joined[-1] = high
        else:
            joined += (low, high)
    return joined


def weight(ended: Ended) -> int:
    """About how many bytes an item takes in a message."""
    size = ITEM_BYTES + len(ended.reason) + BOUND_BYTES * len(ended.tasks)
    for detail in ended.details:
        size += DETAIL_BYTES + FILE_BYTES * len(detail.results)
    return size


def take(ends: list[Ended]) -> int:
    """How many of these, from the first on, go into one report."""
    tasks = size = 0
    for at, ended in enumerate(ends):
        tasks += size_of(ended.tasks) if ended.details else 1
        size += weight(ended)
        if at and (tasks > REPORT_TASKS_MAX or size > REPORT_BYTES_MAX):
            return at
    return len(ends)
