"""What may be asked of a pool's writer, and what it answers: users' commands, then those of the pool's own service."""

from typing import Literal, TypeAlias

import msgspec

from events.base import Digest, JobId, WorkerId
from events.job import JobSubmitted
from events.protocol import Hello, Report

COMMANDS_PER_ASK_MAX = 1000


class Refused(Exception):
    """The caller's fault: nothing was changed, and asking again would be refused again."""

    def __init__(self, code: str, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.code, self.field, self.detail = code, field, detail


class Past(msgspec.Struct, frozen=True, gc=False):
    """What the index of ids knows of a job: the digest of its spec, and how it ended ("": it is open)."""

    digest: Digest
    state: str


class Submit(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="submit"):
    """Take this job in. `known` is filled by the writer's own service: the jobs it names that may have ended."""

    fact: JobSubmitted
    known: dict[JobId, Past] = {}


class CancelJob(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="cancel"):
    """End this job. `known`: see Submit."""

    job: JobId
    known: dict[JobId, Past] = {}


class DrainWorker(msgspec.Struct, frozen=True, gc=False, tag="drain"):
    """Give the worker nothing new (`on`), or work again."""

    worker: WorkerId
    on: bool


Command: TypeAlias = Submit | CancelJob | DrainWorker


class Greet(msgspec.Struct, frozen=True, gc=False):
    """A worker opened a session, or opened it again because it was told to."""

    worker: WorkerId
    session: str
    hello: Hello


class Reported(msgspec.Struct, frozen=True, gc=False):
    """A worker says what happened."""

    worker: WorkerId
    report: Report


class Silent(msgspec.Struct, frozen=True, gc=False):
    """Nothing was heard of the worker for so long."""

    worker: WorkerId
    for_ms: int


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A worker that was unreachable was heard again, in the same session."""

    worker: WorkerId


class Place(msgspec.Struct, frozen=True, gc=False):
    """Give the worker tasks: `room` more at most (-1: as its capacity allows), up to 1 + `ahead` times its capacity."""

    worker: WorkerId
    room: int = -1
    ahead: int = 0


class Advance(msgspec.Struct, frozen=True, gc=False):
    """Do what is due: jobs whose dependencies ended, back-offs that are over, and, with `capacity`, holding the jobs
    that no known machine could ever take and queueing those that one now can. Asked again until nothing happens.
    """

    capacity: bool = False


OwnCommand: TypeAlias = Greet | Reported | Silent | Heard | Place | Advance


class Accepted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="accepted"):
    """Done, and on disk. `existing`: it had been done before, or there was nothing to do."""

    existing: bool = False


class RefusedAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="refused"):
    """Refused: see `Refused`."""

    code: str
    field: str
    detail: str


Outcome: TypeAlias = Accepted | RefusedAnswer


class Ask(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A request to the pool on `cmd.pool.<pool>`: commands, decided in order, each for itself."""

    commands: list[Command]
    by: str
    cause: str = ""
    trace: str = ""


class Answer(msgspec.Struct, frozen=True, gc=False, tag="answer"):
    """One outcome a command, and the position up to which the log says so."""

    position: int
    outcomes: list[Outcome]


class Busy(msgspec.Struct, frozen=True, gc=False, tag="busy"):
    """Nothing was looked at; try again after a while."""

    code: Literal["queue_full", "malformed"]
    detail: str


AskAnswer: TypeAlias = Answer | Busy
pack = msgspec.msgpack.Encoder().encode
ask_of = msgspec.msgpack.Decoder(Ask).decode
answer_of = msgspec.msgpack.Decoder(AskAnswer).decode


def command_subject(pool: str) -> str:
    """Where a pool's writer listens."""
    return f"cmd.pool.{pool}"
