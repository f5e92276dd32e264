"""What a task needs of the machine beside its size, and which machines have it. Pure.

A need is a word. A worker advertises `<executor>:<need>` for each that its container or process executor can hold to; a
job names its needs in clear, since they decide where it may go. What a worker cannot enforce it does not advertise.
"""

from functools import lru_cache

from events.worker import Capacity

DISK = "disk"
"""The task's folder has a size that it cannot outgrow."""
PIDS = "pids"
"""It cannot have more processes than it asked for."""
ALONE = "no-network"
"""It reaches nothing over the network."""
HOSTS = "hosts"
"""It reaches the hosts that its job names, and nothing else."""
NETWORK = "network"
"""It reaches what the machine reaches."""
_BETWEEN = "+"
_EXECUTOR = {"container": "container"}
_OFFERS_KEPT = 4096


def executor_of(kind: str) -> str:
    """Which executor runs tasks of this kind."""
    return _EXECUTOR.get(kind, "process")


def wanted(kind: str, needs: list[str]) -> str:
    """Kind and needs as one word: of a job without needs, its kind."""
    return _BETWEEN.join((kind, *needs)) if needs else kind


def told(what: str) -> str:
    """A word of `wanted` for people."""
    kind, *needs = what.split(_BETWEEN)
    return f"kind {kind!r}" + (f" with {', '.join(needs)}" if needs else "")


def offers(capacity: Capacity, what: str) -> bool:
    """Whether a machine of this capacity runs what `wanted` named."""
    return what in capacity.kinds or (_BETWEEN in what and _offers(capacity.kinds, capacity.features, what))


@lru_cache(_OFFERS_KEPT)
def _offers(kinds: tuple[str, ...], features: tuple[str, ...], what: str) -> bool:
    kind, *needs = what.split(_BETWEEN)
    return kind in kinds and all(f"{executor_of(kind)}:{need}" in features for need in needs)
