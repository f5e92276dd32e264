"""The machine's state: what this worker holds, and how far each of it has come. Pure data with its bookkeeping.

A task goes: waiting in its lease -> running (holds its place) -> settling (process gone, output or results not yet
safe; only some) -> fresh (ended) -> saving -> saved (on disk) -> sent -> recorded. Until then the worker holds it.
"""

from collections import deque

from events.base import JobId, Runs, size_of
from events.protocol import SPEAKS, Ended, Held, Hello, Poll, Report, Run
from worker.messages import Instruction
from worker.pace import Pace
from worker.reports import join

NAMED_MAX = 3
"""How many tasks are named to people."""
Key = tuple[int, int]
"""An attempt: its lease and its task's index."""


class Waiting:
    """Tasks of one order that have not started. `runs` is consumed from its front."""

    __slots__ = ("order", "runs", "since")

    def __init__(self, order: Run, tasks: Runs, since: int) -> None:
        self.order, self.since = order, since
        self.runs = deque(tasks)

    def take(self) -> int:
        """The first task; it waits no more."""
        runs = self.runs
        index = runs[0]
        if index == runs[1]:
            runs.popleft()
            runs.popleft()
        else:
            runs[0] = index + 1
        return index

    def rest(self) -> Runs:
        """All that wait."""
        return list(self.runs)


class Attempt:
    """A task that was started."""

    __slots__ = ("began", "index", "killed", "order", "since")

    def __init__(self, order: Run, index: int, since: int) -> None:
        self.order, self.index, self.since = order, index, since
        self.began = since
        """When it ran, in ms; -1 while its inputs are fetched."""
        self.killed = False


class Batch:
    """Ends that are saved together."""

    __slots__ = ("items", "number")

    def __init__(self, number: int, items: list[Ended]) -> None:
        self.number, self.items = number, items


class State:
    """Everything the machine knows. `unreported` is what an earlier session left on disk, by batch number."""

    def __init__(self, session: str, hello: Hello, unreported: dict[int, list[Ended]] | None = None) -> None:
        self.session, self.capacity = session, hello.capacity
        self.hello = hello
        self.greet = True
        """The next poll must carry a Hello."""
        self.polls = 0
        self.last = 0
        self.polled_ahead = 0
        self.drained = False
        self.stopping = False
        self.killing = False
        self.quit = False
        self.out: list[Instruction] = []

        self.queue: deque[Waiting] = deque()
        self.running: dict[Key, Attempt] = {}
        self.settling: dict[Key, Attempt] = {}
        self.untold: dict[Key, Attempt] = {}
        """Running, and not yet reported as started."""
        self.used_cpus = 0
        self.used_memory = 0
        self.used_gpus: dict[str, int] = {}
        """Thousandths of each GPU, by UUID."""
        self.usable: list[int] = []
        self.polled_usable: list[int] = []
        """What the last poll said of the GPUs."""
        self.pace = Pace()

        self.fresh: list[Ended] = []
        self.fresh_since = 0
        self.saving: Batch | None = None
        self.saved: deque[Batch] = deque(Batch(number, items) for number, items in (unreported or {}).items())
        self.batches = max(unreported, default=0) if unreported else 0
        self.sent: Report | None = None
        self.sent_batches: list[int] = []
        self.sequence = 0
        self.earlier: dict[tuple[int, JobId], Runs] = {}
        """What ended in an earlier session, or was adopted from it: an order that names it again is for this very attempt."""

        for batch in self.saved:
            for ended in batch.items:
                known = self.earlier.get((ended.lease, ended.job), [])
                self.earlier[ended.lease, ended.job] = join([known, ended.tasks])

    def unsent(self) -> bool:
        """Whether any end is not yet recorded."""
        return bool(self.fresh or self.saving or self.saved or self.sent)

    def idle(self) -> bool:
        """Whether nothing is held at all."""
        return not (self.queue or self.running or self.settling or self.unsent())


def waiting_count(state: State) -> int:
    """How many tasks have not started."""
    return sum(size_of(waiting.rest()) for waiting in state.queue)


def holding(state: State) -> list[Held]:
    """Everything this worker still has, by lease."""
    held: dict[tuple[int, JobId], list[Runs]] = {}
    for waiting in state.queue:
        held.setdefault((waiting.order.number, waiting.order.job), []).append(waiting.rest())
    for attempts in (state.running, state.settling):
        for attempt in attempts.values():
            held.setdefault((attempt.order.number, attempt.order.job), []).append([attempt.index, attempt.index])
    ends = list(state.fresh)
    for batch in [*state.saved, *([state.saving] if state.saving else [])]:
        ends += batch.items
    if state.sent is not None:
        ends += [item for item in state.sent.items if isinstance(item, Ended)]
    for ended in ends:
        held.setdefault((ended.lease, ended.job), []).append(ended.tasks)
    return [Held(lease, job, join(runs)) for (lease, job), runs in held.items()]


def next_poll(state: State, now: int) -> Poll:
    """The poll to send now. Consumes a number."""
    state.polls += 1
    oldest = next(iter(state.running.values())).since if state.running else None
    state.polled_ahead = 0 if state.drained else state.pace.ahead(now, oldest)
    hello = None
    if state.greet:
        said = state.hello
        hello = Hello(said.boot, state.capacity, said.version, said.nonce, holding(state), said.since_boot_ms)
    room = 0 if state.stopping else -1
    state.polled_usable = state.usable
    return Poll(state.session, state.polls, state.last, room, state.polled_ahead, hello, SPEAKS, state.usable)


def waiting_for(state: State, connected: bool, stops: int) -> str:
    """What keeps a stopping agent that was told so `stops` times, for people."""
    parts: list[str] = []
    if state.running:
        named = [f"{attempt.order.job} task {attempt.index}" for attempt in list(state.running.values())[:NAMED_MAX]]
        more = f" and {len(state.running) - NAMED_MAX} more" if len(state.running) > NAMED_MAX else ""
        parts.append(f"{len(state.running)} running: {', '.join(named)}{more}")
    if state.settling:
        parts.append(f"output or results of {len(state.settling)} ended tasks on their way")
    if state.unsent():
        parts.append("reports to be recorded" + ("" if connected else " (no connection to the platform)"))
    again = "" if stops > 1 else "; once more stops now"
    return f"stopping: {'; '.join(parts) or 'nothing runs'}{again}"


def reserved(state: State) -> dict[str, int]:
    """Bytes that running tasks asked for of each GPU."""
    found: dict[str, int] = {}
    for attempt in state.running.values():
        for uuid in attempt.order.gpus:
            found[uuid] = found.get(uuid, 0) + attempt.order.gpu_memory
    return found
