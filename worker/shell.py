"""Carries the machine's instructions out and tells it what became of them: a table from instruction to method."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from events.base import expand
from events.protocol import Report, Run
from events.task import AttemptEnd, Detail, FileRef
from worker import gpus, machine
from worker.api import Unavailable
from worker.confine import Confiner
from worker.emits import emits, emitted
from worker.executors.base import STDERR, Failed, Launch, Ran, Rejected
from worker.inputs import environment
from worker.keeper import wire
from worker.keeper.client import KeeperClient, ran_of
from worker.messages import (
    Adopted,
    Answered,
    Began,
    Done,
    End,
    Forget,
    Freed,
    Instruction,
    Kill,
    Measure,
    Quit,
    Repoll,
    Save,
    Saved,
    Send,
    Start,
    Stimulus,
    Tick,
)
from worker.place import Places, give
from worker.program import as_typed, program
from worker.python import Environments, prepare
from worker.results import NotWritten
from worker.spool import Spool
from worker.state import Key, State

TICK_S = 0.025
SUCCEEDED = ("exit", 0)
KEEPER_KILLED = "the process that keeps this worker's tasks was killed, and they with it"

_log = structlog.get_logger()


def clock() -> int:
    """Milliseconds that only go on."""
    return time.monotonic_ns() // 1_000_000


class Settling:
    """An attempt whose process is gone, while its output and results are made safe."""

    __slots__ = ("cancelled", "detail", "output", "ran", "results")

    def __init__(self, ran: Ran, output: bool) -> None:
        self.ran = ran
        self.detail = detail_of(ran)
        self.output = output
        """Whether output is still on its way."""
        self.results: asyncio.Task[None] | None = None
        self.cancelled: Kill | None = None


def detail_of(ran: Ran) -> Detail:
    """What the attempt used."""
    return Detail(ran.started_at, ran.wall_ms, ran.cpu_ms, ran.memory_peak, memory_avg=ran.memory_avg)


class Shell:
    """Hosts one machine. `on_report`, `on_repoll` and `on_quit` are the agent's."""

    def __init__(
        self,
        state: State,
        spool: Spool,
        places: Places,
        confiner: Confiner,
        on_report: Callable[[Report], None],
        on_repoll: Callable[[], None],
        on_quit: Callable[[Quit], None],
    ) -> None:
        self.state, self._spool, self._places, self._confiner = state, spool, places, confiner
        self.keeper: KeeperClient
        self.environments: Environments | None = None
        """Of Python tasks, where there is a Python."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Stimulus] = deque()
        self._feeding = False
        self._freed: list[Key] = []
        self._ends: list[End] = []
        self._preparing: dict[Key, asyncio.Task[None]] = {}
        self._settling: dict[Key, Settling] = {}
        self._saving: set[asyncio.Task[None]] = set()
        self._forgotten: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._on_quit = on_quit
        self.on_measure: Callable[[int], None] = lambda each_ms: None
        self._table: dict[type[Instruction], Callable[[Any], None]] = {
            Start: self._start,
            Kill: self._kill,
            Save: self._save,
            Send: lambda instruction: on_report(instruction.report),
            Forget: self._forget,
            Repoll: lambda instruction: on_repoll(),
            Measure: lambda instruction: self.on_measure(instruction.each_ms),
            Quit: on_quit,
        }

    def feed(self, stimulus: Stimulus) -> None:
        """Tell the machine, and do what it says. What that brings about is told next, not in between."""
        self._waiting.append(stimulus)
        self._pump()

    def flush(self) -> None:
        """Tell the machine of the attempts that ended in this round."""
        self._gather()
        self._pump()

    def _pump(self) -> None:
        if self._feeding or not self._waiting:
            return
        self._feeding = True
        try:
            while self._waiting:
                for instruction in machine.step(self.state, self._waiting.popleft()):
                    self._table[type(instruction)](instruction)
                self._gather()
        finally:
            self._feeding = False
        if self._timer is None and machine.wants_ticks(self.state):
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick(clock()))

    def _gather(self) -> None:
        now = clock()
        if self._freed:
            self._waiting.extend(Freed(lease, index, now) for lease, index in self._freed)
            self._freed = []
        if self._ends:
            self._waiting.append(Done(self._ends, now))
            self._ends = []

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` aside. An exception in it is a bug, and stops the agent: it is started again."""
        task = self._loop.create_task(work)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("worker.bug", exc_info=error)
            self._on_quit(Quit(machine.EXIT_FAILED, f"a bug: {error!r}"))

    async def close(self) -> None:
        """Stop everything that was started here; nothing is reported any more."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._preparing.values(), *(s.results for s in self._settling.values() if s.results)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._saving, return_exceptions=True)

    # Starting

    def _start(self, start: Start) -> None:
        order, index = start.order, start.index
        key = (order.number, index)
        if machine.needs_preparing(order):
            self._preparing[key] = self._watched(self._prepare(order, index))
            return
        try:
            folder = self._places.make(key)
        except Rejected as error:
            self._ends.append(End(*key, "rejected", 0, str(error)))
            return
        try:
            box = self._confiner.box(order, folder)
            if box is not None:
                give(folder, box.uid)
            env = order.text.env | gpus.environment(self.state.capacity, order)
        except Rejected as error:
            self._places.remove(key)
            self._ends.append(End(*key, "rejected", 0, str(error)))
            return
        self.keeper.spawn(Launch(order, index, folder, order.text.command, env, box))

    async def _prepare(self, order: Run, index: int) -> None:
        """Fetch what the task needs, then start it."""
        key = (order.number, index)
        try:
            await self._launch(order, index, key)
        except Rejected as error:
            self._places.remove(key)
            self.keeper.drop(key)  # it may have told how far it came
            self._ends.append(End(*key, "rejected", 0, str(error)))
            self._preparing.pop(key, None)
            self.flush()
        except Failed as error:
            self._preparing.pop(key, None)
            self.keeper.fail(order, index, self._places.path(key), error.code, str(error))
        except BaseException:
            self._places.remove(key)
            self.keeper.drop(key)
            raise
        else:
            self._preparing.pop(key, None)
            self.feed(Began(*key, clock()))

    async def _launch(self, order: Run, index: int, key: Key) -> None:
        places = self._places
        own = await places.each(order, index)
        folder = places.make(key)
        if size := self._confiner.disk(order):
            await places.bound(key, size)
        await places.fill(order, folder, own)
        secrets = await places.secrets(order, index)
        python = None
        if order.kind == "python" and self.environments is not None:
            python = await prepare(
                self.environments, order, folder, lambda said: self.keeper.write(order, index, STDERR, said)
            )
            if python.environment:
                places.hold(key, lambda: self._release(python.environment))
        box = self._confiner.box(order, folder, [python.environment] if python and python.environment else [])
        home = box.home if box is not None else folder
        args, env = program(order, index, own, home)
        if python is not None:
            args = [python.interpreter, f"{home}/{python.entry}", *args]
        env |= environment(order, own, home) | secrets | gpus.environment(self.state.capacity, order)
        if box is not None:
            await asyncio.to_thread(give, folder, box.uid)
        try:
            await self.keeper.launch(Launch(order, index, folder, args, env, box))
        except Rejected as error:
            raise Rejected(as_typed(str(error), order, args)) from None

    def _release(self, environment: str) -> None:
        if self.environments is not None:
            self.environments.release(environment)

    def _kill(self, kill: Kill) -> None:
        key = (kill.lease, kill.index)
        preparing = self._preparing.pop(key, None)
        settling = self._settling.get(key)
        if preparing is not None:
            preparing.cancel()
            self._ends.append(End(*key, kill.end, 0, kill.reason))
        elif settling is not None:
            settling.cancelled = kill
            if settling.results is not None:
                settling.results.cancel()
                settling.results = None
            self.keeper.drop(key)
            self._check(key)
        elif key in self.keeper.running:
            # A worker that stops now does not wait; a cancelled task may clean up.
            grace = 0 if kill.end == "lost" else self.state.running[key].order.text.grace
            self.keeper.kill(key, kill.end, kill.reason, grace)

    # An earlier agent's

    def adopt(self, kept: list[wire.Kept]) -> None:
        """Go on with what the keeper has. Told before anything else."""
        now = clock()
        self._places.adopt({(one.order.number, one.index): one.folder for one in kept})
        self.feed(Adopted([(one.order, one.index, now - one.age_ms) for one in kept], now))
        for one in kept:
            key = (one.order.number, one.index)
            if key not in self.state.running:
                self._places.remove(key)
                self.keeper.forget([key])
            elif one.ended is not None:
                self.on_ended(ran_of(one.ended, one), one.ended.output)
                if (settled := one.settled) is not None:
                    self.on_output_settled(key, settled.digest, settled.size, settled.lost)
        self.flush()

    def all_lost(self) -> None:
        """The keeper was killed, and with it all that it had."""
        for key in [*self.state.running, *self.state.settling]:
            if key in self._preparing:
                continue
            settling = self._settling.pop(key, None)
            if settling is not None and settling.results is not None:
                settling.results.cancel()
            self._places.remove(key)
            self._ends.append(End(*key, "lost", 0, KEEPER_KILLED))
        self.flush()

    # Ending

    def on_ended(self, ran: Ran, has_output: bool) -> None:
        """Nothing of an attempt runs any more. `flush` follows."""
        key = ran.key
        text = ran.order.text
        # What a stopped task has by then is kept, too; a worker that stops has no time for it.
        takes_results = ran.end != "lost" and (bool(text.results) or emits(self._places.path(key)))
        if not has_output and not takes_results:
            self._places.remove(key)
            self._ends.append(End(*key, ran.end, ran.code, ran.reason, detail_of(ran)))
            return
        settling = self._settling[key] = Settling(ran, has_output)
        self._freed.append(key)
        if takes_results:
            settling.results = self._watched(self._collect(settling))
        else:
            self._places.remove(key)

    def on_output_settled(self, key: Key, digest: str, size: int, lost: str) -> None:
        """An ended attempt's output is safe, or nobody wants it. `flush` follows."""
        settling = self._settling.get(key)
        if settling is None:
            return  # it was dropped, or is told of once more
        settling.output = False
        settling.detail = msgspec.structs.replace(settling.detail, out_size=size, out=digest)
        if lost:
            self._output_lost(settling.ran, lost)
        self._check(key)

    @staticmethod
    def _output_lost(ran: Ran, why: str) -> None:
        # Only a success becomes one: why a task failed says more.
        if (ran.end, ran.code) == SUCCEEDED:
            ran.end, ran.reason = "output_lost", why

    async def _collect(self, settling: Settling) -> None:
        ran = settling.ran
        folder = self._places.path(ran.key)
        found: list[FileRef] = []
        document = ""
        told = await asyncio.to_thread(emitted, folder)
        try:
            found = await self._places.collect(ran.order, folder, [*told.artifacts], (ran.end, ran.code) == SUCCEEDED)
            document = await self._places.store(ran.order, told.document())
        except NotWritten as error:
            self._output_lost(ran, str(error))
        except Unavailable as error:
            self._output_lost(ran, f"its results could not be stored: {error}")
        finally:
            self._places.remove(ran.key)
        settling.detail = msgspec.structs.replace(
            settling.detail, results=found, progress=told.percent, emitted=document
        )
        settling.results = None
        self._check(ran.key)
        self.flush()

    def _check(self, key: Key) -> None:
        """Tell the machine once nothing is on its way any more."""
        settling = self._settling.get(key)
        if settling is None or settling.output or settling.results is not None:
            return
        del self._settling[key]
        ran, kill = settling.ran, settling.cancelled
        end: AttemptEnd = kill.end if kill else ran.end
        reason = kill.reason if kill else ran.reason
        self._ends.append(End(*key, end, ran.code, reason, settling.detail))

    # Reports

    def _save(self, save: Save) -> None:
        task = self._watched(self._save_batch(save))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def _save_batch(self, save: Save) -> None:
        try:
            await asyncio.to_thread(self._spool.save, save.batch, save.items)
            self.keeper.forget((ended.lease, index) for ended in save.items for index in expand(ended.tasks))
        except OSError as error:
            # Going on risks these results only if the agent dies before they are recorded; waiting risks all work.
            _log.error("worker.spool_failed", why=str(error), tasks=len(save.items))
        forgotten, self._forgotten = self._forgotten, []
        self._spool.forget(forgotten)
        self.feed(Saved(save.batch, clock()))

    def _forget(self, forget: Forget) -> None:
        if self.state.saving is not None:
            self._forgotten += forget.batches  # the spool does one thing at a time
        else:
            self._spool.forget(forget.batches)

    def answered(self, sequence: int, denied: str = "", detail: str = "") -> None:
        """The report was answered."""
        self.feed(Answered(sequence, clock(), denied, detail))
