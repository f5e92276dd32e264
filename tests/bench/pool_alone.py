"""The pool's service alone, over a log and a link in memory, with workers that only answer: what a pass costs by itself."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, cast

from events import protocol
from events.base import Runs, Sealed
from events.job import JobSubmitted
from events.log import MemoryLog
from events.protocol import Ended, Hello, Orders, Poll, Report, Run
from events.worker import Capacity
from infra.index import Index
from infra.report_archive import ReportArchive
from infra.sealing import Sealer
from infra.tickets import Tickets
from services.asking import COMMANDS_PER_ASK_MAX, Answer, Ask, answer_of, pack
from services.pool.commands import Submit
from services.pool.orders import OrderBook
from services.pool.service import PoolService
from tests.signing_support import opened, said, voice

POOL = "bench"
_SEALER = Sealer(b"\x01" * 32)
TEXT: Sealed = _SEALER.seal(b'{"command":["train","--seed","1"],"name":"train","env":{"EPOCHS":"10"}}')


class _Turn:
    """Nobody else is there."""

    async def wait(self) -> None:
        """At once."""

    def take(self) -> None:
        """Nobody asks."""

    def leave(self) -> None:
        """Nobody asks."""


class _NoSnapshots:
    def latest(self, last: int) -> None:
        """None."""


class _Subscription:
    def close(self) -> None:
        """It ends with the process."""


class LocalLink:
    """Delivers at once, in the same process. An answer goes to whoever waits for its subject."""

    connected = True

    def __init__(self) -> None:
        self._callbacks: dict[str, Callable[[str, str, bytes], None]] = {}
        self._waiting: dict[str, Callable[[bytes], None]] = {}
        self._number = count()

    async def subscribe(self, subject: str, callback: Callable[[str, str, bytes], None]) -> _Subscription:
        """Deliver what comes for the last word of `subject`, or its first one, to `callback`."""
        words = subject.split(".")
        self._callbacks[words[0] if words[0] != "req" else words[-1]] = callback
        return _Subscription()

    def send(self, reply: str, data: bytes) -> None:
        """An answer."""
        if (wanted := self._waiting.pop(reply, None)) is not None:
            wanted(data)

    def ask(self, subject: str, data: bytes, answered: Callable[[bytes], None]) -> None:
        """A question; `answered` gets the answer."""
        words = subject.split(".")
        reply = str(next(self._number))
        self._waiting[reply] = answered
        self._callbacks[words[0] if words[0] != "req" else words[-1]](subject, reply, data)


class BenchWorker:
    """A worker that polls, holds what it is given, and reports when told. `answered` is called at each new order."""

    def __init__(self, link: LocalLink, name: str, capacity: Capacity) -> None:
        self.link, self.name, self.capacity = link, name, capacity
        self.held: list[Run] = []
        self.answered: Callable[[], None] = lambda: None
        self._polls = self._reports = self._last = 0

    def join(self) -> None:
        """Say hello."""
        self.poll(Hello("boot", self.capacity, "1", "nonce"))

    def poll(self, hello: Hello | None = None) -> None:
        """Ask for orders."""
        self._polls += 1
        poll = Poll("s1", self._polls, self._last, hello=hello)
        self.link.ask(f"req.{POOL}.{self.name}.next", said(POOL, self.name, poll), self._told)

    def _told(self, data: bytes) -> None:
        orders = cast(Orders, protocol.poll_answer_of(opened(data))).orders
        self.held += [order for order in orders if isinstance(order, Run)]
        self._last = max([self._last, *(order.number for order in orders)])
        self.answered()
        asyncio.get_running_loop().call_soon(self.poll)

    def end(self, most: int = 1) -> None:
        """Report the end of what it holds, at most so many leases; their capacity is free."""
        done, self.held = self.held[:most], self.held[most:]
        self._reports += 1
        report = Report("s1", self._reports, [Ended(run.number, run.job, run.tasks) for run in done])
        self.link.ask(f"req.{POOL}.{self.name}.report", said(POOL, self.name, report), lambda data: None)


class PoolAlone:
    """A leading pool service, and what a bench asks of it."""

    def __init__(self, folder: Path) -> None:
        self.link = LocalLink()
        self._index = Index(folder / "index.sqlite")
        parts: Any = {"outputs": None, "index": self._index, "turn": _Turn(), "snapshots": _NoSnapshots()}
        parts |= {"voice": voice(POOL), "archive": ReportArchive(folder / "reports", 0)}
        book = OrderBook(_SEALER, Tickets(b"\x02" * 32))
        self.service = PoolService(
            cast(Any, self.link), MemoryLog(), POOL, book=book, name="bench", version="1", **parts
        )
        self._jobs = count()

    def fact(self, tasks: int = 1, cpus: int = 1000, memory: int = 0, priority: int = 5) -> JobSubmitted:
        """A job of this size, never the same."""
        name = f"j{next(self._jobs):016d}"
        return JobSubmitted(
            name, "u1", name, TEXT, count=tasks, cpus_milli=cpus, memory_bytes=memory, priority=priority
        )

    def ask(self, facts: Sequence[JobSubmitted], answered: Callable[[bytes], None]) -> None:
        """Submit jobs in one question."""
        self.link.ask(f"cmd.pool.{POOL}", pack(Ask([Submit(fact) for fact in facts], "bench")), answered)

    async def submit(self, facts: Sequence[JobSubmitted]) -> None:
        """Submit jobs, as many questions as it takes."""
        for at in range(0, len(facts), COMMANDS_PER_ASK_MAX):
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self.ask(facts[at : at + COMMANDS_PER_ASK_MAX], answer.set_result)
            assert isinstance(answer_of(await answer), Answer)

    async def settle(self) -> None:
        """Wait until the writer has nothing to do."""
        position = -1
        while position != self.service.writer.position:
            position = self.service.writer.position
            for _ in range(20):
                await asyncio.sleep(0)

    def workers(self, number: int, cpus: int, memory: int) -> list[BenchWorker]:
        """So many workers that have said hello."""
        made = [BenchWorker(self.link, f"w{at:06d}", Capacity(cpus, memory)) for at in range(number)]
        for worker in made:
            worker.join()
        return made


@contextlib.asynccontextmanager
async def pool_alone() -> AsyncGenerator[PoolAlone]:
    """A PoolAlone that leads."""
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        pool = PoolAlone(Path(folder))
        task = asyncio.create_task(pool.service.run())
        try:
            while not pool.service.writer.leads:
                await asyncio.sleep(0.001)
            yield pool
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            pool._index.close()


def runs_held(worker: BenchWorker) -> list[Runs]:
    """The tasks of each lease that a worker holds."""
    return [run.tasks for run in worker.held]
