"""Fills a task's folder: files, folders and archives by digest, other jobs' results, what lies at URLs, parameters.

What the platform says is checked again here: no path leads out of the folder, and nothing is taken unverified.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from events.base import Digest
from events.inputs import OURS, BadSpec, Input, check_path, files_of, param_text
from events.protocol import Run
from events.spec import Each
from worker.api import Api, Unavailable
from worker.cache import Cache
from worker.executors.base import Rejected
from worker.fetch import Fetcher, NotFetched
from worker.unpack import BadArchive, unpack

PARAMS_FILE = f"{OURS}params.json"
FOLDER_MODE = 0o700
PLACING_MAX = 8
"""Files of one task that are put in place at a time."""

_encode = msgspec.json.Encoder().encode


class Filler:
    """Puts inputs into task folders, which nothing but this has written to yet."""

    def __init__(self, cache: Cache, api: Api, fetcher: Fetcher) -> None:
        self._cache, self._api, self._fetcher = cache, api, fetcher

    async def fill(self, order: Run, folder: str, own: Each) -> None:
        """Put every input of the task where it belongs; `own` is what this task has of its own. Raises Rejected."""
        text = order.text
        for file in text.inputs:
            await self._fetch(order, folder, file, f"input {file.path!r}")
        for n, file in enumerate(own.inputs):
            # Its name stands in a blob, not in the text, so whoever masks reasons (events.masking) cannot know it.
            await self._fetch(order, folder, file, f"the task's own input {n}")
        if text.params or own.params:
            try:
                await asyncio.to_thread(Path(folder, PARAMS_FILE).write_bytes, _encode(text.params | own.params))
            except OSError as error:
                raise Rejected(f"the parameters could not be written: {error.strerror}") from None

    async def _fetch(self, order: Run, folder: str, file: Input, named: str) -> None:
        try:
            if file.job:
                await self._results(order, folder, file)
            elif file.form == "folder":
                await self._folder(order, folder, file)
            elif file.form == "archive":
                await self._archive(order, folder, file)
            else:
                await self._cache.place(file.digest, order.ticket, _target(folder, file.path), self._source(file))
        except BadSpec:
            raise Rejected(f"{named} does not lie inside the task's folder, or is not what it is said to be") from None
        except BadArchive as error:
            raise Rejected(f"{named} could not be unpacked: {error}") from None
        except (Unavailable, NotFetched) as error:
            raise Rejected(f"{named} could not be fetched: {error}") from None
        except OSError as error:
            raise Rejected(f"{named} could not be placed: {error.strerror}") from None

    def _source(self, file: Input) -> Callable[[int], Awaitable[int]] | None:
        return self._fetcher.source(file.url, file.digest) if file.url else None

    async def _results(self, order: Run, folder: str, file: Input) -> None:
        found = await self._api.results(file.job, order.ticket, order.position)
        await self._place_all(order, folder, file.path, [(f"{one.index}/{one.path}", one.digest) for one in found])

    async def _folder(self, order: Run, folder: str, file: Input) -> None:
        files = await asyncio.to_thread(files_of, await self._cache.read(file.digest, order.ticket))
        os.makedirs(_target(folder, file.path), FOLDER_MODE, exist_ok=True)
        await self._place_all(order, folder, file.path, [(one.path, one.digest) for one in files])

    async def _place_all(self, order: Run, folder: str, below: str, files: list[tuple[str, Digest]]) -> None:
        """Put files in place, some at a time. One without a digest is a folder with nothing in it."""
        head = "" if below == "." else f"{below}/"
        left = iter(files)

        async def some() -> None:
            for path, digest in left:
                target = _target(folder, head + path)
                if digest:
                    await self._cache.place(digest, order.ticket, target)
                else:
                    os.makedirs(target, FOLDER_MODE, exist_ok=True)

        placing = [asyncio.ensure_future(some()) for _ in range(min(PLACING_MAX, len(files)))]
        try:
            await asyncio.gather(*placing)
        finally:
            for one in placing:
                one.cancel()
            await asyncio.gather(*placing, return_exceptions=True)

    async def _archive(self, order: Run, folder: str, file: Input) -> None:
        target = _target(folder, file.path)
        gone = threading.Event()
        fd = await self._cache.open(file.digest, order.ticket, self._source(file))
        unpacking = asyncio.ensure_future(asyncio.to_thread(unpack, fd, target, gone.is_set))
        try:
            await asyncio.shield(unpacking)
        except asyncio.CancelledError:
            gone.set()
            await asyncio.wait([unpacking])
            raise
        finally:
            os.close(fd)


def environment(order: Run, own: Each, home: str) -> dict[str, str]:
    """What a task's parameters are in its environment; `home`: its folder, as it sees it."""
    params = order.text.params | own.params
    if not params:
        return {}
    said: dict[str, str] = {f"HIVE_PARAM_{name}": param_text(value) for name, value in params.items()}
    return said | {"HIVE_PARAMS": f"{home}/{PARAMS_FILE}"}


def _target(folder: str, path: str) -> str:
    """Where an input goes, its parent folders made. Raises BadSpec."""
    if path == ".":
        return folder
    check_path("", path)
    # Nothing but this module has written here yet, so no part can be a link that leads out.
    os.makedirs(f"{folder}/{path}".rpartition("/")[0], FOLDER_MODE, exist_ok=True)
    return f"{folder}/{path}"
