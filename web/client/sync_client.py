"""The client for ordinary programs: AsyncHive in the loop of a thread of its own. May be used from several threads."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack, overload

from events.base import Digest, WorkerId
from events.spec import JobSpec
from infra.tls import Trust
from projections.rows import TaskState
from web import schema
from web.client.async_client import AsyncHive
from web.client.fields import Command, EventsWanted, Fields, Item, JobsWanted, Stream
from web.client.folders import Stored
from web.client.http import TRY_S_MAX
from web.client.results import Fetched
from web.client.types import AnyJob, Job, JobResult, Piece
from web.usage_schema import UsageView

T = TypeVar("T")
CLOSE_S = 5.0


class Hive:
    """A hive, over its HTTP API; see AsyncHive, whose methods these are. A context manager (or call `close`)."""

    def __init__(self, url: str = "", key: str = "", *, try_s: float = TRY_S_MAX, trust: Trust | None = None) -> None:
        self._hive = AsyncHive(url, key, try_s=try_s, trust=trust)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hive-client", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the hive is."""
        return self._hive.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything; a second call does nothing."""
        if self._loop.is_closed():
            return
        self._do(self._hive.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in the caller's thread must not leave the request behind.
            future.cancel()
            raise

    def _each(self, items: AsyncGenerator[T]) -> Generator[T]:
        """The items of an async generator."""

        async def following() -> tuple[T, ...]:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return ()

        try:
            while found := self._do(following()):
                yield found[0]
        finally:
            if not self._loop.is_closed():
                self._do(items.aclose())

    # Handing in

    def submit(self, command: Command | JobSpec = (), *, idempotency_key: str = "", **fields: Unpack[Fields]) -> Job:
        """Hand in a job; on disk when this returns. With a key, asking again makes no second job."""
        return self._do(self._hive.submit(command, idempotency_key=idempotency_key, **fields))

    def submit_many(self, specs: Iterable[JobSpec], *, idempotency_key: str = "") -> list[Job]:
        """Hand in up to 1000 jobs in one request; they may wait for each other by `ref`."""
        return self._do(self._hive.submit_many(specs, idempotency_key=idempotency_key))

    def map(
        self, command: Command, items: Iterable[Item], *, idempotency_key: str = "", **fields: Unpack[Fields]
    ) -> Job:
        """Hand in an array: one task for each of `items`, which are its arguments after those of `command`."""
        return self._do(self._hive.map(command, items, idempotency_key=idempotency_key, **fields))

    # How they end

    def result(self, job: AnyJob, timeout: float | None = None, *, check: bool = False) -> JobResult:
        """How the job ended, once it has. Raises TimeoutError; with `check` JobFailed unless every task succeeded."""
        return self._do(self._hive.result(job, timeout, check=check))

    def gather(
        self, jobs: AnyJob | Iterable[AnyJob], timeout: float | None = None, *, check: bool = False
    ) -> list[JobResult]:
        """How the jobs ended, once all have, in their order; see `result`."""
        return self._do(self._hive.gather(jobs, timeout, check=check))

    def wait(self, job: AnyJob, timeout: float | None = None) -> schema.Job:
        """The job, once it has ended. Raises TimeoutError."""
        return self._do(self._hive.wait(job, timeout))

    # Looking

    def job(self, job: AnyJob) -> schema.Job:
        """One job as it is now."""
        return self._do(self._hive.job(job))

    def jobs(self, **wanted: Unpack[JobsWanted]) -> schema.JobsAnswer:
        """A page of jobs, newest first (see JobsWanted); `next` is the cursor of the following page."""
        return self._do(self._hive.jobs(**wanted))

    def tasks(
        self, job: AnyJob, *, state: TaskState | str | None = None, after: int = -1, limit: int = schema.LIMIT_DEFAULT
    ) -> schema.TasksAnswer:
        """A page of a job's tasks with numbers above `after`; `next` is the `after` of the following page."""
        return self._do(self._hive.tasks(job, state=state, after=after, limit=limit))

    def results(self, job: AnyJob) -> Generator[schema.Result]:
        """The files that the job's tasks left, in order of task and path."""
        return self._each(self._hive.results(job))

    def download_results(self, job: AnyJob, to: Path | str, *, flat: bool = False) -> Fetched:
        """Write the job's results below the folder `to`; see AsyncHive.download_results."""
        return self._do(self._hive.download_results(job, to, flat=flat))

    def emitted(self, job: AnyJob, index: int = 0) -> list[schema.Emitted]:
        """The structured results that a task told of, once it has ended."""
        return self._do(self._hive.emitted(job, index))

    def cancel(self, job: AnyJob) -> schema.Done:
        """End the job: queued tasks now, running ones are told to stop."""
        return self._do(self._hive.cancel(job))

    # What tasks print

    def logs(
        self, job: AnyJob, index: int = 0, *, follow: bool = True, stream: Stream | str = "both"
    ) -> Generator[Piece]:
        """What a task prints, as it comes, through all its attempts until it has ended."""
        return self._each(self._hive.logs(job, index, follow=follow, stream=stream))

    def output(self, job: AnyJob, index: int = 0, *, stream: Stream | str = "stdout") -> bytes:
        """All that a task printed, once it has ended."""
        return self._do(self._hive.output(job, index, stream=stream))

    def outputs(self, job: AnyJob, *, stream: Stream | str = "stdout") -> Generator[bytes]:
        """What each task of the job printed, in order, each once it has ended."""
        return self._each(self._hive.outputs(job, stream=stream))

    def events(self, **wanted: Unpack[EventsWanted]) -> Generator[schema.Shown]:
        """Events from a position or moment on, then as they happen (see EventsWanted)."""
        return self._each(self._hive.events(**wanted))

    # Blobs

    def upload(self, source: Path | str | bytes) -> schema.BlobAnswer:
        """Store a file (a path) or bytes; what the hive has already is not sent again."""
        return self._do(self._hive.upload(source))

    def upload_folder(self, folder: Path | str) -> Stored:
        """Store a folder; see AsyncHive.upload_folder."""
        return self._do(self._hive.upload_folder(folder))

    def upload_many(self, sources: Iterable[Path | str | bytes]) -> list[schema.BlobAnswer]:
        """Store files (paths) and bytes, some at a time; see `upload`."""
        return self._do(self._hive.upload_many(sources))

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Which of these blobs the hive does not have."""
        return self._do(self._hive.missing(digests))

    @overload
    def download(self, digest: Digest) -> bytes: ...
    @overload
    def download(self, digest: Digest, to: Path | str) -> Path: ...
    def download(self, digest: Digest, to: Path | str | None = None) -> bytes | Path:
        """The bytes of a blob, verified; or, with `to`, the file they were written to."""
        return self._do(self._hive.download(digest) if to is None else self._hive.download(digest, to))

    # Workers and the hive

    def workers(self) -> list[schema.WorkerView]:
        """Every worker that was ever seen."""
        return self._do(self._hive.workers())

    def worker(self, worker: WorkerId) -> schema.WorkerView:
        """One worker."""
        return self._do(self._hive.worker(worker))

    def worker_usage(self, worker: WorkerId) -> list[UsageView]:
        """What the worker's machine used in the last ten minutes, oldest first."""
        return self._do(self._hive.worker_usage(worker))

    def configure(self, worker: WorkerId, heartbeat: float) -> schema.Done:
        """Have the worker measure its machine every `heartbeat` seconds."""
        return self._do(self._hive.configure(worker, heartbeat))

    def drain(self, worker: WorkerId, on: bool = True) -> schema.Done:
        """Give the worker nothing new (`on`), or work again."""
        return self._do(self._hive.drain(worker, on))

    def status(self) -> schema.Status:
        """The hive at a glance."""
        return self._do(self._hive.status())
