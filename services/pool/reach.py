"""Which machines could ever take a task. Pure."""

from events.base import WorkerId
from events.needs import offers, told
from events.units import size_text
from events.worker import Capacity
from services.pool.gpus import can_ever
from services.pool.state import Pool, ShapeKey, Worker

REACH_MAX = 10_000
GPU_KINDS_TOLD_MAX = 3


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
    kind, cpus, memory, gpu = shape
    fit = [worker.capacity for worker in known if offers(worker.capacity, kind)]
    if not fit:
        return f"needs a worker that can run {told(kind)}; none of the {len(known)} known can"
    if gpu.milli and not any(can_ever(capacity.gpus, gpu) for capacity in fit):
        return f"needs {gpu.text()} on one machine; {_gpus_text(fit)}"
    most_cpus, most_memory = max(c.cpus_milli for c in fit), max(c.memory_bytes for c in fit)
    beside = f" beside {gpu.text()}" if gpu.milli else ""
    needs = f"{cpus / 1000:g} CPUs" + (f" and {size_text(memory)} of memory" if memory else "")
    most = f"{most_cpus / 1000:g} CPUs, and {size_text(most_memory)}"
    return f"needs {needs}{beside} on one machine; the most any has is {most}"


def _gpus_text(capacities: list[Capacity]) -> str:
    """What GPUs there are, for who asked for others."""
    found = {(len(one.gpus), one.gpus[0].name, one.gpus[0].memory_bytes) for one in capacities if one.gpus}
    kinds = [
        f"{count} x {name} ({size_text(memory)} each)" for count, name, memory in sorted(found)[:GPU_KINDS_TOLD_MAX]
    ]
    return f"there are machines with {', '.join(kinds)}" if kinds else "no known machine offers a GPU"


def another(state: Pool, worker: WorkerId, shape: ShapeKey) -> bool:
    """Whether some other machine could be given a task of this shape."""
    return any(w.takes and w.id != worker and w.can_ever(shape) for w in state.workers.values())
