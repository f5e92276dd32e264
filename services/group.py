"""Tasks that live and end together."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, cast


class Group:
    """Tasks that run as long as the control plane; the first that fails stops it, with its error."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop, self._tasks, self._error = stop, list[asyncio.Task[None]](), list[BaseException]()

    def start(self, work: Any) -> None:
        """Run a coroutine until the end."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error.append(error)
            self._stop.set()

    async def sooner(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, or for the stop, whichever comes first."""
        tasks = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    def check(self) -> None:
        """Raise the error of the first task that failed."""
        for error in self._error:
            raise _first(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _first(error: BaseException) -> BaseException:
    """The first single error in what may be a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
