"""Facts about workers: the machines of a pool."""

from typing import ClassVar, Literal

import msgspec

from events.base import Digest, Event, WorkerId
from events.hardware import Gpu


class Capacity(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a worker offers: thousandths of a CPU, bytes of memory, the kinds of task it can run, and its GPUs. `features`: how
    it holds tasks to their limits, and what they may ask for (see events.needs).
    """

    cpus_milli: int
    memory_bytes: int
    kinds: tuple[str, ...] = ("process", "noop")
    features: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()


class WorkerEvent(Event):
    """Every worker fact names its worker first."""

    entity: ClassVar[str] = "worker"
    worker: WorkerId


class WorkerRegistered(WorkerEvent, tag="worker.registered"):
    """A worker's agent opened a session; an older session of this worker ends with it. `since_boot_ms`: when that agent
    started, on its machine's clock since boot; 0: not told.
    """

    session: str
    boot: str
    capacity: Capacity
    version: str = ""
    since_boot_ms: int = 0


class WorkerReported(WorkerEvent, tag="worker.reported"):
    """The session's report with this number was recorded; what it said is in the facts after this one. `digest`: of the
    report as the worker sent it, whose signature is over this; the archive has both.
    """

    sequence: int
    digest: Digest = ""


class WorkerReturned(WorkerEvent, tag="worker.returned"):
    """A silent worker was heard again, in the session it had."""


class WorkerUnreachable(WorkerEvent, tag="worker.unreachable"):
    """Nothing was heard of the worker for a while; it gets nothing new."""


class WorkerLost(WorkerEvent, tag="worker.lost"):
    """The worker stayed silent for so long that its session is over."""


class WorkerStopped(WorkerEvent, tag="worker.stopped"):
    """The worker's agent said good-bye."""


class WorkerDrained(WorkerEvent, tag="worker.drained"):
    """The worker finishes what it has and gets nothing new, until it is undrained. `ask`: the request's own id."""

    by: Literal["operator", "worker"] = "operator"
    ask: str = ""


class WorkerUndrained(WorkerEvent, tag="worker.undrained"):
    """The worker gets work again. `ask`: the request's own id."""

    ask: str = ""


class WorkerConfigured(WorkerEvent, tag="worker.configured"):
    """The worker is to measure its machine, and to say so, every `heartbeat_ms`. `ask`: the request's own id."""

    heartbeat_ms: int
    ask: str = ""


class WorkerContested(WorkerEvent, tag="worker.contested"):
    """A machine with this worker's key, whose `boot` is another than that of the one at work, was refused. Said so often
    and no more, however often it tries.
    """

    boot: str


AnyWorkerEvent = (
    WorkerRegistered
    | WorkerReported
    | WorkerReturned
    | WorkerUnreachable
    | WorkerLost
    | WorkerStopped
    | WorkerDrained
    | WorkerUndrained
    | WorkerConfigured
    | WorkerContested
)
