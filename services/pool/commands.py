"""What may be asked of a pool's writer: users' commands, then those of the pool's own service."""

from typing import TypeAlias

import msgspec

from events.base import Digest, JobId, WorkerId
from events.job import JobSubmitted
from events.protocol import Hello, Report


class Past(msgspec.Struct, frozen=True, gc=False):
    """What the index of ids knows of a job: the digest of its spec, and how it ended ("": it is open)."""

    digest: Digest
    state: str


class Submit(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="submit"):
    """Take this job in. `known` is filled by the writer's own service: the jobs it names that may have ended. Its owner
    may have so many open jobs and queued tasks with it (0: any number).
    """

    fact: JobSubmitted
    known: dict[JobId, Past] = {}
    open_jobs_max: int = 0
    queued_tasks_max: int = 0


class CancelJob(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="cancel"):
    """End this job. `known`: see Submit."""

    job: JobId
    known: dict[JobId, Past] = {}


class DrainWorker(msgspec.Struct, frozen=True, gc=False, tag="drain"):
    """Give the worker nothing new (`on`), or work again. `ask`: the request's own id; it is done once, however often it
    arrives.
    """

    worker: WorkerId
    on: bool
    ask: str = ""


class ConfigureWorker(msgspec.Struct, frozen=True, gc=False, tag="configure"):
    """Have the worker measure its machine every `heartbeat_ms`. `ask`: the request's own id."""

    worker: WorkerId
    heartbeat_ms: int
    ask: str = ""


Command: TypeAlias = Submit | CancelJob | DrainWorker | ConfigureWorker


class Greet(msgspec.Struct, frozen=True, gc=False):
    """A worker opened a session, or opened it again because it was told to."""

    worker: WorkerId
    session: str
    hello: Hello


class Reported(msgspec.Struct, frozen=True, gc=False):
    """A worker says what happened. `digest`: of the report as it was sent."""

    worker: WorkerId
    report: Report
    digest: Digest = ""


class Silent(msgspec.Struct, frozen=True, gc=False):
    """Nothing was heard of the worker for so long."""

    worker: WorkerId
    for_ms: int


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A worker that was unreachable was heard again, in the same session."""

    worker: WorkerId


class Place(msgspec.Struct, frozen=True, gc=False):
    """Give the worker tasks: `room` more at most (-1: as its capacity allows), up to 1 + `ahead` times its capacity. `gpus`:
    see events.protocol.Poll.
    """

    worker: WorkerId
    room: int = -1
    ahead: int = 0
    gpus: list[int] = []


class Advance(msgspec.Struct, frozen=True, gc=False):
    """Do what is due: jobs whose dependencies ended, back-offs that are over, and, with `capacity`, holding the jobs
    that no known machine could ever take and queueing those that one now can. Asked again until nothing happens.
    """

    capacity: bool = False


OwnCommand: TypeAlias = Greet | Reported | Silent | Heard | Place | Advance
