"""The agent: one worker's machine, hosted. It composes the parts, talks to the platform and listens to signals.

Four conversations, each its own loop and never more than one request at a time: polls (down), reports and output (up),
heartbeats. Losing the platform stops none of the work; coming back resumes each where it was.
"""

import asyncio
import contextlib
import gc
import random
import secrets
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
import uvloop

from events import protocol
from events.protocol import POLL_S_MAX, Denied, Hello, Orders, Poll, Report, ReportAnswer
from events.worker import Capacity
from infra.engine import Engine
from infra.link import Link, LinkDown, LinkTimeout, NoResponders, Reply
from worker import confine, containers_left, identity, place, python, usage
from worker.api import Api
from worker.cache import Cache
from worker.credential import WorkerCredential
from worker.executors.base import require_linux
from worker.keeper.client import KeeperClient
from worker.machine import EXIT_SUPERSEDED
from worker.messages import Denial, GpusUsable, Ordered, Quit, Stop
from worker.options import AgentOptions
from worker.resources import Resources, measuring
from worker.shell import Shell, clock
from worker.spool import Spool
from worker.state import State, next_poll, reserved, waiting_count, waiting_for
from worker.voice import Voice

RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0
POLL_SPARE_S = 5.0
"""How much longer than the longest poll an answer is waited for."""
REPOLL_S_MAX = 0.05
REPOLL_EACH_S = 1.0
QUICK_S = 0.01
"""An empty answer sooner than this is not waiting: the next poll is delayed."""
ANSWER_S = 1.5
BYE_S = 5.0
"""How long the agent tries to say good-bye once nothing runs any more, after a second signal."""
EMPTY_BYE_S = 2.0
"""The same when everything is recorded, so that only the platform's knowledge of it is at stake."""
SESSION_CHARS = 12
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
NONCE_BYTES = 16
COLLECT_EACH = 50_000
EXIT_FAILED = 1

_NOTHING = Denied("slow_down", "")
"""What an answer counts as that is not the hive's."""

_log = structlog.get_logger()


def run(options: AgentOptions) -> int:
    """Run a worker until a signal; the exit code. Once: finish what runs; twice: end it. Raises identity.StateInUse."""
    require_linux()
    return uvloop.run(serve(options))


async def serve(options: AgentOptions, signals: bool = True) -> int:
    """As `run`, in the running loop."""
    with identity.claim(options.state):
        return await Agent(options).run(signals)


def _listen(agent: "Agent") -> None:
    def heard() -> None:
        agent.stop()
        sys.stderr.write(f"{agent.waiting_for()}\n")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, heard)


class Agent:
    """One session of one worker."""

    def __init__(self, options: AgentOptions) -> None:
        self.options = options
        self.session = "".join(secrets.choice(ALPHABET) for _ in range(SESSION_CHARS))
        self._nonce, self._since_boot_ms = secrets.token_hex(NONCE_BYTES), usage.since_boot_ms()
        self._link: Link
        self._credential: WorkerCredential
        self._voice: Voice
        self._shell: Shell
        self._resources: Resources
        self._quit: asyncio.Future[Quit] = asyncio.get_running_loop().create_future()
        self._asking: set[asyncio.Future[Reply]] = set()
        self._poll_again = False
        self._pushed_at = 0.0
        self._report: Report | None = None
        self._report_wake = asyncio.Event()
        self._stops = 0
        self.ready = asyncio.Event()
        """Set once the platform has taken the Hello."""

    # Life

    async def run(self, signals: bool = False) -> int:
        """Work until stopped; the exit code."""
        options, state_folder = self.options, self.options.state
        spool_folder = state_folder / "spool"
        spool_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tasks_root = str((state_folder / "tasks").absolute())
        self._resources = await asyncio.to_thread(measuring, options, self._container_ids)
        engine = await Engine.find() if options.engines == "auto" else None
        async with contextlib.AsyncExitStack() as stack:
            api = Api(options.api_url, options.api_trust)
            stack.push_async_callback(api.close)
            self._credential = WorkerCredential(options.worker, options.seed, state_folder, api)
            await self._credential.first()
            known = self._credential
            self._voice = Voice(options.pool, options.worker, lambda: known.signer, lambda: known.pin.key, known.doubt)
            who = known.credential
            name, inbox = f"worker {options.worker}", f"_INBOX_{options.worker}"
            self._link = await Link.open(options.nats_url, who, name, inbox, wait_s=0, trust=options.nats_trust)
            stack.push_async_callback(self._link.close)
            await self._compose(stack, spool_folder, tasks_root, api, engine)
            if signals:  # before, there is nothing that a signal should spare
                _listen(self)
            return await self._work(stack)

    async def _compose(
        self, stack: contextlib.AsyncExitStack, spool_folder: Path, tasks_root: str, api: Api, engine: Engine | None
    ) -> None:
        options = self.options
        spool = Spool(spool_folder)
        stack.callback(spool.close)
        memory = options.memory_bytes or usage.memory_bytes()
        means = await confine.prepare(
            options.worker, options.isolation, options.rules, memory, options.state / "volumes"
        )
        stack.callback(self._resources.close)
        interpreter = python.find_interpreter()
        kinds = ["process", "noop", "shell", *(["python"] if interpreter else []), *(["container"] if engine else [])]
        features, milli = means.confiner.features(bool(engine)), round((options.cpus or usage.cpus()) * 1000)
        capacity = Capacity(milli, memory, tuple(kinds), features, self._resources.offered)
        hello = Hello(usage.boot_id(), capacity, options.version, self._nonce, since_boot_ms=self._since_boot_ms)
        state = State(self.session, hello, spool.unreported)
        cache = Cache(options.state / "cache", api, options.cache_bytes_max)
        places = place.Places(tasks_root, cache, api, options.urls, self._credential.seed)
        stack.push_async_callback(places.close)
        places.volumes = means.volumes
        shell = self._shell = Shell(
            state, spool, places, means.confiner, self._take_report, self._repoll, self._quitting
        )
        shell.keeper = KeeperClient(
            options.state, options.worker, options.version, options.spool_bytes_max,
            shell.on_ended, shell.on_output_settled, shell.flush, self._keeper_killed,
            lambda why: self._quitting(Quit(EXIT_FAILED, why)),
        )  # fmt: skip
        stack.callback(shell.keeper.close)
        if interpreter:
            shell.environments = python.Environments(options.state / "environments", interpreter, options.packages)
            stack.push_async_callback(shell.environments.close)
        kept = await shell.keeper.open(self.session, self._output_subject)
        used = {one.folder for one in kept}
        if means.volumes is not None:
            await asyncio.to_thread(means.volumes.clear, tasks_root, used)
        await asyncio.to_thread(place.clear, tasks_root, used)
        shell.adopt(kept)
        if engine is not None:
            await containers_left.clear(engine, options, kept)
        shell.on_measure = self._resources.adjust
        stack.push_async_callback(shell.close)

    @property
    def _output_subject(self) -> str:
        return f"req.{self.options.pool}.{self.options.worker}.output"

    def _keeper_killed(self) -> None:
        _log.error("worker.keeper_killed", then="its tasks are lost; another one is started")
        self._shell.all_lost()
        if "container" in self._shell.state.capacity.kinds:
            self._clearing = self._start(self._clear())

    async def _clear(self) -> None:
        engine = await Engine.find()
        if engine is not None:
            await containers_left.clear(engine, self.options, [])

    async def _work(self, stack: contextlib.AsyncExitStack) -> int:
        options, base = self.options, f"req.{self.options.pool}.{self.options.worker}"
        for who in (f"{options.worker}.{self._nonce}", "all"):
            subscription = await self._link.subscribe(f"push.{options.pool}.{who}.poll", self._pushed)
            stack.callback(subscription.close)
        self._shell.keeper.deliver_through(self._link, self._voice)
        # What is here now lives as long as the agent: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_EACH)
        loops = [
            self._start(self._poll_loop(f"{base}.next")),
            self._start(self._report_loop(f"{base}.report")),
            self._start(self._heartbeat_loop(f"hb.{options.pool}.{options.worker}")),
            self._start(self._credential.run(self._link)),
            self._start(self._credential.tell(self._link)),
        ]
        try:
            quit_ = await self._quit
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        if not quit_.code or quit_.code == EXIT_SUPERSEDED:
            await self._shell.keeper.leave()
        if quit_.code:
            _log.error("worker.stopped", why=quit_.why)
            sys.stderr.write(f"worker {options.worker}: {quit_.why}\n")
        return quit_.code

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A loop of the agent; it ends only by cancellation, so an exception is a bug and stops the agent."""

        def look(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("worker.bug", exc_info=error)
                self._quitting(Quit(EXIT_FAILED, f"a bug: {error!r}"))

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(look)
        return task

    def _quitting(self, quit_: Quit) -> None:
        if not self._quit.done():
            self._quit.set_result(quit_)

    def _container_ids(self) -> list[str]:
        return list(self._shell.keeper.containers.values())

    # Stopping

    def stop(self) -> None:
        """The first time: take nothing new, finish what runs. The second: end it. From then on, leave soon."""
        self._stops += 1
        self._shell.feed(Stop(clock(), kill=self._stops > 1))
        state = self._shell.state
        if self._stops > 1:
            self._leave_after(BYE_S)
        elif state.idle() or (state.sent is not None and state.sent.bye and not state.sent.items):
            self._leave_after(EMPTY_BYE_S)

    def _leave_after(self, seconds: float) -> None:
        why = Quit(0, "stopped; what is not recorded yet is kept and told at the next start")
        asyncio.get_running_loop().call_later(seconds, self._quitting, why)

    def waiting_for(self) -> str:
        """What keeps a stopping agent, for people."""
        return waiting_for(self._shell.state, self._link.connected, self._stops)

    # Orders

    async def _poll_loop(self, subject: str) -> None:
        loop = asyncio.get_running_loop()
        pause, told = RETRY_S_MIN, ""
        while True:
            self._poll_again = False
            poll = next_poll(self._shell.state, clock())
            began = loop.time()
            answer = await self._ask(subject, poll)
            if isinstance(answer, Denied) and answer.code in ("superseded", "malformed"):
                self._shell.feed(Denial(answer.code, answer.detail, clock()))
                return
            if isinstance(answer, Denied) and answer.code in ("two_machines", "unverified") and told != answer.code:
                told = answer.code
                _log.warning(f"worker.{told}", why=answer.detail, then="trying again until it is let in")
            if isinstance(answer, Orders):
                self._shell.feed(Ordered(answer, clock(), poll.hello is not None))
                if not self._shell.state.greet:
                    self.ready.set()
                if answer.orders or (loop.time() - began > QUICK_S and not answer.resync):
                    pause = RETRY_S_MIN
                    continue
            elif answer is None and self._poll_again:
                continue
            if answer is None and not self._link.connected:
                await self._link.wait_connected()
                pause = RETRY_S_MIN
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(RETRY_S_MAX, pause * 2)

    async def _ask(self, subject: str, poll: Poll) -> Orders | Denied | None:
        """The hive's answer to a poll; None when there was none, or it was abandoned."""
        data = protocol.pack(poll)
        if poll.hello is not None:
            data = self._voice.sign("hello", data)
        try:
            said = await self._request(subject, data, POLL_S_MAX + POLL_SPARE_S)
        except (LinkDown, LinkTimeout, NoResponders):
            return None
        body = self._voice.believed("next", poll, said)
        return protocol.poll_answer_of(body) if body is not None else None

    async def _request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """An answer. Raises LinkTimeout also when the platform says that who was asked may be gone."""
        asking = asyncio.ensure_future(self._link.request(subject, data, timeout_s))
        self._asking.add(asking)
        try:
            await asyncio.wait([asking])
        finally:
            self._asking.discard(asking)
            asking.cancel()
        if asking.cancelled():
            raise LinkTimeout("asked again")
        return asking.result().data

    def _repoll(self) -> None:
        """Abandon what waits for an answer, the poll and a report; both are sent again at once."""
        self._poll_again = True
        for asking in self._asking:
            asking.cancel()

    def _pushed(self, subject: str, reply: str, data: bytes) -> None:
        """The platform says: poll again. With jitter, since it says so to all, and at most once a second.

        It says so with nothing: bytes are an answer that another worker had sent here instead of to itself.
        """
        if data:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._pushed_at:
            return
        self._pushed_at = now + REPOLL_EACH_S
        loop.call_later(random.uniform(0, REPOLL_S_MAX), self._repoll)

    # Reports

    def _take_report(self, report: Report) -> None:
        self._report = report
        self._report_wake.set()
        if report.bye and not report.items and self._stops:
            self._leave_after(EMPTY_BYE_S)

    async def _report_loop(self, subject: str) -> None:
        while True:
            await self._report_wake.wait()
            self._report_wake.clear()
            report = self._report
            assert report is not None
            answer = await self._deliver(subject, report)
            if isinstance(answer, Denied):
                _log.error("worker.report_refused", code=answer.code, why=answer.detail, items=len(report.items))
                self._shell.answered(report.sequence, answer.code, answer.detail)
            else:
                self._shell.answered(report.sequence)

    async def _deliver(self, subject: str, report: Report) -> ReportAnswer:
        """Send a report until it is answered for good."""
        body, signer, data = protocol.pack(report), None, b""
        pause = RETRY_S_MIN
        while True:
            if signer is not self._credential.signer:  # once, and again with each other key
                signer, data = self._credential.signer, self._voice.sign("report", body)
            try:
                said = self._voice.believed("report", report, await self._request(subject, data, ANSWER_S))
                answer = protocol.report_answer_of(said) if said is not None else _NOTHING
                if not isinstance(answer, Denied) or answer.code in ("superseded", "malformed"):
                    return answer
                if answer.code == "unknown_session":
                    self._shell.answered(report.sequence, answer.code, answer.detail)
            except (LinkTimeout, NoResponders):
                pass
            except LinkDown:
                await self._link.wait_connected()
                pause = RETRY_S_MIN
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(RETRY_S_MAX, pause * 2)

    # Beside

    async def _heartbeat_loop(self, subject: str) -> None:
        resources, state = self._resources, self._shell.state
        while True:
            counts = len(state.running), waiting_count(state)
            sample = await asyncio.to_thread(resources.sample, self.session, *counts)
            if resources.offered:
                self._shell.feed(GpusUsable(resources.usable(reserved(state)), clock()))
            with contextlib.suppress(LinkDown):
                self._link.send(subject, protocol.pack(sample.beat))
                resources.told()
            await resources.wait()
