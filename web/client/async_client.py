"""The client for asyncio."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, Unpack, overload

from events.base import Digest, WorkerId
from events.spec import Input, JobSpec
from infra.folder import Folder
from infra.tls import Trust
from projections.rows import TaskState
from web import schema
from web.client import address, batch, codec, files, folders, frames, streams
from web.client import results as fetching
from web.client.access import AsyncAccess
from web.client.costs import AsyncCosts
from web.client.errors import JobFailed, Refused
from web.client.fields import (
    Command,
    EventsWanted,
    Fields,
    Item,
    JobsWanted,
    Source,
    Stream,
    each_of,
    events_query,
    jobs_query,
    spec_of,
)
from web.client.finished import Finished
from web.client.http import TRY_S_MAX, Http, Query
from web.client.ledger import AsyncLedger
from web.client.people import AsyncPeople
from web.client.rewards import AsyncRewards
from web.client.types import AnyJob, Job, JobResult, Piece, id_of
from web.usage_schema import UsageView

OUTPUTS_MAX = 16
"""Outputs fetched at a time."""


class AsyncHive:
    """A hive, over its HTTP API. Use it in one event loop, and as a context manager (or call `close`).

    Without arguments it finds the hive by HIVE_URL and HIVE_KEY, else the one that runs in the data folder. While the
    hive is away everything is tried again, for `try_s` seconds at most (questions for 10, the very first contact for 2);
    then Unavailable is raised. Errors are HiveErrors.

    With https:// it trusts, without a `trust` of its own, the authority in HIVE_CA (a file), the one whose fingerprint is
    behind `#` in the URL or in HIVE_CA_SHA256, that of the data folder for the hive there, else those of the system.
    """

    def __init__(self, url: str = "", key: str = "", *, try_s: float = TRY_S_MAX, trust: Trust | None = None) -> None:
        if not (url and key):
            url, key = address.find(url, key)
        self.url, found = address.trust_at(url, Folder.find()) if trust is None else (url.rstrip("/"), trust)
        self._http = Http(self.url, key, try_s, found)
        self._batcher = batch.Batcher(self._http)
        self._finished = Finished(self._http, self.job)
        self.access = AsyncAccess(self._ask)
        self.costs = AsyncCosts(self._ask)
        self.people = AsyncPeople(self._ask)
        self.rewards = AsyncRewards(self._ask)
        """Keys, enrolment tokens, identities of workers."""
        self.ledger = AsyncLedger(self._http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything."""
        await self._batcher.close()
        await self._finished.close()
        await self._http.close()

    async def _ask(self, method: str, path: str, query: Query | None = None, body: Any = None) -> bytes:
        if body is None:
            return await self._http.ask(method, path, query)
        return await self._http.ask(method, path, query, codec.encode(body), {"Content-Type": "application/json"})

    # Handing in

    async def submit(
        self, command: Command | JobSpec = (), *, idempotency_key: str = "", **fields: Unpack[Fields]
    ) -> Job:
        """Hand in a job; on disk when this returns. Submissions that run concurrently go to the hive together.

        With an `idempotency_key` a later submission with the same key and body is this same job.
        """
        spec = command if isinstance(command, JobSpec) else await self._spec(command, fields)
        return await self.submit_spec(spec, idempotency_key=idempotency_key)

    async def submit_spec(self, spec: JobSpec, *, idempotency_key: str = "") -> Job:
        """Hand in a job as a JobSpec; see `submit`."""
        if idempotency_key or spec.ref:
            return (await self.submit_many([spec], idempotency_key=idempotency_key))[0]
        job = await self._batcher.add(codec.encode(spec))
        self._finished.note(job.start)
        return job

    async def submit_many(self, specs: Iterable[JobSpec], *, idempotency_key: str = "") -> list[Job]:
        """Hand in up to 1000 jobs in one request; they may wait for each other by `ref`."""
        bodies = [codec.encode(spec) for spec in specs]
        jobs = await batch.post(self._http, bodies, idempotency_key or secrets.token_hex(16))
        if jobs:
            self._finished.note(jobs[0].start)
        return jobs

    async def map(
        self, command: Command, items: Iterable[Item], *, idempotency_key: str = "", **fields: Unpack[Fields]
    ) -> Job:
        """Hand in an array: one task for each of `items`, which are its arguments after those of `command`."""
        each = [each_of(item) for item in items]
        if not each:
            raise Refused("there are no items; an array needs at least one task", field="items")
        manifest = await self.upload(codec.encode(each))
        spec = await self._spec(command, {**fields, "count": len(each), "each": manifest.digest})
        return await self.submit_spec(spec, idempotency_key=idempotency_key)

    async def _spec(self, command: Command, fields: Fields) -> JobSpec:
        inputs = fields.get("inputs")
        made = await self._inputs(inputs) if isinstance(inputs, Mapping) else None
        try:
            return spec_of(command, fields, made)
        except TypeError as error:
            raise Refused(f"not the fields of a job: {error}", remedy="see events.spec.JobSpec") from None

    async def _inputs(self, sources: Mapping[str, Source]) -> list[Input]:
        local = {path: source for path, source in sources.items() if isinstance(source, (Path, bytes))}
        whole = {path: source for path, source in local.items() if isinstance(source, Path) and source.is_dir()}
        single = {path: source for path, source in local.items() if path not in whole}
        stored = dict(zip(single, await self.upload_many(list(single.values())), strict=True))
        folders_of = {path: (await folders.upload(self._http, source)).digest for path, source in whole.items()}
        return [
            Input(path, stored[path].digest)
            if path in stored
            else Input(path, folders_of[path], form="folder")
            if path in folders_of
            else Input(path, job=source.job)
            if isinstance(source, Job)
            else Input(path, str(source))
            for path, source in sources.items()
        ]

    # How they end

    async def result(self, job: AnyJob, timeout: float | None = None, *, check: bool = False) -> JobResult:
        """How the job ended, once it has. Raises TimeoutError; with `check` JobFailed unless every task succeeded."""
        if timeout is None:
            result = await self._finished.result(job)
        else:
            async with asyncio.timeout(timeout):
                result = await self._finished.result(job)
        if check and not result.ok:
            raise JobFailed(result)
        return result

    async def gather(
        self, jobs: AnyJob | Iterable[AnyJob], timeout: float | None = None, *, check: bool = False
    ) -> list[JobResult]:
        """How the jobs ended, once all have, in their order; see `result`."""
        asked: Iterable[AnyJob] = [jobs] if isinstance(jobs, (str, Job)) else jobs
        async with asyncio.timeout(timeout):
            # One after the other: what ends meanwhile is kept, so no task a job is needed.
            return [await self.result(job, check=check) for job in asked]

    async def wait(self, job: AnyJob, timeout: float | None = None) -> schema.Job:
        """The job, once it has ended. Raises TimeoutError."""
        await self.result(job, timeout)
        return await self.job(job)

    # Looking

    async def job(self, job: AnyJob) -> schema.Job:
        """One job as it is now."""
        query: Query = [] if isinstance(job, str) or not job.position else [("min_position", job.position)]
        return codec.job_of(await self._ask("GET", f"/v1/jobs/{codec.name(id_of(job))}", query))

    async def jobs(self, **wanted: Unpack[JobsWanted]) -> schema.JobsAnswer:
        """A page of jobs, newest first (see JobsWanted); `next` is the cursor of the following page."""
        return codec.jobs_of(await self._ask("GET", "/v1/jobs", jobs_query(**wanted)))

    async def tasks(
        self, job: AnyJob, *, state: TaskState | str | None = None, after: int = -1, limit: int = schema.LIMIT_DEFAULT
    ) -> schema.TasksAnswer:
        """A page of a job's tasks with numbers above `after`; `next` is the `after` of the following page."""
        query: Query = [("after", str(after)), ("limit", str(limit)), *([("state", state)] if state else [])]
        return codec.tasks_of(await self._ask("GET", f"/v1/jobs/{codec.name(id_of(job))}/tasks", query))

    async def results(self, job: AnyJob) -> AsyncGenerator[schema.Result]:
        """The files that the job's tasks left, in order of task and path."""
        after: str | None = ""
        while after is not None:
            query: Query = [("after", after), ("limit", str(schema.LIMIT_MAX))]
            page = codec.results_of(await self._ask("GET", f"/v1/jobs/{codec.name(id_of(job))}/results", query))
            for result in page.results:
                yield result
            after = page.next

    async def download_results(
        self,
        job: AnyJob | Iterable[schema.Result],
        to: Path | str,
        *,
        flat: bool = False,
        on_bytes: Callable[[int], None] = lambda count: None,
        on_file: Callable[[Path], None] = lambda path: None,
    ) -> fetching.Fetched:
        """Write the job's results (or these) below the folder `to`: to TASK/PATH, or PATH alone when `flat`. Each is
        verified; what an earlier call left half done is gone on with, and what is there is not fetched again.
        """
        wanted = [one async for one in self.results(job)] if isinstance(job, (str, Job)) else list(job)
        return await fetching.download(self._http, wanted, Path(to), flat=flat, on_bytes=on_bytes, on_file=on_file)

    async def emitted(self, job: AnyJob, index: int = 0) -> list[schema.Emitted]:
        """The structured results that a task told of, once it has ended."""
        path = f"/v1/jobs/{codec.name(id_of(job))}/tasks/{index}/emitted"
        return codec.emitted_of(await self._ask("GET", path))

    async def cancel(self, job: AnyJob) -> schema.Done:
        """End the job: queued tasks now, running ones are told to stop."""
        path = f"/v1/jobs/{codec.name(id_of(job))}/cancel"
        return codec.done_of(await self._ask("POST", path))

    # What tasks print

    async def logs(
        self, job: AnyJob, index: int = 0, *, follow: bool = True, stream: Stream | str = "both"
    ) -> AsyncGenerator[Piece]:
        """What a task prints, as it comes, through all its attempts until it has ended (or, without `follow`, what
        its latest attempt printed so far).
        """
        path = f"/v1/jobs/{codec.name(id_of(job))}/tasks/{index}/output"
        query: Query = [("stream", stream), ("follow", codec.flag(follow))]
        end = "end" if follow else ""
        async for _, pieces in streams.follow_as(self._http, path, query, end, frames.ACCEPT, frames.frames):
            for piece in pieces:
                yield piece

    async def output(self, job: AnyJob, index: int = 0, *, stream: Stream | str = "stdout") -> bytes:
        """All that a task printed, once it has ended."""
        pieces = [piece.data async for piece in self.logs(job, index, stream=stream) if piece.stream != "mark"]
        return b"".join(pieces)

    async def outputs(self, job: AnyJob, *, stream: Stream | str = "stdout") -> AsyncGenerator[bytes]:
        """What each task of the job printed, in order, each once it has ended."""
        count = (await self.job(job)).count
        for first in range(0, count, OUTPUTS_MAX):
            some = range(first, min(first + OUTPUTS_MAX, count))
            for output in await asyncio.gather(*(self.output(job, index, stream=stream) for index in some)):
                yield output

    async def events(self, **wanted: Unpack[EventsWanted]) -> AsyncGenerator[schema.Shown]:
        """Events from a position or moment on, then as they happen (see EventsWanted)."""
        end = None if wanted.get("follow", True) else ""
        async for event in streams.follow(self._http, "/v1/events", events_query(**wanted), end):
            if event.data:
                for shown in codec.shown_of(event.data):
                    yield shown

    # Blobs

    async def upload(self, source: Path | str | bytes) -> schema.BlobAnswer:
        """Store a file (a path) or bytes; what the hive has already is not sent again."""
        return (await self.upload_many([source]))[0]

    async def upload_many(self, sources: Iterable[Path | str | bytes]) -> list[schema.BlobAnswer]:
        """Store files (paths) and bytes, some at a time; see `upload`."""
        return await files.upload(self._http, [Path(one) if isinstance(one, str) else one for one in sources])

    async def upload_folder(self, folder: Path | str) -> folders.Stored:
        """Store a folder: its files, and the list of them, whose digest makes an Input with the form `folder`."""
        return await folders.upload(self._http, Path(folder))

    async def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Which of these blobs the hive does not have."""
        return await files.missing(self._http, digests)

    async def expire_blobs(self, *, dry_run: bool = True) -> schema.Expired:
        """Delete the files that nothing needs any more, or only say which those are. For admins."""
        return codec.expired_of(await self._ask("POST", "/v1/blobs/expire", None, schema.ExpireBody(dry_run)))

    @overload
    async def download(self, digest: Digest) -> bytes: ...
    @overload
    async def download(self, digest: Digest, to: Path | str) -> Path: ...
    async def download(self, digest: Digest, to: Path | str | None = None) -> bytes | Path:
        """The bytes of a blob, verified; or, with `to`, the file they were written to."""
        if to is None:
            return await files.read(self._http, digest)
        await files.download(self._http, digest, Path(to))
        return Path(to)

    # Workers and the hive

    async def workers(self) -> list[schema.WorkerView]:
        """Every worker that was ever seen."""
        return codec.workers_of(await self._ask("GET", "/v1/workers")).workers

    async def worker(self, worker: WorkerId) -> schema.WorkerView:
        """One worker."""
        return codec.worker_of(await self._ask("GET", f"/v1/workers/{codec.name(worker)}"))

    async def worker_usage(self, worker: WorkerId) -> list[UsageView]:
        """What the worker's machine used in the last ten minutes, oldest first."""
        return codec.usage_of(await self._ask("GET", f"/v1/workers/{codec.name(worker)}/usage")).points

    async def configure(self, worker: WorkerId, heartbeat: float) -> schema.Done:
        """Have the worker measure its machine every `heartbeat` seconds."""
        path = f"/v1/workers/{codec.name(worker)}/configure"
        return codec.done_of(await self._ask("POST", path, None, schema.ConfigureBody(heartbeat)))

    async def drain(self, worker: WorkerId, on: bool = True) -> schema.Done:
        """Give the worker nothing new (`on`), or work again."""
        path = f"/v1/workers/{codec.name(worker)}/drain"
        return codec.done_of(await self._ask("POST", path, None, schema.DrainBody(on)))

    async def enrol(self, public_key: str, name: str = "") -> schema.EnrolAnswer:
        """Let the machine with this public NATS key connect."""
        return codec.enrol_of(await self._ask("POST", "/v1/workers", None, schema.EnrolBody(public_key, name)))

    async def forget(self, worker: WorkerId) -> None:
        """Let a worker go: its key opens nothing any more."""
        await self._ask("DELETE", f"/v1/workers/{codec.name(worker)}")

    async def status(self) -> schema.Status:
        """The hive at a glance."""
        return codec.status_of(await self._ask("GET", "/v1/status"))
