"""What a worker and the platform say to each other over NATS, as msgpack. Of it, signed reports are archived as sent.

Subjects, each ending in what only this worker may use (`<w>` is its id):
  req.<pool>.<w>.next     Poll -> Orders | Denied      one outstanding long poll a session, answered within 60 s
  req.<pool>.<w>.report   Report -> Recorded | Denied  the worker drops a report only after this answer
  req.<pool>.<w>.output   Output -> Stored | Denied    pieces of output by offset; the answer is what is safe
  hb.<pool>.<w>           Heartbeat                    every 5 s, kept a week in TELEMETRY
  push.<pool>.<w>.<nonce>.poll and push.<pool>.all.poll   "poll again", said after a takeover; carries nothing

A poll with a Hello, a report, and every answer that a worker acts on are signed (see `infra.signing`): who says it, to
whom, in which session, in answer to what.
"""

from typing import Literal, TypeAlias

import msgspec

from events.base import Digest, JobId, Runs
from events.hardware import Inventory, Usage
from events.job import Kind
from events.spec import TaskText
from events.task import AttemptEnd, Detail
from events.worker import Capacity

SPEAKS = 2
"""The version of this protocol. In 1 nothing was signed."""
POLL_S_MAX = 60
OUTPUT_PIECE_BYTES_MAX = 256 * 1024
OUTPUT_PIECES_MAX = 64
PROGRESS_TEXT_CHARS_MAX = 200
REPORT_TASKS_MAX = 2000
AHEAD_MAX = 255


class Held(msgspec.Struct, frozen=True, gc=False):
    """Tasks of a lease that the worker still has: running, waiting, or ended with their report not yet recorded."""

    lease: int
    job: JobId
    tasks: Runs


class Hello(msgspec.Struct, frozen=True, gc=False):
    """Opens a session: said in its first poll, and again when the platform answers `resync`. `since_boot_ms`: when the
    agent started, on the clock that begins at boot (0: not told); of two sessions of one boot, the later is the newer.
    """

    boot: str
    capacity: Capacity
    version: str
    nonce: str
    holding: list[Held] = []
    since_boot_ms: int = 0


class Poll(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Asks for orders after number `last`. `room`: how many more tasks it takes at most (-1: as the writer counts);
    `ahead`: how many times its capacity it may hold beyond what runs, for tasks shorter than a round trip. `speaks`: the
    version of the protocol that the agent knows. `gpus`: of each GPU that it offers, in that order, the MiB that its tasks
    may use while others use the rest.
    """

    session: str
    sequence: int
    last: int = 0
    room: int = -1
    ahead: int = 0
    hello: Hello | None = None
    speaks: int = 1
    gpus: list[int] = []


class OpenSecrets(msgspec.Struct, frozen=True, gc=False):
    """What is sealed to a worker: values by the variable that they go into, and the job that they are for. JSON."""

    job: JobId
    env: dict[str, str]


class Run(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="run"):
    """Run these tasks. `tickets` open the blobs they need over HTTP (see infra.tickets); `position` is where the
    lease is recorded, for reads that must not be older. `gpus`: the UUIDs of those that each of these tasks runs on.
    """

    number: int
    job: JobId
    tasks: Runs
    attempt: int
    kind: Kind
    count: int
    text: TaskText
    cpus_milli: int = 1000
    memory_bytes: int = 0
    time_limit_ms: int = 0
    position: str = ""
    ticket: str = ""
    gpus: list[str] = []
    gpus_milli: int = 0
    gpu_memory: int = 0


class Cancel(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="cancel"):
    """End every task of this job, or only those of `lease` when it is not 0."""

    number: int
    job: JobId
    lease: int = 0


class Drain(msgspec.Struct, frozen=True, gc=False, tag="drain"):
    """Finish what runs; nothing new will come while `on`."""

    number: int
    on: bool


class Configure(msgspec.Struct, frozen=True, gc=False, tag="configure"):
    """From now on measure the machine, and say so, every `heartbeat_ms`."""

    number: int
    heartbeat_ms: int


HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX = 500, 5_000
"""A worker that is not heard for three of the longest is unreachable."""
Order: TypeAlias = Run | Cancel | Drain | Configure


class Orders(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="orders"):
    """Everything numbered after the poll's `last`; empty after 60 s of nothing. `resync`: poll again with a Hello."""

    orders: list[Order] = []
    resync: bool = False


class Denied(msgspec.Struct, frozen=True, gc=False, tag="denied"):
    """Refused: for good (`superseded`, `malformed`), so that the agent says why and stops, or drops what it sent; or for
    now (`slow_down` and the others), so that it waits, longer each time, and asks again.
    """

    code: str
    detail: str


class Started(msgspec.Struct, frozen=True, gc=False, tag="started"):
    """These tasks of the lease run now."""

    lease: int
    job: JobId
    tasks: Runs


class Ended(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="ended"):
    """These tasks of the lease ended, all in the same way. `details`: one a task, or none."""

    lease: int
    job: JobId
    tasks: Runs
    end: AttemptEnd = "exit"
    code: int = 0
    reason: str = ""
    details: list[Detail] = []


ReportItem: TypeAlias = Started | Ended


class Report(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What happened, in order. `sequence` counts the session's reports; `bye`: the agent stops after this."""

    session: str
    sequence: int
    items: list[ReportItem]
    bye: bool = False


class Recorded(msgspec.Struct, frozen=True, gc=False, tag="recorded"):
    """The report is on disk at this position."""

    position: str


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one attempt's framed output (see infra.outputs) from `offset` on."""

    lease: int
    job: JobId
    index: int
    offset: int
    data: bytes
    final: bool = False


class Progress(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How far an attempt says that it has come, in percent (-1: it does not), and in its own words."""

    lease: int
    job: JobId
    index: int
    percent: int = -1
    text: str = ""


class Output(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Pieces of several attempts' output, and how far some have come. `sequence` counts the session's messages of them."""

    session: str
    pieces: list[Piece]
    progress: list[Progress] = []
    sequence: int = 0


class Stored(msgspec.Struct, frozen=True, gc=False, tag="stored"):
    """For each piece: the offset up to which that attempt's output is safe; -1: not wanted, drop it."""

    safe: list[int]


class Heartbeat(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The machine's use: CPU in percent of all cores, memory in bytes, tasks now. The inventory rides on the first one of
    a session and on some of the others.
    """

    session: str
    at: int
    cpu_percent: float = 0.0
    memory_used: int = 0
    memory_total: int = 0
    disk_free: int = 0
    running: int = 0
    waiting: int = 0
    usage: Usage | None = None
    inventory: Inventory | None = None


DenyCode: TypeAlias = Literal["superseded", "malformed", "unknown_session", "slow_down", "two_machines", "unverified"]
Verb: TypeAlias = Literal["next", "report", "output"]
"""What a worker asks, as the last word of the subject says it."""
Asked: TypeAlias = Poll | Report | Output
Said: TypeAlias = Orders | Recorded | Stored | Denied
PollAnswer: TypeAlias = Orders | Denied
ReportAnswer: TypeAlias = Recorded | Denied
OutputAnswer: TypeAlias = Stored | Denied

pack = msgspec.msgpack.Encoder().encode
poll_of = msgspec.msgpack.Decoder(Poll).decode
report_of = msgspec.msgpack.Decoder(Report).decode
output_of = msgspec.msgpack.Decoder(Output).decode
heartbeat_of = msgspec.msgpack.Decoder(Heartbeat).decode
poll_answer_of = msgspec.msgpack.Decoder(PollAnswer).decode
report_answer_of = msgspec.msgpack.Decoder(ReportAnswer).decode
output_answer_of = msgspec.msgpack.Decoder(OutputAnswer).decode


class Blob(msgspec.Struct, frozen=True, gc=False):
    """A blob named by its digest, with its length in bytes."""

    digest: Digest
    size: int
