"""What is not needed any more, and deleting it.

A blob is needed while a job that is open, or ended less than `keep_days` ago (0: ever), names it: as an input, an array's
list, a result, or something in one of those lists. What jobs there are is read as of one position of the log; what came
after that was wanted lately, for submitting a job, uploading and asking what is missing all touch the blobs they name. So
a blob goes when nothing needs it and nobody wanted it for LATELY_S, or since before a worker fell silent that may still
have results to report. With `keep_days` 0 what somebody uploaded or was shown stays, too.
"""

import asyncio
import time
from collections.abc import AsyncGenerator

import structlog
from litestar import post
from litestar.params import JSONBody

from events.base import Digest, JobId
from events.catalog import pool_subject, position_text
from events.inputs import BadSpec
from events.log import LogUnavailable
from events.spec import TaskText
from infra.blobs import BlobMismatch, BlobMissing
from infra.sealing import KeyAway
from projections.rows import OPEN_STATES, JobRow
from services.reads import JobFilter, ReadsUnavailable
from web import schema
from web.administer import record
from web.caller import caller_of
from web.core import Core
from web.jobs import text_in
from web.params import CoreArg, problems
from web.problems import AnyRequest, Failed

LATELY_S = 48 * 3600.0
DAY_S = 86400.0
FIRST_S = 600.0
"""How long after its start a hive tidies up for the first time."""
REACHED_S = 5.0
JOBS_PAGE = 500
DIGESTS_PAGE = 10_000
SHOWN_MAX = 10

_log = structlog.get_logger()
_busy = asyncio.Lock()


class _Needed:
    """The blobs, as the 32 bytes of their digests, and the jobs that are needed."""

    def __init__(self, core: Core, since_ms: int) -> None:
        self._core, self._since = core, since_ms
        self.blobs: set[bytes] = set()
        self.jobs: set[JobId] = set()
        self._lists: set[Digest] = set()

    async def find(self) -> None:
        """Look at every job. Raises ReadsUnavailable, KeyAway."""
        cursor = ""
        while True:
            page = await self._core.reads.jobs(JobFilter(), cursor, JOBS_PAGE)
            for row in page.rows:
                if row.state in OPEN_STATES or row.finished_at >= self._since:
                    await self._job(row)
            if not (cursor := page.next):
                break
        async for digest, is_list in self._left():
            await self._add(digest, is_list)

    async def _job(self, row: JobRow) -> None:
        self.jobs.add(row.job)
        text = text_in(row, self._core.keys) or TaskText()
        for file in text.inputs:
            if file.digest and not file.url:
                await self._add(file.digest, file.form == "folder")
        if text.each:
            self.blobs.add(bytes.fromhex(text.each))
            self.blobs |= await self._core.manifests.all_of(text.each)

    async def _left(self) -> AsyncGenerator[tuple[Digest, bool]]:
        after = ""
        while found := await self._core.reads.kept_results(self._since, after, DIGESTS_PAGE):
            for one in found:
                yield one
            after = found[-1][0]
        after = ""
        while told := await self._core.reads.kept_emitted(self._since, after, DIGESTS_PAGE):
            for digest in told:
                yield digest, False
            after = told[-1]

    async def _add(self, digest: Digest, is_list: bool) -> None:
        self.blobs.add(bytes.fromhex(digest))
        if is_list and digest not in self._lists:
            self._lists.add(digest)
            try:
                self.blobs |= (await self._core.folders.load(digest)).names
            except (BadSpec, BlobMissing, BlobMismatch):
                pass  # it is gone, and what it named is not known any more


def _before(core: Core, now: float) -> float:
    """Since when nobody may have wanted what goes (s since 1970)."""
    silent = [row.since / 1000 for row in core.reads.workers() if row.state != "ready" and row.leased]
    return min([now - max(LATELY_S, core.keep_days * DAY_S), *(since - LATELY_S for since in silent)])


async def expire(core: Core, dry_run: bool) -> schema.Expired:
    """Delete what is not needed any more, or only say what that is. Raises ReadsUnavailable, KeyAway, LogUnavailable."""
    async with _busy:
        now = time.time()
        before, since = _before(core, now), round((now - core.keep_days * DAY_S) * 1000) if core.keep_days else 0
        position = await core.log.last(pool_subject(core.pool))
        if not await core.reads.reached(position, REACHED_S):
            raise ReadsUnavailable("the jobs are not known as of now; try again soon")
        needed = _Needed(core, since)
        await needed.find()
        count = size = 0
        some: list[Digest] = []
        after = ""
        while found := await core.blobs.unwanted_since(before, after):
            after = found[-1][0]
            sizes = {digest: length for digest, length in found if bytes.fromhex(digest) not in needed.blobs}
            if not core.keep_days:
                for digest in await core.references.any_of(list(sizes)):
                    del sizes[digest]
            gone = (len(sizes), sum(sizes.values())) if dry_run else await core.blobs.expire(list(sizes), before)
            count, size = count + gone[0], size + gone[1]
            some += list(sizes)[: SHOWN_MAX - len(some)]
        outputs: list[JobId] = []
        if core.keep_days:
            outputs = await core.outputs.forget_all(needed.jobs.__contains__, before, dry_run)
        return schema.Expired(
            dry_run, core.keep_days, round(before * 1000), count, size, len(outputs), len(needed.blobs), some,
            position_text(position),
        )  # fmt: skip


async def expire_daily(core: Core) -> None:
    """Delete what is not needed any more, once a day where files expire, until cancelled."""
    pause = FIRST_S
    while True:
        await asyncio.sleep(pause)
        pause = DAY_S
        if not core.keep_days:
            continue
        try:
            done = await expire(core, dry_run=False)
        except (ReadsUnavailable, KeyAway, LogUnavailable, OSError) as error:
            _log.warning("expiry.not_now", why=str(error))
            pause = FIRST_S
        else:
            _log.info("expiry.done", blobs=done.blobs, bytes=done.size, outputs=done.outputs, keep_days=core.keep_days)


@post(
    "/v1/blobs/expire",
    needs="users:all",
    status_code=200,
    summary="Delete the files that are not needed any more",
    description="With `dry_run` it only says what would go: nothing that an open job names, or one that ended less than"
    " `keep_days` ago, and nothing that was wanted in the last two days.",
    responses=problems(409),
)
async def expire_blobs(core: CoreArg, request: AnyRequest, data: JSONBody[schema.ExpireBody]) -> schema.Expired:
    """Tidy up."""
    if _busy.locked():
        raise Failed(409, "busy", "it is being done just now", remedy="ask again in a while")
    if not data.dry_run:
        await record(core, caller_of(request), "blob.expire", core.pool)
    return await expire(core, data.dry_run)


ROUTES = [expire_blobs]
