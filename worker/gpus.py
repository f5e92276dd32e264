"""GPUs as the machine and its tasks see them: which are taken, and what a task's environment says of them. Pure."""

from collections.abc import Sequence

from events.protocol import Run
from events.worker import Capacity

WHOLE = 1000
TOLD_MIB = 512
"""The platform is told at once when a GPU has so much more or less for tasks than it was told."""
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
"""For a task that asked for no GPU, on a machine that has some."""


def are_free(used: dict[str, int], order: Run) -> bool:
    """Whether another task of `order` goes on its GPUs now."""
    each = min(order.gpus_milli, WHOLE)
    return all(used.get(uuid, 0) + each <= WHOLE for uuid in order.gpus)


def use(used: dict[str, int], order: Run, tasks: int) -> None:
    """Count so many more (or, negative, fewer) tasks of `order`."""
    for uuid in order.gpus:
        used[uuid] = used.get(uuid, 0) + tasks * min(order.gpus_milli, WHOLE)
        if not used[uuid]:
            del used[uuid]


def differ(usable: Sequence[int], told: Sequence[int]) -> bool:
    """Whether what was told is not so any more, by enough to say so."""
    if len(usable) != len(told):
        return True
    return any(
        abs(now - before) >= TOLD_MIB or (not now) != (not before) for now, before in zip(usable, told, strict=True)
    )


def environment(capacity: Capacity, order: Run) -> dict[str, str]:
    """Variables for a task of `order` on a machine that offers GPUs: it sees its own, by UUID, and no other."""
    if not capacity.gpus:
        return {}
    if not order.gpus:
        return HIDDEN
    named = ",".join(order.gpus)
    return {"CUDA_VISIBLE_DEVICES": named, "NVIDIA_VISIBLE_DEVICES": named, "HIVE_GPUS": str(len(order.gpus))}
