"""What the pool is asked in the tests of its properties: a few names, so that commands collide, and machines and needs."""

from hypothesis import strategies as st

from events.base import runs_of
from events.job import Retries
from events.task import AttemptEnd
from events.worker import Capacity
from tests.pool_support import GIB, gpus

JOBS = st.sampled_from([f"j{n}" for n in range(8)])
WORKERS = st.sampled_from(["w1", "w2"])
CAPACITIES = st.builds(
    Capacity,
    st.sampled_from([1000, 2000, 4000]),
    st.sampled_from([GIB, 4 * GIB]),
    st.sampled_from([("process", "noop")] * 4 + [("noop",)]),
    gpus=st.sampled_from([(), tuple(gpus(2, 4)), tuple(gpus(1, 4))]),
)
GPU_NEEDS = st.sampled_from(
    [(0, 0, "")] * 4 + [(1000, 0, ""), (500, 0, ""), (250, GIB, "a100"), (2000, 2 * GIB, ""), (500, 3 * GIB, "h100")]
)
RETRIES = st.builds(
    Retries,
    exit=st.integers(0, 2),
    oom=st.integers(0, 1),
    timeout=st.just(1),
    lost=st.integers(0, 2),
    rejected=st.integers(0, 1),
    output_lost=st.just(1),
    backoff_ms=st.sampled_from([0, 1000]),
)
MOSTLY_EXITS: list[AttemptEnd] = [
    "exit",
    "exit",
    "exit",
    "exit",
    "exit",
    "exit",
    "oom",
    "timeout",
    "lost",
    "cancelled",
    "rejected",
    "returned",
]
ENDS = st.sampled_from(MOSTLY_EXITS)
TASKS = st.sets(st.integers(0, 5), min_size=1).map(lambda numbers: runs_of(sorted(numbers)))
