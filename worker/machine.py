"""What a worker does, as a pure function: `step(state, stimulus) -> [instruction]`. It consumes its state.

Rules: an order is carried out once, however often it comes; tasks start in the order they came, as far as CPUs and
memory reach; every task that was taken in ends up in exactly one `Ended`; an end is on disk before it is reported
(except of noop tasks: running one again is free, so there is nothing to lose); one report is on its way at a time.
"""

from collections.abc import Callable
from typing import Any

from events import template
from events.base import Runs, expand, runs_of
from events.masking import mask
from events.protocol import Cancel, Configure, Ended, Report, ReportItem, Run, Started
from events.task import AttemptEnd
from events.units import size_text
from worker import gpus
from worker.machine_resume import adopted, slept
from worker.messages import (
    Adopted,
    Answered,
    Began,
    Denial,
    Done,
    Forget,
    Freed,
    GpusUsable,
    Instruction,
    Kill,
    Measure,
    Ordered,
    Quit,
    Repoll,
    Save,
    Saved,
    Send,
    Slept,
    Start,
    Stimulus,
    Stop,
    Tick,
)
from worker.reports import merge, take
from worker.state import Attempt, Batch, Key, State, Waiting

RUNNING_MAX = 512
"""Processes at once, however small: each takes a few file descriptors."""
STARTED_MS = 50
"""A task that runs this long is reported as started; a shorter one only as ended."""
HOLD_MS = 40
"""While more tasks wait, ends are collected this long: nobody waits for a single one of them."""
HOLD_ENDS_MAX = 512
WAIT_MS = 2000
"""A task that has not started for this long is given back."""
REASON_CHARS_MAX = 2000
EXIT_FAILED = 1
EXIT_SUPERSEDED = 3
STOPPED = "worker stopped"


def step(state: State, stimulus: Stimulus) -> list[Instruction]:
    """Take in what happened; what is to be done about it, in order."""
    _RULES[type(stimulus)](state, stimulus)
    _start(state, stimulus.now)
    _save(state, stimulus.now)
    _send(state, stimulus.now)
    done, state.out = state.out, []
    return done


def wants_ticks(state: State) -> bool:
    """Whether time alone may change something."""
    return bool(state.running or state.queue or state.fresh or state.polled_ahead)


# Orders


def _ordered(state: State, stimulus: Ordered) -> None:
    if stimulus.greeted and not stimulus.answer.resync:
        state.greet = False
    if stimulus.answer.resync:
        state.greet = True
    for order in stimulus.answer.orders:
        if order.number:  # number 0 is said with every hello and is not counted
            if order.number <= state.last:
                continue
            state.last = order.number
        if isinstance(order, Run):
            _take(state, order, stimulus.now)
        elif isinstance(order, Cancel):
            _cancel(state, order, stimulus.now)
        elif isinstance(order, Configure):
            state.out.append(Measure(order.heartbeat_ms))
        else:
            state.drained = order.on


def _denial(state: State, stimulus: Denial) -> None:
    if stimulus.code == "superseded":
        _quit(state, EXIT_SUPERSEDED, superseded(stimulus.detail))
    elif stimulus.code == "malformed":
        _quit(
            state, EXIT_FAILED, f"the platform does not understand this agent: {stimulus.detail}; update the older one"
        )
    else:
        state.greet = True


def _take(state: State, order: Run, now: int) -> None:
    tasks = order.tasks
    if state.earlier and (ended := state.earlier.get((order.number, order.job))):
        known = set(expand(ended))
        tasks = runs_of(index for index in expand(tasks) if index not in known)
        if not tasks:
            return
    if state.stopping:
        _end(state, order, tasks, "returned", now)
    elif order.kind == "noop":
        state.pace.note(0, now)
        _end(state, order, tasks, "exit", now)
    elif why := _unfit(state, order):
        _end(state, order, tasks, "rejected", now, why)
    else:
        state.queue.append(Waiting(order, tasks, now))


def _unfit(state: State, order: Run) -> str:
    """Why this worker can never run such a task."""
    has = state.capacity
    if order.kind not in has.kinds:
        return f"this worker cannot run kind {order.kind!r}; it runs {', '.join(has.kinds)}"
    if order.cpus_milli > has.cpus_milli or order.memory_bytes > has.memory_bytes:
        return (
            f"needs {order.cpus_milli / 1000:g} CPUs and {size_text(order.memory_bytes)} of memory; "
            f"this worker has {has.cpus_milli / 1000:g} and {size_text(has.memory_bytes)}"
        )
    if order.gpus and not {gpu.uuid for gpu in has.gpus}.issuperset(order.gpus):
        return "the GPU that it was given is not offered by this machine any more"
    return ""


def _cancel(state: State, order: Cancel, now: int) -> None:
    def meant(run: Run) -> bool:
        return run.job == order.job and order.lease in (0, run.number)

    for waiting in [waiting for waiting in state.queue if meant(waiting.order)]:
        state.queue.remove(waiting)
        _end(state, waiting.order, waiting.rest(), "cancelled", now)
    for attempts in (state.running, state.settling):
        for (lease, index), attempt in attempts.items():
            if meant(attempt.order) and not attempt.killed:
                attempt.killed = True
                state.out.append(Kill(lease, index, "cancelled", ""))


def _end(state: State, order: Run, tasks: Runs, end: AttemptEnd, now: int, reason: str = "") -> None:
    _fresh(state, Ended(order.number, order.job, tasks, end, 0, reason), now)


def _fresh(state: State, ended: Ended, now: int) -> None:
    if not state.fresh:
        state.fresh_since = now
    state.fresh.append(ended)


# Attempts


def _start(state: State, now: int) -> None:
    has = state.capacity
    while state.queue and len(state.running) < RUNNING_MAX:
        waiting = state.queue[0]
        order = waiting.order
        if state.used_cpus + order.cpus_milli > has.cpus_milli:
            break
        if state.used_memory + order.memory_bytes > has.memory_bytes:
            break
        if order.gpus and not gpus.are_free(state.used_gpus, order):
            break
        index = waiting.take()
        if not waiting.runs:
            state.queue.popleft()
        key = (order.number, index)
        attempt = state.running[key] = Attempt(order, index, now)
        if needs_preparing(order):
            attempt.began = -1
        else:
            state.untold[key] = attempt
        state.used_cpus += order.cpus_milli
        state.used_memory += order.memory_bytes
        if order.gpus:
            gpus.use(state.used_gpus, order, 1)
        state.out.append(Start(order, index))


def needs_preparing(order: Run) -> bool:
    """Whether a task of this order is not running as soon as it is started."""
    text = order.text
    if order.kind != "process" or text.inputs or text.each or text.secrets or text.params or text.disk or text.hosts:
        return True
    return template.has_any(text.command) or template.has_any(text.env.values())


def _began(state: State, stimulus: Began) -> None:
    key = (stimulus.lease, stimulus.index)
    attempt = state.running.get(key)
    if attempt is not None and attempt.began < 0:
        attempt.began = stimulus.now
        state.untold[key] = attempt


def _release(state: State, key: Key, now: int) -> Attempt | None:
    """Take a running attempt's place back."""
    attempt = state.running.pop(key, None)
    if attempt is not None:
        state.untold.pop(key, None)
        state.used_cpus -= attempt.order.cpus_milli
        state.used_memory -= attempt.order.memory_bytes
        if attempt.order.gpus:
            gpus.use(state.used_gpus, attempt.order, -1)
        state.pace.note(now - attempt.since, now)
    return attempt


def _freed(state: State, stimulus: Freed) -> None:
    key = (stimulus.lease, stimulus.index)
    if attempt := _release(state, key, stimulus.now):
        state.settling[key] = attempt


def _done(state: State, stimulus: Done) -> None:
    for end in stimulus.ends:
        key = (end.lease, end.index)
        attempt = _release(state, key, stimulus.now) or state.settling.pop(key, None)
        if attempt is None:
            continue
        order = attempt.order
        reason = mask(end.reason, order.text)[:REASON_CHARS_MAX]
        details = [end.detail] if end.detail is not None else []
        _fresh(
            state,
            Ended(order.number, order.job, [end.index, end.index], end.end, end.code, reason, details),
            stimulus.now,
        )


def _tick(state: State, stimulus: Tick) -> None:
    now = stimulus.now
    while state.queue and now - state.queue[0].since >= WAIT_MS:
        waiting = state.queue.popleft()
        _end(state, waiting.order, waiting.rest(), "returned", now)
    if state.polled_ahead:
        oldest = next(iter(state.running.values())).since if state.running else None
        if not state.pace.ahead(now, oldest):
            state.polled_ahead = 0
            state.out.append(Repoll())


def _gpus(state: State, stimulus: GpusUsable) -> None:
    state.usable = stimulus.usable
    if not state.stopping and gpus.differ(stimulus.usable, state.polled_usable):
        state.polled_usable = stimulus.usable
        state.out.append(Repoll())


def _stop(state: State, stimulus: Stop) -> None:
    if not state.stopping:
        state.stopping = True
        state.out.append(Repoll())
        while state.queue:
            waiting = state.queue.popleft()
            _end(state, waiting.order, waiting.rest(), "returned", stimulus.now)
    if stimulus.kill and not state.killing:
        state.killing = True
        for attempts in (state.running, state.settling):
            for (lease, index), attempt in attempts.items():
                if not attempt.killed:
                    attempt.killed = True
                    state.out.append(Kill(lease, index, "lost", STOPPED))


# Reports


def _save(state: State, now: int) -> None:
    """Hand what ended to the disk, one batch at a time."""
    if state.queue and len(state.fresh) < HOLD_ENDS_MAX and now - state.fresh_since < HOLD_MS:
        return
    while state.fresh and state.saving is None:
        count = take(state.fresh)
        items, state.fresh = merge(state.fresh[:count]), state.fresh[count:]
        state.batches += 1
        batch = Batch(state.batches, items)
        if all(_is_free(ended) for ended in items):
            state.saved.append(batch)
        else:
            state.saving = batch
            state.out.append(Save(batch.number, items))


def _is_free(ended: Ended) -> bool:
    """Whether losing this end costs nothing: the task never ran, or was a noop, which is free to run again."""
    return not ended.details and ended.end in ("exit", "returned") and not ended.code


def _saved(state: State, stimulus: Saved) -> None:
    batch = state.saving
    if batch is not None and batch.number == stimulus.batch:
        state.saving = None
        state.saved.append(batch)


def _send(state: State, now: int) -> None:
    """Build the next report once the one before it was answered."""
    if state.sent is not None or state.quit:
        return
    due = _due(state, now)
    bye = state.stopping and not (state.running or state.settling or state.queue or state.fresh or state.saving)
    if not (due or state.saved or bye):
        return
    items: list[ReportItem] = [Started(lease, job, tasks) for (lease, job), tasks in due.items()]
    ends: list[Ended] = []
    state.sent_batches = []
    while state.saved:
        more = ends + state.saved[0].items
        if ends and take(more) < len(more):
            break
        ends = more
        state.sent_batches.append(state.saved.popleft().number)
    state.sequence += 1
    bye = bye and not state.saved
    state.sent = Report(state.session, state.sequence, items + ends, bye)
    state.out.append(Send(state.sent))


def _due(state: State, now: int) -> dict[tuple[int, str], Runs]:
    """The tasks to report as started, which are then told."""
    due: dict[tuple[int, str], list[int]] = {}
    for key, attempt in list(state.untold.items()):
        if now - attempt.began >= STARTED_MS:
            del state.untold[key]
            due.setdefault((attempt.order.number, attempt.order.job), []).append(attempt.index)
    return {key: runs_of(sorted(indexes)) for key, indexes in due.items()}


def _answered(state: State, stimulus: Answered) -> None:
    sent = state.sent
    if sent is None or sent.sequence != stimulus.sequence:
        return
    if stimulus.denied == "superseded":
        _quit(state, EXIT_SUPERSEDED, superseded(stimulus.detail))
        return
    if stimulus.denied == "unknown_session":
        # The shell goes on sending this report; it is taken once the session is known.
        if not state.greet:
            state.greet = True
            state.out.append(Repoll())
        return
    state.sent = None
    if state.sent_batches:
        state.out.append(Forget(state.sent_batches))
        state.sent_batches = []
    # An order that crossed the good-bye is given back in another.
    if sent.bye and state.idle():
        _quit(state, 0, STOPPED)


def superseded(detail: str) -> str:
    """What to tell the person whose agent was pushed aside."""
    return f"another agent has taken this worker's place: {detail}; give each machine a state folder of its own"


def _quit(state: State, code: int, why: str) -> None:
    state.quit = True
    state.out.append(Quit(code, why))


_RULES: dict[type, Callable[[State, Any], None]] = {
    Ordered: _ordered,
    Adopted: adopted,
    Slept: slept,
    Denial: _denial,
    Began: _began,
    Freed: _freed,
    Done: _done,
    Saved: _saved,
    Answered: _answered,
    Tick: _tick,
    GpusUsable: _gpus,
    Stop: _stop,
}
