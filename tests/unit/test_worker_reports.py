"""How ends of attempts are put together for reports."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from events.base import check_runs, expand, runs_of
from events.protocol import REPORT_TASKS_MAX, Ended
from events.task import Detail, FileRef
from worker.reports import REPORT_BYTES_MAX, join, merge, take, weight

HOW = st.tuples(st.sampled_from((1, 2)), st.sampled_from(("exit", "oom")), st.sampled_from((0, 1)), st.booleans())


@given(st.dictionaries(st.tuples(st.sampled_from((1, 2)), st.integers(0, 12)), st.tuples(HOW, st.booleans())))
def test_merging_says_the_same_with_fewer_items(drawn: dict[tuple[int, int], Any]) -> None:
    singles = [
        Ended(lease, f"j{lease}", [index, index], end, code, "", [Detail(wall_ms=index)] if detailed else [])
        for (lease, index), ((_, end, code, detailed), _) in drawn.items()
    ]
    merged = merge(singles)
    assert len(merged) <= len(singles)
    told = {
        (item.lease, index): (item.end, item.code, item.details[at].wall_ms if item.details else None)
        for item in merged
        for at, index in enumerate(expand(item.tasks))
    }
    assert told == {
        (one.lease, one.tasks[0]): (one.end, one.code, one.tasks[0] if one.details else None) for one in singles
    }
    assert all(check_runs(item.tasks, 13) is None for item in merged)


@given(st.lists(st.integers(0, 40), unique=True), st.integers(1, 4))
def test_joining_runs(numbers: list[int], parts: int) -> None:
    assert join(runs_of(sorted(numbers[part::parts])) for part in range(parts)) == runs_of(sorted(numbers))


def test_one_report_is_bounded_by_tasks_and_by_bytes() -> None:
    singles = [Ended(1, "j1", [n, n]) for n in range(REPORT_TASKS_MAX + 5)]
    assert take(singles) == REPORT_TASKS_MAX
    big = [
        Ended(1, "j1", [n, n], details=[Detail(results=[FileRef(i, "0" * 64, 1) for i in range(1000)])])
        for n in range(9)
    ]
    count = take(big)
    assert count > 0
    assert sum(map(weight, big[:count])) <= REPORT_BYTES_MAX < sum(map(weight, big[: count + 1]))


def test_one_that_is_too_large_alone_goes_alone() -> None:
    huge = Ended(1, "j1", [0, 0], details=[Detail(results=[FileRef(i, "0" * 64, 1) for i in range(10_000)])])
    assert take([huge, huge]) == 1
