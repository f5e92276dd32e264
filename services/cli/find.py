"""Finds jobs and workers by the beginning of their ids."""

from typing import TYPE_CHECKING

from services.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from web.client import AsyncHive

JOB_ID_CHARS = 17
WORKER_ID_CHARS = 13
SCAN_PAGES_MAX = 10
PAGE = 1000
SHOWN_MAX = 5


async def find_job(hive: "AsyncHive", prefix: str) -> str:
    """The one job whose id begins so, among the newest 10,000. A whole id is taken as it is. Raises Failure."""
    if len(prefix) >= JOB_ID_CHARS:
        return prefix
    found: list[str] = []
    cursor: str | None = ""
    for _ in range(SCAN_PAGES_MAX):
        page = await hive.jobs(cursor=cursor, limit=PAGE)
        found += [job.job for job in page.jobs if job.job.startswith(prefix)]
        cursor = page.next
        if cursor is None:
            break
    return _only("job", prefix, found, "hivectl jobs")


async def find_worker(hive: "AsyncHive", prefix: str) -> str:
    """The one worker whose id begins so. Raises Failure."""
    if len(prefix) >= WORKER_ID_CHARS:
        return prefix
    found = [worker.worker for worker in await hive.workers() if worker.worker.startswith(prefix)]
    return _only("worker", prefix, found, "hivectl workers")


def _only(what: str, prefix: str, found: list[str], listing: str) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise Failure(f"no {what} begins with {prefix!r}", f"`{listing}` lists them", Exit.USAGE)
    some = ", ".join(found[:SHOWN_MAX]) + (", ..." if len(found) > SHOWN_MAX else "")
    raise Failure(f"{len(found)} {what}s begin with {prefix!r}: {some}", "give more of the id", Exit.USAGE)
