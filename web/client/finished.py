"""How jobs end, for any number of waiters, over one stream of events that begins where the first of them needs it.

What ended before anyone asked is kept for a while; for what is older, or was not handed in by this client, the hive is
asked once. No task a job, no request a job.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from time import monotonic

import msgspec

from events.base import JobId
from events.job import JobEnd
from web.client.errors import Broken, HiveError, Unavailable
from web.client.http import BROKEN, Http, Query, Retry, unreachable
from web.client.sse import events
from web.client.types import Job, JobResult
from web.schema import Job as JobView

KEPT_MAX = 100_000
FRESH_S = 10.0
"""How old a submission may be for the stream to begin there; otherwise it begins now, and older jobs are asked for."""
IDLE_S = 60.0
"""The stream ends when nobody waits for so long."""
ENDED = ("succeeded", "failed", "cancelled")


class _Event(msgspec.Struct, frozen=True, gc=False):
    """What is read of a `job.finished`."""

    job: JobId
    state: JobEnd
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class _Shown(msgspec.Struct, frozen=True, gc=False):
    event: _Event


_shown_of = msgspec.json.Decoder(list[_Shown]).decode


def _order(position: str) -> tuple[int, int]:
    """Positions compare by this; only those of one hive."""
    epoch, _, sequence = position.partition(".")
    return (int(epoch), int(sequence)) if sequence.isdecimal() and epoch.isdecimal() else (0, 0)


class Finished:
    """Waits for jobs. `look` asks the hive about one job."""

    def __init__(self, http: Http, look: Callable[[JobId], Awaitable[JobView]]) -> None:
        self._http, self._look = http, look
        self._waiting: dict[JobId, list[asyncio.Future[JobResult]]] = {}
        self._kept: OrderedDict[JobId, JobResult] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._start: tuple[int, int] | None = None
        self._stands = asyncio.Event()
        self._id = ""
        self._fresh = (0.0, "")

    def note(self, start: str) -> None:
        """Jobs were handed in whose ends come after `start`: a stream that begins soon begins there."""
        now = monotonic()
        if self._task is None and now - self._fresh[0] > FRESH_S:
            self._fresh = (now, start)

    def now(self, job: JobId) -> JobResult | None:
        """How the job ended, when that is known here."""
        return self._kept.get(job)

    async def result(self, job: Job | JobId) -> JobResult:
        """How the job ended, once it has. Raises HiveError."""
        name = job if isinstance(job, str) else job.job
        if (known := self._kept.get(name)) is not None:
            return known
        certain = self._covers("" if isinstance(job, str) or job.existing else job.start)
        future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(future)
        try:
            if not certain:
                await self._ask(name)
            return await future
        finally:
            if not future.done():
                future.cancel()
            self._forget(name, future)

    def _covers(self, start: str) -> bool:
        """Whether the end of a job after `start` will come, or has come and is kept. Has the stream begin."""
        if self._task is None:
            at, begin = self._fresh
            begin = begin if monotonic() - at < FRESH_S else ""
            self._start, self._id, self._fresh = (_order(begin) if begin else None), "", (0.0, "")
            self._stands = asyncio.Event()
            self._task = asyncio.create_task(self._run(begin))
        return bool(start) and self._start is not None and _order(start) >= self._start

    async def _ask(self, name: JobId) -> None:
        """Look at the job itself. The stream stands by then, so that an end in between is not missed."""
        standing = asyncio.ensure_future(self._stands.wait())
        task = self._task
        await asyncio.wait([standing, *([task] if task else [])], return_when=asyncio.FIRST_COMPLETED)
        standing.cancel()
        view = await self._look(name)
        if view.state in ENDED:
            self._end(JobResult(name, view.state, view.succeeded, view.failed, view.cancelled))  # pyright: ignore[reportArgumentType] narrowed

    def _forget(self, name: JobId, future: "asyncio.Future[JobResult]") -> None:
        waiting = self._waiting.get(name)
        if waiting is not None:
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                del self._waiting[name]

    def _end(self, result: JobResult) -> None:
        waiting = self._waiting.pop(result.job, None)
        if waiting is not None:
            for future in waiting:
                if not future.done():
                    future.set_result(result)
        self._kept[result.job] = result
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
            # What is not kept must be asked for: only what is handed in from here on is certain to come.
            self._start = max(self._start or (0, 0), _order(self._id))

    async def _run(self, position: str) -> None:
        """Follow the stream until nobody waits, coming back where it broke; then who still waits is told why."""
        retry = Retry(self._http)
        try:
            while True:
                try:
                    await self._follow(position, retry)
                    return
                except BROKEN as trouble:
                    await retry.pause(unreachable(self._http.url, trouble))
                except Unavailable as error:
                    await retry.pause(error)
        except HiveError as error:
            self._fail(error)
        except (ValueError, msgspec.DecodeError) as error:
            self._fail(Broken(f"the stream of events cannot be read: {error}"))
        finally:
            self._task = None

    async def _follow(self, position: str, retry: Retry) -> None:
        query: Query = [("type", "job.finished"), ("follow", "true")]
        headers: dict[str, str] = {}
        if self._id:
            headers["Last-Event-ID"] = self._id
        elif position:
            query.append(("from", position))
        loop = asyncio.get_running_loop()
        async with self._http.stream("/v1/events", query, headers) as answer:
            wanted_at = loop.time()
            async for event in events(answer.content):
                retry.again()
                self._stands.set()
                # First what it says, then how far it said all: a break in between repeats, and loses nothing.
                if event.data:
                    for shown in _shown_of(event.data):
                        one = shown.event
                        self._end(JobResult(one.job, one.state, one.succeeded, one.failed, one.cancelled))
                if event.id:
                    self._id = event.id
                    self._start = self._start or _order(event.id)
                if self._waiting:
                    wanted_at = loop.time()
                elif loop.time() - wanted_at > IDLE_S:
                    return
        raise ConnectionError("the stream of events ended")

    def _fail(self, error: HiveError) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    async def close(self) -> None:
        """End the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(HiveError("the client was closed"))
