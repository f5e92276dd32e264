"""What a worker is given of a queue of many sizes is what a plain walk over all jobs, one by one, would give it."""

from hypothesis import example, given
from hypothesis import strategies as st

from events.base import size_of
from tests.pool_support import GIB, Story

CPUS = st.one_of(st.sampled_from([0, 1, 3200, 3200]), st.integers(600, 1020), st.integers(0, 4500))
"""Many are of one class, and only some of them fit beside one of 3200."""
MEMORY = st.one_of(st.sampled_from([0, 1, GIB]), st.integers(0, 9 * GIB))
JOBS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 5, 10]), CPUS, MEMORY), max_size=25)


@example([(1, 5, 3200, 0), (1, 5, 1020, 0), (1, 5, 1000, 0), (1, 5, 1010, 0), (1, 5, 700, 0)], 0, -1)
@given(JOBS, st.integers(0, 2), st.sampled_from([-1, -1, 3]))
def test_the_queue_is_served_as_if_every_job_was_looked_at(
    asked: list[tuple[int, int, int, int]], ahead: int, room: int
) -> None:
    story = Story().worker("w0", cpus=9, memory=99 * GIB).worker(cpus=4, memory=8 * GIB)
    for n, (count, priority, cpus, memory) in enumerate(asked):
        story.job(f"j{n}", count, priority=priority, cpus_milli=cpus, memory_bytes=memory)
    cpus_left, memory_left, left = 4000 * (1 + ahead), 8 * GIB * (1 + ahead), room if room >= 0 else 10**9
    expected: list[tuple[str, int]] = []
    for n, (count, _, cpus, memory) in sorted(enumerate(asked), key=lambda one: (-one[1][1], one[0])):
        fits = min(cpus_left // cpus if cpus else left, memory_left // memory if memory else left, left, count)
        if fits and cpus <= 4000 and memory <= 8 * GIB:
            expected.append((f"j{n}", fits))
            cpus_left, memory_left, left = cpus_left - fits * cpus, memory_left - fits * memory, left - fits
    given_ = [(job, size_of(tasks)) for job, tasks, _, _ in story.leases("w1", room, ahead)]
    assert given_ == expected
