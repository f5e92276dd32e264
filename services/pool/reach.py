"""Which machines could ever take a task. Pure."""

from events.base import WorkerId
from events.needs import offers, told
from events.units import size_text
from services.pool.state import Pool, ShapeKey, Worker

REACH_MAX = 10_000


def unplaceable(state: Pool, shape: ShapeKey) -> str:
    """Why no known machine could ever take a task of this shape; "" when one could, or when none is known yet.

    Remembered until a worker changes: with many workers looking costs more than the rest of a submission.
    """
    why = state.reach.get(shape)
    if why is None:
        if len(state.reach) >= REACH_MAX:
            state.reach.clear()
        why = state.reach[shape] = _unplaceable(state, shape)
    return why


def _unplaceable(state: Pool, shape: ShapeKey) -> str:
    known: list[Worker] = []
    for worker in state.workers.values():
        if worker.known:
            if worker.can_ever(shape):
                return ""
            known.append(worker)
    if not known:
        return ""
    kind, cpus, memory = shape
    fit = [worker.capacity for worker in known if offers(worker.capacity, kind)]
    if not fit:
        return f"needs a worker that can run {told(kind)}; none of the {len(known)} known can"
    most_cpus, most_memory = max(c.cpus_milli for c in fit), max(c.memory_bytes for c in fit)
    needs = f"{cpus / 1000:g} CPUs" + (f" and {size_text(memory)} of memory" if memory else "")
    most = f"{most_cpus / 1000:g} CPUs, and {size_text(most_memory)}"
    return f"needs {needs} on one machine; the most any has is {most}"


def another(state: Pool, worker: WorkerId, shape: ShapeKey) -> bool:
    """Whether some other machine could be given a task of this shape."""
    return any(w.takes and w.id != worker and w.can_ever(shape) for w in state.workers.values())
