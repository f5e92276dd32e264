"""The agent's side of its keeper: finds the one that runs or starts one, and is an executor for those who launch tasks."""

import asyncio
import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import structlog

from events import protocol
from events.protocol import Run
from events.task import AttemptEnd
from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from worker.executors.base import GRACE_S, Launch, Ran, Rejected
from worker.keeper import wire
from worker.keeper.line import LEAVE_S, SOCKET, Line, connected
from worker.state import Key
from worker.voice import Voice

WELCOME_S = 15.0
TRIES_MAX = 3
BACKLOG = 4

_log = structlog.get_logger()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class KeeperAway(Exception):
    """No keeper could be started, or found; the text says why."""


class KeeperClient:
    """A worker's keeper, for its agent. `on_ended(ran, output)` and `on_settled(key, digest, size, lost)` as the keeper
    tells, `on_round()` after some of those, `on_killed()` when it was killed, with all that it had: another one is started;
    `on_away(why)` when that is in vain.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        version: str,
        spool_bytes_max: int,
        on_ended: Callable[[Ran, bool], None],
        on_settled: Callable[[Key, str, int, str], None],
        on_round: Callable[[], None],
        on_killed: Callable[[], None],
        on_away: Callable[[str], None],
    ) -> None:
        self._folder, self._worker, self._version, self._spool_max = folder, worker, version, spool_bytes_max
        self._on_ended, self._on_settled, self._on_round = on_ended, on_settled, on_round
        self._on_killed, self._on_away = on_killed, on_away
        self._session = self._subject = ""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._line: Line | None = None
        self._process: Popen[bytes] | None = None
        self._orders: list[wire.Order] = []
        self._number = 0
        self._launching: dict[int, asyncio.Future[str]] = {}
        self._orders_of: dict[Key, Launch | wire.Kept] = {}
        self._welcome: asyncio.Future[wire.Welcome] = self._loop.create_future()
        self._asks: set[asyncio.Task[None]] = set()
        self._deliver: Callable[[bytes, float], Coroutine[Any, Any, bytes | None]] | None = None
        self._is_other = False
        """Whether the keeper is of another version, and is to be replaced once it keeps nothing."""
        self.running: dict[Key, None] = {}
        """The attempts that were launched and have not ended."""
        self.containers: dict[Key, str] = {}
        """The ids of those that run in one."""
        self.pid = 0
        self._table: dict[type, Callable[[Any], None]] = {
            wire.Welcome: self._welcomed,
            wire.Refusal: self._refusal,
            wire.Began: self._began,
            wire.Refused: self._refused,
            wire.Ended: self._ended,
            wire.Settled: self._settled,
            wire.Ask: self._ask,
        }

    # Coming and going

    async def open(self, session: str, subject: str) -> list[wire.Kept]:
        """Find the keeper that runs, or start one; what it keeps. Raises KeeperAway."""
        self._session, self._subject = session, subject
        why = ""
        for _ in range(TRIES_MAX):
            try:
                welcome = await self._open()
            except (OSError, TimeoutError, KeeperAway) as error:
                why = str(error) or "it does not answer"
                self._hang_up()
                continue
            self.pid = welcome.pid
            self._is_other = welcome.version != self._version
            if self._is_other and not welcome.kept:
                self._renew()
                continue
            for kept in welcome.kept:
                if kept.ended is None:
                    self.running[kept.order.number, kept.index] = None
                    if kept.container:
                        self.containers[kept.order.number, kept.index] = kept.container
                self._orders_of[kept.order.number, kept.index] = kept
            return welcome.kept
        raise KeeperAway(f"what keeps this worker's tasks ({self._folder / SOCKET}) cannot be reached: {why}")

    async def _open(self) -> wire.Welcome:
        at = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{at}/{SOCKET}"  # a socket's own path may have 107 characters only
            reached = connected(path)
            if reached is None:
                self._spawn(path)
                reached = connected(path)
            if reached is None:
                raise KeeperAway("its socket does not take connections")
        finally:
            os.close(at)
        _, self._line = await self._loop.create_unix_connection(lambda: Line(self), sock=reached)
        self._orders.insert(0, wire.Attach(wire.PROTOCOL, self._worker, self._session, self._subject))
        self.flush()
        async with asyncio.timeout(WELCOME_S):
            return await self._welcome

    def _spawn(self, path: str) -> None:
        """Start a keeper on a new socket. It outlives this process and its terminal."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            os.chmod(path, 0o600)
            listening.listen(BACKLOG)
            fd = listening.fileno()
            words = [str(self._folder), self._worker, self._version, str(self._spool_max), str(fd)]
            with open(self._folder / "keeper.log", "ab", opener=_private) as log:
                self._process = Popen(
                    [sys.executable, "-m", "worker.keeper", *words],
                    stdin=DEVNULL, stdout=log, stderr=log, pass_fds=(fd,), start_new_session=True,
                    env={name: os.environ[name] for name in PASSED if name in os.environ},
                )  # fmt: skip

    async def leave(self) -> None:
        """End everything that it keeps, and the keeper; return once it has gone, after some seconds at most."""
        self._closed = True
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            self._say(wire.Leave())
            self.flush()
            await asyncio.to_thread(select.select, [pidfd], [], [], LEAVE_S)
            os.close(pidfd)

    def close(self) -> None:
        """Hang up: the next agent finds the keeper with all that it has."""
        self._closed = True
        for task in self._asks:
            task.cancel()
        self._hang_up()

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        self._welcome = self._loop.create_future()
        if line is not None:
            line.close()
        if self._process is not None:
            self._process.poll()  # or a dead one would stay in the list of processes

    def lost(self) -> None:
        """The keeper hung up."""
        if self._closed:
            return
        if not self._welcome.done():
            self._line = None
            self._welcome.set_exception(KeeperAway("it ended"))
            return
        self._hang_up()
        for waiting in self._launching.values():
            if not waiting.done():
                waiting.set_exception(Rejected("what keeps this worker's tasks was killed"))
        self._launching.clear()
        self.running.clear()
        self.containers.clear()
        self._orders_of.clear()
        self._orders.clear()
        self._on_killed()
        self._reopen()

    def _reopen(self) -> None:
        task = self._loop.create_task(self._open_again())
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _open_again(self) -> None:
        try:
            await self.open(self._session, self._subject)
        except KeeperAway as error:
            self._on_away(str(error))

    # What it says

    def hear(self, words: list[wire.Word]) -> None:
        """Take in what it says."""
        for word in words:
            self._table[type(word)](word)
        self._on_round()

    def _welcomed(self, word: wire.Welcome) -> None:
        if not self._welcome.done():
            self._welcome.set_result(word)

    def _refusal(self, word: wire.Refusal) -> None:
        if not self._welcome.done():
            self._welcome.set_exception(KeeperAway(word.reason))

    def _began(self, word: wire.Began) -> None:
        waiting = self._launching.pop(word.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(word.container)

    def _refused(self, word: wire.Refused) -> None:
        waiting = self._launching.pop(word.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(Rejected(word.reason))

    def _ended(self, word: wire.Ended) -> None:
        key = (word.lease, word.index)
        self.running.pop(key, None)
        self.containers.pop(key, None)
        launched = self._orders_of.get(key)
        if launched is not None:
            self._on_ended(ran_of(word, launched), word.output)

    def _settled(self, word: wire.Settled) -> None:
        self._on_settled((word.lease, word.index), word.digest, word.size, word.lost)

    def deliver_through(self, link: Link, voice: Voice) -> None:
        """From now on, output goes to the platform over this link, and the answers that this voice believes come back."""

        async def deliver(data: bytes, timeout_s: float) -> bytes | None:
            said = await link.request(self._subject, data, timeout_s)
            return voice.believed("output", protocol.output_of(data), said.data)

        self._deliver = deliver

    def _ask(self, word: wire.Ask) -> None:
        task = self._loop.create_task(self._answer(word))
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _answer(self, word: wire.Ask) -> None:
        answer = wire.Answer(word.number, failed=True)
        if self._deliver is not None:
            with contextlib.suppress(LinkDown, LinkTimeout, NoResponders):
                body = await self._deliver(word.data, word.timeout_ms / 1000)
                if body is not None:
                    answer = wire.Answer(word.number, body)
        self._say(answer)
        self.flush()

    # What it is told

    def _say(self, order: wire.Order) -> None:
        if not self._orders:
            self._loop.call_soon(self.flush)
        self._orders.append(order)

    def flush(self) -> None:
        """Send what there is to say."""
        orders, self._orders = self._orders, []
        if orders and self._line is not None:
            self._line.write(wire.frame(orders))
        elif not self._closed:
            self._orders = orders  # another keeper is on its way

    def spawn(self, launch: Launch) -> None:
        """Start a process; what cannot be started ends as rejected."""
        self._launch(launch, 0)

    async def launch(self, launch: Launch) -> None:
        """Start an attempt; when this returns it runs. Raises Rejected."""
        self._number += 1
        number, key = self._number, (launch.order.number, launch.index)
        waiting = self._launching[number] = self._loop.create_future()
        self._launch(launch, number)
        try:
            container = await waiting
            if container and key in self.running:
                self.containers[key] = container
        except Rejected:
            self.running.pop(key, None)
            self._orders_of.pop(key, None)
            raise
        except asyncio.CancelledError:
            self._launching.pop(number, None)
            self.kill(key, "cancelled", "", 0)
            self.running.pop(key, None)
            self._orders_of.pop(key, None)
            raise

    def _launch(self, launch: Launch, number: int) -> None:
        key = (launch.order.number, launch.index)
        self._orders_of[key] = launch
        self.running[key] = None
        order = wire.Launch(launch.order, launch.index, launch.folder, launch.args, launch.env, number, launch.box)
        self._say(order)

    def kill(self, key: Key, end: AttemptEnd, reason: str, grace_s: float = GRACE_S) -> None:
        """End an attempt (see executors.base.Executor)."""
        self._say(wire.Kill(*key, end, reason, round(grace_s * 1000)))

    def write(self, order: Run, index: int, stream: int, data: bytes) -> None:
        """This belongs to what the attempt prints, which is still being prepared."""
        self._say(wire.Write(order, index, stream, data))

    def fail(self, order: Run, index: int, folder: str, code: int, reason: str) -> None:
        """The attempt ended before it was launched, as if it had exited with `code`; `on_ended` follows."""
        self._orders_of[order.number, index] = Launch(order, index, folder, [], {})
        self._say(wire.Fail(order, index, folder, code, reason))

    def drop(self, key: Key) -> None:
        """Nobody wants what this attempt prints."""
        self._say(wire.Drop(*key))

    def forget(self, attempts: Iterable[Key]) -> None:
        """The ends of these attempts are safe here."""
        known = [key for key in attempts if self._orders_of.pop(key, None) is not None]
        if known:
            self._say(wire.Forget(known))
        if self._is_other and not self._orders_of:
            self._is_other = False
            self._renew()
            self._reopen()

    def _renew(self) -> None:
        """Let this keeper go: the next one is of our version."""
        self._say(wire.Leave())
        self.flush()
        self._hang_up()
        (self._folder / SOCKET).unlink(missing_ok=True)


PASSED = (
    "PATH",
    "HOME",
    "LANG",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "XDG_RUNTIME_DIR",
    "PYTHONPATH",
)
"""Of the agent's environment, what its keeper needs."""


def ran_of(word: wire.Ended, launched: Launch | wire.Kept) -> Ran:
    """How the attempt ended, as executors say it."""
    ran = Ran(launched.order, word.index, word.end, word.code, word.reason)
    ran.started_at, ran.wall_ms = word.started_at, word.wall_ms
    ran.cpu_ms, ran.memory_peak, ran.memory_avg = word.cpu_ms, word.memory_peak, word.memory_avg
    return ran
