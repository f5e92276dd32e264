"""A log in memory with the faults that a network gives it, asked for by name or, in simulations, drawn."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from events.log import Conflict, Entry, LogUnavailable, MemoryLog, Unsettled

Fault = Literal["", "lost_ack", "not_sent", "late"]
"""lost_ack: appended, and nobody says so. not_sent: it never arrived. late: it arrives after `arrive`."""


class FaultyLog:
    """One client's way to a MemoryLog that it may share with others."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.faults: deque[Fault] = deque()
        """One an append; none when it is empty."""
        self.draw: Callable[[], Fault] = lambda: self.faults.popleft() if self.faults else ""
        self.down = False
        self.appends = self.asked = 0
        self._late: list[tuple[str, bytes, int]] = []
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Nothing comes through, and nobody is told, until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def arrive(self) -> list[bool]:
        """What was late arrives at the log now: whether each was appended."""
        late, self._late = self._late, []
        return [await self._append(*one) for one in late]

    async def _append(self, subject: str, data: bytes, expected: int) -> bool:
        try:
            await self.log.append(subject, data, expected)
        except Conflict:
            return False
        return True

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        self.appends += 1
        await self._open.wait()
        fault = "not_sent" if self.down else self.draw()
        if fault == "late":
            self._late.append((subject, data, expected))
        if fault in ("late", "not_sent"):
            raise Unsettled(f"{fault}: no answer")
        position = await self.log.append(subject, data, expected)
        if fault == "lost_ack":
            raise Unsettled("the answer was lost")
        return position

    def read(self, subject: str, start: int) -> AsyncGenerator[list[Entry], None]:
        return self.log.read(subject, start)

    async def last(self, subject: str) -> int:
        return await (await self._reach()).last(subject)

    async def get(self, subject: str, start: int) -> Entry | None:
        return await (await self._reach()).get(subject, start)

    async def _reach(self) -> MemoryLog:
        self.asked += 1
        await self._open.wait()
        if self.down:
            raise LogUnavailable("the log is away")
        return self.log
