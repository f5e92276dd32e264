"""A pool's books kept the plain way: one entry a task, written from the facts alone, and every fact checked.

It knows nothing of how the pool decides. `take` raises AssertionError for a fact that may not follow what was before.
"""

import msgspec

from events.base import check_runs, expand
from events.catalog import AnyEvent, Message
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable, JobSubmitted
from events.task import (
    LeaseEvent,
    TasksDue,
    TasksFailed,
    TasksFinished,
    TasksLate,
    TasksLeased,
    TasksReclaimed,
    TasksRetried,
    TasksStarted,
)
from events.worker import Capacity, WorkerEvent, WorkerLost, WorkerRegistered, WorkerReported, WorkerStopped
from events.worker import WorkerReturned as Returned
from events.worker import WorkerUnreachable as Unreachable

FINAL = ("succeeded", "failed", "cancelled")


class Task(msgspec.Struct):
    """One task. `ends` counts by cause how its attempts ended, `last` is the end before the try it waits for."""

    state: str = "queued"
    lease: int = 0
    worker: str = ""
    attempt: int = 0
    running: bool = False
    due: int = 0
    last: str = ""
    ends: dict[str, int] = {}


class Job(msgspec.Struct):
    """One job, open or ended."""

    fact: JobSubmitted
    tasks: list[Task]
    held: bool = False
    cancelled: bool = False
    state: str = ""

    def count(self, *states: str) -> int:
        return sum(task.state in states for task in self.tasks)


class Machine(msgspec.Struct):
    """One worker."""

    capacity: Capacity
    session: str
    state: str = "ready"
    reported: int = 0


class Ledger:
    """The books."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.machines: dict[str, Machine] = {}
        self.leases: dict[int, LeaseEvent] = {}
        self.at = 0

    def take(self, message: Message) -> None:
        """Check and write down what a message says."""
        assert message.at >= self.at, "time went back"
        self.at = message.at
        for event in message.events():
            self._event(event)

    def _event(self, event: AnyEvent) -> None:
        if isinstance(event, JobSubmitted):
            assert event.job not in self.jobs, f"{event.job} submitted twice"
            self.jobs[event.job] = Job(event, [Task() for _ in range(event.count)])
        elif isinstance(event, JobHeld | JobRunnable | JobCancelled | JobFinished):
            job = self.jobs[event.job]
            assert not job.state, f"{event.job} had ended as {job.state}"
            self._job(job, event)
        elif isinstance(event, TasksLate):
            pass
        elif isinstance(event, LeaseEvent | TasksDue):
            self._tasks(event)
        elif isinstance(event, WorkerEvent):
            self._worker(event)

    def _job(self, job: Job, event: JobHeld | JobRunnable | JobCancelled | JobFinished) -> None:
        if isinstance(event, JobHeld):
            assert not job.cancelled
            assert not job.count("leased"), "held while it runs"
            job.held = True
        elif isinstance(event, JobRunnable):
            assert job.held
            assert not job.cancelled
            job.held = False
        elif isinstance(event, JobCancelled):
            assert not job.cancelled, "cancelled twice"
            job.cancelled = True
            for task in job.tasks:
                if task.state == "queued":
                    task.state = "cancelled"
        else:
            counts = (job.count("succeeded"), job.count("failed"), job.count("cancelled"))
            assert counts == (event.succeeded, event.failed, event.cancelled)
            assert sum(counts) == len(job.tasks), "ended with open tasks"
            job.state = event.state
            assert job.state == ("cancelled" if counts[2] else "failed" if counts[1] else "succeeded")

    def _tasks(self, event: LeaseEvent | TasksDue) -> None:
        job = self.jobs[event.job]
        assert not job.state, f"{event.job} had ended as {job.state}"
        assert check_runs(event.tasks, len(job.tasks)) is None
        tasks = [job.tasks[index] for index in expand(event.tasks)]
        if isinstance(event, TasksLeased):
            assert event.lease > max(self.leases, default=0), "a lease's number was used before"
            self.leases[event.lease] = event
            self._may_be_leased(job, event)
        if isinstance(event, TasksFinished | TasksFailed | TasksRetried):
            assert len(event.details) in (0, len(tasks))
        for task in tasks:
            assert task.state not in FINAL, f"a task of {event.job} had ended as {task.state}"
            self._task(job, task, event)

    def _may_be_leased(self, job: Job, event: TasksLeased) -> None:
        assert not job.held
        assert not job.cancelled
        machine = self.machines[event.worker]
        assert machine.state == "ready", f"{event.worker} is {machine.state}"
        assert job.fact.kind in machine.capacity.kinds
        for other in job.fact.after:
            assert self.jobs[other].state == "succeeded", f"{event.job} runs before {other} succeeded"

    def _task(self, job: Job, task: Task, event: LeaseEvent | TasksDue) -> None:
        if isinstance(event, TasksLeased | TasksReclaimed):
            assert task.state == "queued"
            if isinstance(event, TasksLeased):
                assert not task.due, "leased before its back-off was over"
                assert event.attempt == task.attempt + 1
            else:
                assert (task.lease, task.worker, task.attempt) == (event.lease, event.worker, event.attempt)
                assert task.last == "lost", "taken back, but the worker itself had said that it ended"
                task.ends["lost"] -= 1
            task.state, task.lease, task.worker, task.attempt = "leased", event.lease, event.worker, event.attempt
            return
        if isinstance(event, TasksDue):
            assert task.state == "queued"
            assert 0 < task.due <= self.at
            task.due = 0
            return
        assert (task.state, task.lease, task.worker) == ("leased", event.lease, event.worker), "not its attempt"
        assert task.attempt == event.attempt
        if isinstance(event, TasksStarted):
            task.running = True
            return
        task.running = False
        if isinstance(event, TasksFinished):
            task.state = "succeeded"
        elif isinstance(event, TasksFailed):
            task.state = "cancelled" if job.cancelled else "failed"
        elif isinstance(event, TasksRetried):
            assert not job.cancelled
            task.state, task.due, task.last = "queued", event.not_before, event.end
            task.ends[event.end] = task.ends.get(event.end, 0) + 1
            assert event.end == "returned" or task.ends[event.end] <= getattr(job.fact.retries, event.end), "too often"

    def _worker(self, event: WorkerEvent) -> None:
        machine = self.machines.get(event.worker)
        if isinstance(event, WorkerRegistered):
            if machine is None or machine.session != event.session:
                self.machines[event.worker] = Machine(event.capacity, event.session)
            else:
                machine.capacity, machine.state = event.capacity, "ready"
            return
        assert machine is not None
        if isinstance(event, WorkerReported):
            assert event.sequence > machine.reported, "a report was recorded twice"
            machine.reported = event.sequence
        elif isinstance(event, WorkerLost | WorkerStopped):
            assert not self.held_by(event.worker), "left with tasks"
            machine.state = "gone"
        elif isinstance(event, Unreachable):
            machine.state = "unreachable"
        elif isinstance(event, Returned):
            machine.state = "ready"

    def held_by(self, worker: str) -> list[tuple[Job, Task]]:
        """The tasks that the worker has."""
        return [
            (job, task)
            for job in self.jobs.values()
            if not job.state
            for task in job.tasks
            if task.state == "leased" and task.worker == worker
        ]

    def owned(self, owner: str) -> tuple[int, int]:
        """How many open jobs the user has, and queued tasks of them."""
        jobs = [job for job in self.jobs.values() if job.fact.owner == owner and not job.state]
        return len(jobs), sum(job.count("queued") for job in jobs)

    def used_gpus(self, worker: str) -> dict[str, tuple[int, int]]:
        """Thousandths and bytes that what the worker has takes of each of its GPUs."""
        found: dict[str, tuple[int, int]] = {}
        for job, task in self.held_by(worker):
            lease = self.leases[task.lease]
            assert isinstance(lease, TasksLeased)
            assert len(set(lease.gpus)) == len(lease.gpus) == -(-job.fact.gpus_milli // 1000), "as many as asked for"
            for uuid in lease.gpus:
                milli, memory = found.get(uuid, (0, 0))
                found[uuid] = (milli + min(job.fact.gpus_milli, 1000), memory + job.fact.gpu_memory)
        return found

    def used(self, worker: str) -> tuple[int, int]:
        """Thousandths of CPUs and bytes of memory of what the worker has."""
        held = self.held_by(worker)
        return sum(job.fact.cpus_milli for job, _ in held), sum(job.fact.memory_bytes for job, _ in held)
