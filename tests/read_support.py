"""For tests of the read side: a pool that keeps every task by itself, the slow and plain way, and says what happened.

`NaivePool.run` turns any list of small numbers into facts that a pool could have written, and knows what readers must
then see. Messages, logs and jobs for tests are made here too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from events import catalog
from events.base import Sealed, runs_of
from events.catalog import Decision, Message
from events.job import JobCancelled, JobEnd, JobFinished, JobHeld, JobRunnable, JobSubmitted
from events.log import Entry, MemoryLog
from events.pool import WriterLed
from events.task import (
    Detail,
    FileRef,
    TasksDue,
    TasksFailed,
    TasksFinished,
    TasksLate,
    TasksLeased,
    TasksReclaimed,
    TasksRetried,
    TasksStarted,
)
from events.worker import Capacity, WorkerDrained, WorkerLost, WorkerRegistered, WorkerReturned, WorkerUndrained
from projections.rows import JobState, TaskRow
from projections.tasks import WAITING

SUBJECT = "evt.pool.main"
T0 = 1_700_000_000_000


def job_id(n: int) -> str:
    """The id of the job number `n`."""
    return f"j{n:016d}"


def submitted(n: int, count: int = 1, **more: Any) -> JobSubmitted:
    """A submission."""
    return JobSubmitted(job_id(n), "uada", "0" * 64, Sealed("k1", b"text %d" % n), count=count, **more)


def message(n: int, *events: Any, at: int = 0) -> Message:
    """A message with one decision."""
    return Message(f"m{n}", at or T0 + n, "w1", [Decision(list(events), by="uada", trace=f"t{n}")] if events else [])


def entries(messages: Iterable[Message]) -> list[Entry]:
    """Messages as a log holds them."""
    return [Entry(at, SUBJECT, catalog.encode(one)) for at, one in enumerate(messages, 1)]


def log_of(messages: Iterable[Message]) -> MemoryLog:
    """A log that holds the messages."""
    return MemoryLog(entries(messages))


async def append(log: MemoryLog, *messages: Message) -> int:
    """Append messages; the last one's position."""
    for one in messages:
        await log.append(SUBJECT, catalog.encode(one), await log.last(SUBJECT))
    return len(log.entries)


class Task(msgspec.Struct):
    """A task as the naive pool keeps it."""

    state: str = "waiting"
    attempt: int = 0
    lease: int = 0
    worker: str = ""
    end: str = ""
    code: int = 0
    reason: str = ""
    leased_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    detail: Detail | None = None


class Job(msgspec.Struct):
    """A job as the naive pool keeps it."""

    id: str
    tasks: list[Task]
    state: JobState = "queued"
    cancelled: bool = False

    def where(self, *states: str) -> list[int]:
        """The tasks in any of these states."""
        return [index for index, task in enumerate(self.tasks) if task.state in states]

    def row(self, index: int) -> TaskRow:
        """The task as readers must see it."""
        task = self.tasks[index]
        values: dict[str, Any] = msgspec.structs.asdict(task)
        if task.state == "waiting":
            values["state"] = WAITING.get(self.shown, "cancelled")
        return TaskRow(self.id, index, **values)

    @property
    def shown(self) -> JobState:
        """The state that readers must see."""
        if self.state != "queued":
            return self.state
        return "queued" if len(self.where("waiting")) == len(self.tasks) else "running"


class NaivePool:
    """Its jobs, every one for ever, and the messages it wrote."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.messages: list[Message] = []
        self.results: list[tuple[str, int, int]] = []
        self._lease = 0
        self._facts: list[Any] = []

    def run(self, choices: Sequence[tuple[int, int, int]]) -> "NaivePool":
        """Do what each (what, which, how) says, when it is possible; two choices a message."""
        for at, (what, which, how) in enumerate(choices):
            self._at = T0 + len(self.messages)
            self._do(what, which, how)
            if at % 2 or at == len(choices) - 1:
                self.messages.append(message(len(self.messages), *self._facts, at=self._at))
                self._facts = []
        return self

    def _do(self, what: int, which: int, how: int) -> None:
        if what == 0 or not self.jobs:
            self._submit(how)
            return
        job = self.jobs[which % len(self.jobs)]
        steps = [
            self._lease_some, self._lease_some, self._start, self._finish, self._finish, self._fail, self._retry,
            self._reclaim, self._cancel, self._hold, self._late, self._workers,
        ]  # fmt: skip
        if job.state in ("queued", "held", "cancelling"):
            steps[what % len(steps)](job, how)
            self._finish_job(job)

    def _submit(self, how: int) -> None:
        job = Job(job_id(len(self.jobs)), [Task() for _ in range(1 + how % 9)])
        self.jobs.append(job)
        self._facts.append(submitted(len(self.jobs) - 1, len(job.tasks)))
        if how % 4 == 3:
            job.state = "held"
            self._facts.append(JobHeld(job.id, "dependencies"))

    def _some(self, numbers: list[int], how: int) -> list[int]:
        """Some of the numbers: all, a first part, or every second one."""
        return [numbers, numbers[: 1 + how % 3], numbers[::2]][how % 3]

    def _lease_some(self, job: Job, how: int) -> None:
        tasks = self._some(job.where("waiting"), how)
        tasks = [index for index in tasks if job.tasks[index].attempt == job.tasks[tasks[0]].attempt]
        if not tasks or job.state != "queued":
            return
        self._lease += 1
        attempt, worker = job.tasks[tasks[0]].attempt + 1, f"w{how % 2}"
        self._facts.append(TasksLeased(job.id, runs_of(tasks), self._lease, worker, attempt))
        for index in tasks:
            job.tasks[index] = Task("leased", attempt, self._lease, worker, leased_at=self._at)

    def _held_by(self, job: Job, how: int, *states: str) -> tuple[list[int], tuple[int, str, int]]:
        """Some tasks in these states that are under one lease, and that lease."""
        leases = sorted({job.tasks[index].lease for index in job.where(*states)})
        if not leases:
            return [], (0, "", 0)
        lease = leases[how % len(leases)]
        tasks = self._some([index for index in job.where(*states) if job.tasks[index].lease == lease], how)
        first = job.tasks[tasks[0]]
        return tasks, (lease, first.worker, first.attempt)

    def _start(self, job: Job, how: int) -> None:
        tasks, lease = self._held_by(job, how, "leased")
        if tasks:
            self._facts.append(TasksStarted(job.id, runs_of(tasks), *lease))
        for index in tasks:
            job.tasks[index].state, job.tasks[index].started_at = "running", self._at

    def _end(
        self, job: Job, tasks: list[int], state: str, end: str, code: int, reason: str, details: list[Detail]
    ) -> None:
        for at, index in enumerate(tasks):
            task = job.tasks[index]
            task.state, task.end, task.code, task.reason, task.ended_at = state, end, code, reason, self._at
            task.detail = details[at] if details else None
            if state in ("succeeded", "failed", "cancelled") and details:
                self.results += [(job.id, index, file.n) for file in details[at].results]

    def _details(self, tasks: list[int], how: int) -> list[Detail]:
        if how % 2:
            return []
        return [Detail(wall_ms=index, results=[FileRef(0, "1" * 64, index)] * (index % 2)) for index in tasks]

    def _finish(self, job: Job, how: int) -> None:
        tasks, lease = self._held_by(job, how, "leased", "running")
        if tasks:
            details = self._details(tasks, how)
            self._facts.append(TasksFinished(job.id, runs_of(tasks), *lease, details))
            self._end(job, tasks, "succeeded", "exit", 0, "", details)

    def _fail(self, job: Job, how: int) -> None:
        tasks, lease = self._held_by(job, how, "leased", "running")
        if tasks:
            details = self._details(tasks, how)
            end, state = ("cancelled", "cancelled") if job.cancelled else ("exit", "failed")
            self._facts.append(TasksFailed(job.id, runs_of(tasks), *lease, end, 3, "bad\0luck", details))
            self._end(job, tasks, state, end, 3, "bad\ufffdluck", details)

    def _retry(self, job: Job, how: int) -> None:
        tasks, lease = self._held_by(job, how, "leased", "running")
        if not tasks or job.cancelled:
            return
        later = T0 * (how % 2)
        self._facts.append(TasksRetried(job.id, runs_of(tasks), *lease, "lost", 0, "silent", later))
        self._end(job, tasks, "waiting", "lost", 0, "silent", [])
        if later and how % 3 == 1:
            self._facts.append(TasksDue(job.id, runs_of(tasks)))

    def _reclaim(self, job: Job, how: int) -> None:
        gone = [index for index in job.where("waiting") if job.tasks[index].lease]
        if not gone or job.state != "queued":
            return
        lease = job.tasks[gone[how % len(gone)]].lease
        tasks = [index for index in gone if job.tasks[index].lease == lease]
        first = job.tasks[tasks[0]]
        self._facts.append(TasksReclaimed(job.id, runs_of(tasks), lease, first.worker, first.attempt))
        for index in tasks:
            task = job.tasks[index]
            task.state, task.end, task.code, task.reason, task.ended_at, task.detail = "leased", "", 0, "", 0, None

    def _cancel(self, job: Job, how: int) -> None:
        if not job.cancelled and how % 3 == 0:
            job.cancelled, job.state = True, "cancelling"
            self._facts.append(JobCancelled(job.id, "enough" if how % 2 else ""))

    def _hold(self, job: Job, how: int) -> None:
        if job.state == "held":
            job.state = "queued"
            self._facts.append(JobRunnable(job.id))
        elif job.state == "queued" and not job.where("leased", "running"):
            job.state = "held"
            self._facts.append(JobHeld(job.id, "capacity", "needs 9 CPUs"))

    def _late(self, job: Job, how: int) -> None:
        self._facts.append(TasksLate(job.id, [0, 0], 999, "w1"))

    def _workers(self, job: Job, how: int) -> None:
        worker = f"w{how % 2}"
        capacity = Capacity(4000, 2**30)
        self._facts += [
            [WorkerRegistered(worker, f"s{how}", "b1", capacity, "1")],
            [WorkerLost(worker), WorkerReturned(worker)],
            [WorkerDrained(worker), WorkerUndrained(worker), WriterLed("main", "writer")],
        ][how % 3]

    def _finish_job(self, job: Job) -> None:
        waiting = len(job.where("waiting"))
        if job.where("leased", "running") or (waiting and not job.cancelled):
            return
        succeeded, failed = len(job.where("succeeded")), len(job.where("failed"))
        dropped = len(job.where("cancelled")) + waiting
        end: JobEnd = "cancelled" if job.cancelled else "failed" if failed else "succeeded"
        job.state = end
        self._facts.append(JobFinished(job.id, end, succeeded, failed, dropped))
