"""The platform's HTTP API as a worker uses it: blobs by digest and other jobs' results, each request with the ticket
that came with the order. Trouble that may pass is retried for a while; what is certain to fail is not.
"""

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from events.base import Digest, JobId
from infra.tls import Trust

RETRY_S = 30.0
"""How long a download is tried."""
UPLOAD_RETRY_S = 600.0
"""How long results are: the work is done, so it is worth waiting."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 5.0
CONNECT_S, READ_S = 5.0, 60.0
CHUNK_BYTES = 1024 * 1024
REQUESTS_MAX = 8
PAGE = 1000
ERROR_BYTES_MAX = 4096
ANSWER_BYTES_MAX = 64 * 1024
ERROR_CHARS_MAX = 300
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one after a while."""


class Unavailable(Exception):
    """The API could not do it, for a reason that is not going to pass soon; the text says which."""


class _Passing(Exception):
    """May work when it is tried again."""


class ResultFile(msgspec.Struct, frozen=True, gc=False):
    """A file that a task of another job left."""

    index: int
    path: str
    digest: Digest
    size: int


class _Page(msgspec.Struct, frozen=True, gc=False):
    results: list[ResultFile]
    next: str | None = None


class _Problem(msgspec.Struct, frozen=True, gc=False):
    title: str = ""
    detail: str = ""


class _Sealed(msgspec.Struct, frozen=True, gc=False):
    sealed: str


_sealed_of = msgspec.json.Decoder(_Sealed).decode
_page_of = msgspec.json.Decoder(_Page).decode
_problem_of = msgspec.json.Decoder(_Problem).decode


class Api:
    """Requests to one platform. Make it inside a running loop; `await close()` it."""

    def __init__(self, url: str, trust: Trust | None = None) -> None:
        self._url = url.rstrip("/")
        # `auto_decompress` off: a blob is its bytes as stored, whatever a proxy says of them.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S),
            connector=aiohttp.TCPConnector(limit=REQUESTS_MAX, ssl=(trust or Trust()).context()),
            auto_decompress=False,
        )
        self._gate = asyncio.Semaphore(REQUESTS_MAX)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def download(self, digest: Digest, ticket: str, fd: int) -> int:
        """Write the blob to `fd`, from its start; its size. Raises Unavailable, also when the bytes do not match."""

        async def once() -> int:
            seen, size = hashlib.sha256(), 0
            os.ftruncate(fd, 0)
            async with self._request("GET", f"/v1/blobs/{digest}", ticket) as answer:
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    seen.update(chunk)
                    size += (
                        await asyncio.to_thread(os.pwrite, fd, chunk, size)
                        if len(chunk) > CHUNK_BYTES // 2
                        else (os.pwrite(fd, chunk, size))
                    )
            if seen.hexdigest() != digest:
                raise Unavailable(f"blob {digest}: its {size} bytes do not match, they are {seen.hexdigest()}")
            return size

        return await self._retry(once, RETRY_S)

    async def upload(self, digest: Digest, ticket: str, fd: int, size: int) -> None:
        """Store the file's first `size` bytes as the blob `digest`. Raises Unavailable."""

        async def chunks() -> AsyncIterator[bytes]:
            at = 0
            while at < size and (data := os.pread(fd, min(CHUNK_BYTES, size - at), at)):
                at += len(data)
                yield data

        async def once() -> None:
            data: Any = chunks() if size > CHUNK_BYTES else os.pread(fd, size, 0)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            async with self._request("PUT", f"/v1/blobs/{digest}", ticket, data=data, headers=headers):
                pass

        await self._retry(once, UPLOAD_RETRY_S)

    async def results(self, job: JobId, ticket: str, position: str) -> list[ResultFile]:
        """Every result of `job`, as of `position` or later. Raises Unavailable."""
        found: list[ResultFile] = []
        after = ""
        while True:
            page = await self._retry(lambda: self._results(job, ticket, position, after), RETRY_S)  # noqa: B023 - it is called before `after` changes
            found += page.results
            if not page.next:
                return found
            after = page.next

    async def secrets(self, job: JobId, index: int, ticket: str) -> bytes:
        """The secrets of a task that this worker has a lease of, sealed to its key. Raises Unavailable."""

        async def once() -> bytes:
            path, body = f"/v1/jobs/{quote(job, safe='')}/secrets", {"index": index}
            async with self._request("POST", path, ticket, json=body) as answer:
                try:
                    return base64.b64decode(_sealed_of(await answer.read()).sealed)
                except (msgspec.DecodeError, ValueError):
                    raise Unavailable(f"POST {path}: the answer cannot be read") from None

        return await self._retry(once, RETRY_S)

    async def _results(self, job: JobId, ticket: str, position: str, after: str) -> _Page:
        params = {"limit": str(PAGE)}
        if position:
            params["min_position"] = position
        if after:
            params["after"] = after
        path = f"/v1/jobs/{quote(job, safe='')}/results"
        async with self._request("GET", path, ticket, params=params) as answer:
            try:
                return _page_of(await answer.read())
            except msgspec.DecodeError as error:
                raise Unavailable(f"the results of {job} cannot be read: {error}") from None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of a JSON request that needs no ticket, tried once. Raises Unavailable when nobody answers."""
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self._url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                found = bytearray()
                async for chunk in answer.content.iter_chunked(ANSWER_BYTES_MAX):
                    found += chunk
                    if len(found) > ANSWER_BYTES_MAX:
                        raise Unavailable(f"POST {path}: the answer is longer than {ANSWER_BYTES_MAX} bytes")
                return answer.status, bytes(found)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"POST {path}: {type(error).__name__} {error}".rstrip()) from None

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, ticket: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        said = {"Authorization": f"Ticket {ticket}", "Accept-Encoding": "identity", **(headers or {})}
        try:
            async with (
                self._gate,
                self._session.request(method, self._url + path, headers=said, allow_redirects=False, **more) as answer,
            ):
                if answer.status >= 300:
                    await self._fail(f"{method} {path}", answer)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _Passing(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from None

    @staticmethod
    async def _fail(what: str, answer: aiohttp.ClientResponse) -> None:
        body = await answer.content.read(ERROR_BYTES_MAX)
        try:
            problem = _problem_of(body)
            text = problem.detail or problem.title
        except msgspec.DecodeError:
            text = ""
        why = f"{what}: {answer.status} {text or answer.reason}"[:ERROR_CHARS_MAX]
        raise _Passing(why) if answer.status in PASSING else Unavailable(why)

    @staticmethod
    async def _retry(once: Any, for_s: float) -> Any:
        give_up, pause = time.monotonic() + for_s, PAUSE_S_MIN
        while True:
            try:
                return await once()
            except _Passing as error:
                if time.monotonic() + pause > give_up:
                    raise Unavailable(f"{error}; tried for {for_s:g} s") from None
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(PAUSE_S_MAX, pause * 2)
