"""A control plane in a simulation: the real service, writer, turn and index, on a faulty way to the log."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from random import Random
from typing import Any

from events.log import Entry, MemoryLog
from events.protocol import Piece
from infra.index import Index
from infra.report_archive import ReportArchive
from infra.sealing import Sealer
from infra.tickets import Tickets
from infra.turn import BeaconTurn
from services.pool.orders import OrderBook
from services.pool.service import PoolService
from services.pool.state import Pool, load, save
from tests.faulty_log import Fault, FaultyLog
from tests.pool_support import T0
from tests.signing_support import voice
from tests.simulation.money import Purse, together
from tests.simulation.network import Net, SimLink

POOL = "p"
SEALER = Sealer(b"\x01" * 32)


class Troubles:
    """What can happen between a control plane and the log. Chances from 0 to 1, times in seconds."""

    def __init__(self) -> None:
        self.lost_ack = self.not_sent = self.late = 0.0
        self.delay_s = 0.002


class SlowLog(FaultyLog):
    """A way to the log that takes its time."""

    def __init__(self, log: MemoryLog, random: Random, troubles: Troubles) -> None:
        super().__init__(log)
        self.random, self.troubles = random, troubles
        self.draw = self._fault

    def _fault(self) -> Fault:
        drawn, bad = self.random.random(), self.troubles
        if drawn < bad.lost_ack:
            return "lost_ack"
        if drawn < bad.lost_ack + bad.not_sent:
            return "not_sent"
        if drawn < bad.lost_ack + bad.not_sent + bad.late:
            asyncio.get_running_loop().call_later(self.random.uniform(0, 2), self._arrive_later)
            return "late"
        return ""

    def _arrive_later(self) -> None:
        self._task = asyncio.ensure_future(self.arrive())

    async def _wait(self) -> None:
        await asyncio.sleep(self.random.uniform(0, 1) * self.troubles.delay_s)

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        await self._wait()
        position = await super().append(subject, data, expected)
        await self._wait()
        return position

    async def last(self, subject: str) -> int:
        await self._wait()
        found = await super().last(subject)
        await self._wait()
        return found

    async def read(self, subject: str, start: int) -> AsyncGenerator[list[Entry], None]:
        async for batch in self.log.read(subject, start):
            await self._open.wait()
            await self._wait()
            yield batch


class Outputs:
    """Output of attempts, in memory; it outlives control planes."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, int, int], bytes] = {}

    async def append_many(self, pieces: list[Piece]) -> list[int]:
        await asyncio.sleep(0.001)
        safe: list[int] = []
        for piece in pieces:
            key = (piece.job, piece.index, piece.lease)
            data = self.data.get(key, b"")
            if piece.offset <= len(data):
                data += piece.data[len(data) - piece.offset :]
            self.data[key] = data
            safe.append(len(data))
        return safe


class Snapshots:
    """Snapshots that a follower wrote now and then."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, bytes]] = []

    def keep(self, position: int, state: Pool) -> None:
        self.saved.append((position, save(state)))

    def latest(self, last: int) -> tuple[int, Pool] | None:
        for position, data in reversed(self.saved):
            if position <= last:
                return position, load(data)
        return None


class Plane:
    """One control plane's place: lives come and go, the index of ids on its disk stays."""

    def __init__(
        self,
        net: Net,
        log: MemoryLog,
        name: str,
        folder: Path,
        outputs: Outputs,
        snapshots: Snapshots,
        random: Random,
        money: bool = False,
    ) -> None:
        self.net, self.log, self.name, self.random = net, log, name, random
        self.purse = Purse(folder / f"{name}.ledger") if money else None
        self.outputs, self.snapshots = outputs, snapshots
        self.index_path = folder / f"{name}.index"
        self.archive = ReportArchive(folder / f"{name}.reports", 2**30)
        self.troubles = Troubles()
        self.skew_ms = random.randint(-2000, 2000)
        self.lives = 0
        self.link = SimLink(net, name)
        self.service: PoolService | None = None
        self.way: SlowLog | None = None
        self._task: asyncio.Task[None] | None = None
        self._index: Index | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None

    def start(self) -> None:
        self.lives += 1
        name = f"{self.name}{self.lives}"
        self.link = SimLink(self.net, name)
        self.way = SlowLog(self.log, self.random, self.troubles)
        self._index = Index(self.index_path)
        self._task = asyncio.create_task(self._run(name))
        self._task.add_done_callback(self._ended)

    async def _run(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        turn = BeaconTurn(self.link, f"evt.pool.{POOL}", name)  # pyright: ignore[reportArgumentType]
        await turn.start()

        def clock() -> int:
            return T0 + int(loop.time() * 1000) + self.skew_ms

        others: Any = {"outputs": self.outputs, "index": self._index, "archive": self.archive}
        self.service = PoolService(
            self.link,  # pyright: ignore[reportArgumentType]
            self.way,  # pyright: ignore[reportArgumentType]
            POOL,
            voice=voice(POOL),
            book=OrderBook(SEALER, Tickets(b"\x02" * 32)),
            snapshots=self.snapshots,
            turn=turn,
            name=name,
            version="1",
            clock=clock,
            monotonic=loop.time,
            **others,
        )
        works = [self.service.run()]
        if self.purse is not None:
            works.append(self.purse.run(self.link, self.way, name, clock))
        try:
            await together(*works)
        finally:
            await turn.stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.net.failed.append(error)

    async def crash(self) -> None:
        """End at once: whatever was in memory is gone, what was on its way to the log may arrive."""
        task, self._task = self._task, None
        self.link.cut_off(noticed=True)
        for one in [one for one in self.net.subscriptions if one.link is self.link]:
            one.close()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._index is not None:
            self._index.close()

    def pause(self) -> None:
        """Stand still, as if stopped by SIGSTOP."""
        assert self.way is not None
        self.way.hold()
        self.link.pause()

    def heal(self) -> None:
        """Go on; nothing is in the way any more."""
        if self.way is not None:
            self.way.down = False
            self.way.release()
        self.link.heal()

    def leads(self) -> bool:
        return self.alive and self.service is not None and self.service.writer.leads


Clock = Callable[[], float]
