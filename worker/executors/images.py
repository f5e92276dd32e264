"""Images: on this machine when a task starts, as its job's pull policy says, and only for who may have them.

What was fetched with somebody's login is private: whoever names it later has to be let in by the registry, too.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from events.limits import Pull
from events.units import size_text
from infra.engine import Engine, EngineError, Pulled
from infra.folder import write_atomic
from worker.executors.base import Rejected

PULLS_MAX = 2
TOLD_AFTER_S = 2.0
TOLD_EACH_S = 5.0
FRESH_S = 60.0
"""For so long what was fetched with policy `always` need not be asked for again: the tasks of an array start together."""
FRESH_MAX = 256
PRIVATE_MAX = 10_000

_log = structlog.get_logger()


class Images:
    """The images of one engine. `record`: the file with the ids of private ones."""

    def __init__(self, engine: Engine, record: Path) -> None:
        self._engine, self._record = engine, record
        self._private = _read(record)
        self._turn = asyncio.Semaphore(PULLS_MAX)
        self._pulling: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._fresh: dict[tuple[str, str], float] = {}

    async def ready(self, image: str, policy: Pull, login: str, tell: Callable[[str], None]) -> None:
        """Have `image` here, and know that who gave `login` ("": nobody) may have it; `tell` is told how far it is.
        Raises Rejected.
        """
        here = await self._here(image)
        if here and policy != "always" and here not in self._private:
            return
        if policy == "never":
            why = "is not open to everybody" if here else "is not on this machine"
            raise Rejected(f"the image {image!r} {why}, and its job says that it is never to be fetched")
        known = (image, login)
        if here and time.monotonic() - self._fresh.get(known, -FRESH_S) < FRESH_S:
            return
        pulling = self._pulling.get(known)
        if pulling is None:
            pulling = self._pulling[known] = asyncio.create_task(self._pull(image, login, tell))
            pulling.add_done_callback(lambda done: self._pulling.pop(known, None))
        try:
            await asyncio.shield(pulling)
        except EngineError as error:
            what = "is not on this machine and" if not here else "is on this machine, but"
            raise Rejected(f"the image {image!r} {what} could not be fetched: {error.detail}") from None
        while len(self._fresh) >= FRESH_MAX:
            del self._fresh[next(iter(self._fresh))]
        self._fresh[known] = time.monotonic()

    async def _here(self, image: str) -> str:
        try:
            return await self._engine.image_id(image)
        except EngineError as error:
            raise Rejected(f"the container engine does not say whether it has {image!r}: {error.detail}") from None

    async def _pull(self, image: str, login: str, tell: Callable[[str], None]) -> None:
        async with self._turn:
            began = told = time.monotonic()
            async for pulled in self._engine.pull(image, login):
                now = time.monotonic()
                if now - began >= TOLD_AFTER_S and now - told >= TOLD_EACH_S:
                    told = now
                    tell(_progress(image, pulled))
        if login and (found := await self._engine.image_id(image)):
            self._keep_private(found)

    def _keep_private(self, found: str) -> None:
        if found in self._private:
            return
        self._private[found] = None
        if len(self._private) > PRIVATE_MAX:
            _log.warning("worker.many_private_images", images=len(self._private))
        write_atomic(self._record, "\n".join(self._private).encode())


def _progress(image: str, pulled: Pulled) -> str:
    return f"fetching {image}: {size_text(pulled.done)} of {size_text(pulled.size)}, {pulled.layers} layers"


def _read(record: Path) -> dict[str, None]:
    with contextlib.suppress(FileNotFoundError):
        return dict.fromkeys(record.read_text().split())
    return {}
