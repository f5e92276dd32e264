"""What the board holds, and its snapshot: see `board` for how facts change it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, TypeAlias

import msgspec

from events.base import JobId, Sealed, WorkerId
from events.job import Kind
from events.worker import Capacity
from projections.rows import ENDED_STATES, JobRow, JobState, Totals, WorkerRow, WorkerState

Guess: TypeAlias = Literal["running", "succeeded", "failed", "cancelled", "ended", "unknown"]
"""What counts alone can say of one task; `ended`: it has, but not all did in the same way."""

PIECE_JOBS_MAX = 500
"""How many jobs one piece of a snapshot holds: about 1 ms of work."""


class Job(msgspec.Struct, gc=False):
    """A job as the board keeps it; `started` holds the numbers of its running tasks, None when there are none."""

    job: JobId
    owner: str
    kind: Kind
    count: int
    priority: int
    cpus_milli: int
    memory_bytes: int
    text: Sealed
    after: list[JobId]
    submitted_at: int
    number: int
    state: JobState = "queued"
    reason: str = ""
    leased: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    finished_at: int = 0
    position: int = 0
    started: set[int] | None = None

    def queued(self) -> int:
        """Tasks that wait: for their turn, for a retry, or because the job is held."""
        return self.count - self.leased - self.running - self.succeeded - self.failed - self.cancelled

    def of_task(self, index: int) -> Guess:
        """What is certain of one of its tasks. As long as any waits or was given out, that may be a task that ended
        before and is to be tried again.
        """
        if self.started and index in self.started:
            return "running"
        if self.leased or self.queued():
            return "unknown"
        ways: dict[Guess, int] = {"succeeded": self.succeeded, "failed": self.failed, "cancelled": self.cancelled}
        found: list[Guess] = [way for way, count in ways.items() if count]
        return found[0] if len(found) == 1 else "ended"

    def row(self) -> JobRow:
        """The job as readers get it."""
        return JobRow(
            self.job, self.owner, self.state, self.reason, self.kind, self.count, self.priority, self.cpus_milli,
            self.memory_bytes, self.queued(), self.leased, self.running, self.succeeded, self.failed, self.cancelled,
            self.text, self.after, self.submitted_at, self.finished_at, self.position, self.number,
        )  # fmt: skip


class Worker(msgspec.Struct, gc=False):
    """A worker as the board keeps it."""

    worker: WorkerId
    state: WorkerState = "ready"
    drained: bool = False
    session: str = ""
    boot: str = ""
    capacity: Capacity = Capacity(0, 0)
    version: str = ""
    leased: int = 0
    finished: int = 0
    failed: int = 0
    since: int = 0
    contested_at: int = 0

    def row(self) -> WorkerRow:
        """The worker as readers get it."""
        return WorkerRow(
            self.worker, self.state, self.drained, self.session, self.boot, self.capacity, self.version,
            self.leased, self.finished, self.failed, self.since, self.contested_at,
        )  # fmt: skip


class TaskTotals(msgspec.Struct, gc=False):
    """Tasks by state, over all jobs ever."""

    queued: int = 0
    leased: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Board(msgspec.Struct):
    """The state. `open` is in order of submission, `ended` in order of ending. `forgotten`: where the last job that
    left `ended` had ended; `origin`: the id of the log's first message, which tells one log from another.
    """

    position: int = 0
    at: int = 0
    origin: str = ""
    messages: int = 0
    unknown: int = 0
    strays: int = 0
    forgotten: int = 0
    writer: str = ""
    writer_at: int = 0
    jobs: dict[str, int] = {}
    tasks: TaskTotals = msgspec.field(default_factory=TaskTotals)
    workers: dict[WorkerId, Worker] = {}
    open: dict[JobId, Job] = {}
    ended: dict[JobId, Job] = {}

    def find(self, job: JobId) -> Job | None:
        """The job, when it is open or ended lately."""
        return self.open.get(job) or self.ended.get(job)

    def totals(self) -> Totals:
        """Counts by state."""
        workers: dict[str, int] = {}
        for worker in self.workers.values():
            workers[worker.state] = workers.get(worker.state, 0) + 1
        jobs = {state: count for state, count in self.jobs.items() if count}
        return Totals(jobs, msgspec.to_builtins(self.tasks), workers, self.unknown, self.writer, self.writer_at)


_encode = msgspec.msgpack.Encoder().encode
_decode_board = msgspec.msgpack.Decoder(Board).decode
_decode_jobs = msgspec.msgpack.Decoder(list[Job]).decode


def pack(board: Board) -> Iterator[bytes]:
    """The board as pieces: everything but its jobs, then the jobs, some hundred a piece. It must not change meanwhile."""
    yield _encode(msgspec.structs.replace(board, open={}, ended={}))
    for jobs in (board.open, board.ended):
        left = iter(jobs.values())
        while piece := list(islice(left, PIECE_JOBS_MAX)):
            yield _encode(piece)


def unpack(pieces: Iterable[bytes]) -> Board:
    """The board in `pieces`. Raises msgspec.DecodeError when they are not a board's."""
    left = iter(pieces)
    first = next(left, None)
    if first is None:
        raise msgspec.DecodeError("no pieces")
    board = _decode_board(first)
    for piece in left:
        for job in _decode_jobs(piece):
            (board.ended if job.state in ENDED_STATES else board.open)[job.job] = job
    return board
