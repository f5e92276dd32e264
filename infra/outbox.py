"""What waits to be sent: a bounded queue between many senders and the one task that writes to the socket."""

import asyncio
from collections import deque
from typing import Generic, NamedTuple, TypeVar

BYTES_MAX = 32 * 1024 * 1024
ITEM_BYTES = 128
"""What an item weighs beside its data."""

Item = TypeVar("Item")


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    weight: int


class Outbox(Generic[Item]):
    """Items in order, with their weight in bytes. One task takes; any number put. One event loop."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting[Item]] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self.bytes = 0
        """The weight of what waits."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether senders should wait or give up."""
        return self.bytes > BYTES_MAX

    def put(self, item: Item, size: int) -> None:
        """Add an item with `size` bytes of data; whether there is room is for the caller to ask."""
        self._waiting.append(_Waiting(item, size + ITEM_BYTES))
        self.bytes += size + ITEM_BYTES
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def take(self) -> Item:
        """The next item, once there is one."""
        while not self._waiting:
            self._room.set()
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        item, weight = self._waiting.popleft()
        self.bytes -= weight
        if self.bytes <= BYTES_MAX // 2:
            self._room.set()
        return item

    async def room(self) -> None:
        """Return after the queue has become half empty, or was cleared."""
        self._room.clear()
        await self._room.wait()

    async def emptied(self) -> None:
        """Return once nothing waits."""
        while self._waiting:
            await self.room()

    def clear(self) -> None:
        """Drop everything and let everyone who waits for room look again."""
        self._waiting.clear()
        self.bytes = 0
        self._room.set()
