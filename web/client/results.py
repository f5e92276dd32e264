"""A job's results into a folder: many files at a time, each verified; what is there already is not fetched again."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from infra.threads import in_thread
from web.client import files
from web.client.errors import Refused
from web.client.http import Http
from web.schema import Result

DOWNLOADS_MAX = 8


class Fetched(msgspec.Struct, frozen=True):
    """What became of a download: files that were written, files that were there already, and those that the hive does not
    keep any more.
    """

    written: list[Path]
    kept: list[Path]
    expired: list[Result]


def place_of(to: Path, result: Result, *, flat: bool) -> Path:
    """Where a result is written: always below `to`. Raises Refused for a path that would leave it."""
    path = (to if flat else to / str(result.index)) / result.path
    if not path.resolve().is_relative_to(to.resolve()):
        raise Refused(
            f"{result.path!r} of task {result.index} would be written outside {to}", remedy="use another folder"
        )
    return path


async def download(
    http: Http,
    results: Iterable[Result],
    to: Path,
    *,
    flat: bool,
    on_bytes: Callable[[int], None] = lambda count: None,
    on_file: Callable[[Path], None] = lambda path: None,
) -> Fetched:
    """Write each result below `to`, in a folder for each task unless `flat`. What an earlier call left half done is gone
    on with. `on_bytes` counts what is there, `on_file` names what is whole. Raises HiveError, OSError.
    """
    fetched = Fetched([], [], [])
    left = iter([(result, place_of(to, result, flat=flat)) for result in results])

    async def some() -> None:
        for result, path in left:
            if await in_thread(files.is_here, path, result.digest, result.size):
                on_bytes(result.size)
                fetched.kept.append(path)
            elif result.expired:
                fetched.expired.append(result)
                continue
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                await files.download(http, result.digest, path, resume=True, on_bytes=on_bytes)
                fetched.written.append(path)
            on_file(path)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(DOWNLOADS_MAX):
                group.create_task(some())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return fetched
