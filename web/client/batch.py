"""Submissions that come together go together: while one request is in flight, the next one collects.

Each request has an Idempotency-Key of its own and is sent again under it until the hive answered. A job that the hive
refuses is taken out, and the others of its request are sent again, under a new key.
"""

import asyncio
import re
import secrets

import msgspec

from web.client.errors import HiveError
from web.client.http import Http
from web.client.types import Job
from web.schema import SubmitAnswer

JOBS_MAX = 1000
BYTES_MAX = 6 * 1024**2
_PLACE = re.compile(r"jobs\[(\d+)\]\.?(.*)\Z", re.DOTALL)
_answer_of = msgspec.json.Decoder(SubmitAnswer).decode
_PATH = "/v1/jobs"

Waiting = tuple[bytes, "asyncio.Future[Job]"]


async def post(http: Http, bodies: list[bytes], key: str) -> list[Job]:
    """Submit encoded specs as one request. Raises HiveError."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    answer = _answer_of(await http.ask("POST", _PATH, None, b"[%s]" % b",".join(bodies), headers))
    position, start = answer.position, answer.start
    return [Job(one.job, one.existing, position, start) for one in answer.jobs]


class Batcher:
    """Collects and sends."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._waiting: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, body: bytes) -> "asyncio.Future[Job]":
        """Have an encoded spec submitted with the next request."""
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        """Let what is in flight end; what was not sent yet fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        batch: list[Waiting] = []
        try:
            while self._waiting:
                batch = self._take()
                if batch:
                    await self._send(batch)
        finally:
            self._task = None
            left, self._waiting = [*batch, *self._waiting], []
            for _, future in left:
                if not future.done():
                    future.set_exception(HiveError("the client was closed before the job was handed in"))

    def _take(self) -> list[Waiting]:
        """The first of those that wait and are still wanted, as many as fit in one request."""
        size = at = 0
        batch: list[Waiting] = []
        for body, future in self._waiting:
            if len(batch) == JOBS_MAX or (batch and size + len(body) > BYTES_MAX):
                break
            at += 1
            if not future.done():
                size += len(body)
                batch.append((body, future))
        del self._waiting[:at]
        return batch

    async def _send(self, batch: list[Waiting]) -> None:
        while batch:
            try:
                jobs = await post(self._http, [body for body, _ in batch], secrets.token_hex(16))
            except HiveError as error:
                batch = _after_refusal(batch, error)
                continue
            for (_, future), job in zip(batch, jobs, strict=True):
                if not future.done():
                    future.set_result(job)
            return


def _after_refusal(batch: list[Waiting], error: HiveError) -> list[Waiting]:
    """Tell those whom a refusal is about; the rest, to be sent again."""
    if len(error.jobs) == len(batch):
        return _by_outcome(batch, error)
    found = _PLACE.match(error.field)
    if found is None or int(found[1]) >= len(batch):
        for _, future in batch:
            _fail(future, error)
        return []
    number = int(found[1])
    _fail(batch[number][1], _about_one(error, number, found[2]))
    return batch[:number] + batch[number + 1 :]


def _by_outcome(batch: list[Waiting], error: HiveError) -> list[Waiting]:
    for (_, future), outcome in zip(batch, error.jobs, strict=True):
        if outcome.accepted and not future.done():
            future.set_result(Job(outcome.job, outcome.existing))
        elif not outcome.accepted:
            found = _PLACE.match(outcome.field)
            field = found[2] if found else outcome.field
            _fail(future, type(error)(outcome.detail, field=field, status=error.status, code=outcome.code))
    return []


def _about_one(error: HiveError, number: int, field: str) -> HiveError:
    """The error of one job of a request, as if it had been sent alone."""
    prefix = f"jobs[{number}]"
    detail = error.detail.replace(f"{prefix}.", "").replace(prefix, "the job")
    return type(error)(detail, field=field, remedy=error.remedy, status=error.status, code=error.code)


def _fail(future: "asyncio.Future[Job]", error: HiveError) -> None:
    if not future.done():
        future.set_exception(error)
