"""Blobs: files and bytes up and down, each checked against its SHA-256."""

import asyncio
import fcntl
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from events.base import Digest
from events.spec import DIGEST
from infra.threads import in_thread
from web.client.errors import Broken, Refused, Unavailable
from web.client.http import BROKEN, Http, Retry, unreachable
from web.schema import BlobAnswer, MissingAnswer

CHUNK_BYTES = 1024 * 1024
ASKED_MAX = 10_000
"""Digests in one question."""
UPLOADS_MAX = 8

_missing_of = msgspec.json.Decoder(MissingAnswer).decode
_encode = msgspec.json.Encoder().encode


def digest_of(source: Path | bytes) -> BlobAnswer:
    """The digest and size of a file or of bytes."""
    if isinstance(source, bytes):
        return BlobAnswer(hashlib.sha256(source).hexdigest(), len(source))
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BlobAnswer(digest, os.fstat(file.fileno()).st_size)


async def missing(http: Http, digests: Iterable[Digest]) -> list[Digest]:
    """Which of them the hive does not have."""
    asked = list(dict.fromkeys(digests))
    found: list[Digest] = []
    for at in range(0, len(asked), ASKED_MAX):
        body = _encode({"digests": asked[at : at + ASKED_MAX]})
        found += _missing_of(
            await http.ask("POST", "/v1/blobs/missing", None, body, {"Content-Type": "application/json"})
        ).missing
    return found


async def upload(http: Http, sources: list[Path | bytes]) -> list[BlobAnswer]:
    """Store files and bytes; what the hive has already is not sent again."""
    blobs = [await in_thread(digest_of, source) for source in sources]
    absent = set(await missing(http, [blob.digest for blob in blobs]))
    turn = asyncio.Semaphore(UPLOADS_MAX)

    async def one(source: Path | bytes, blob: BlobAnswer) -> None:
        async with turn:
            await _put(http, source, blob)

    async with asyncio.TaskGroup() as group:
        for source, blob in zip(sources, blobs, strict=True):
            if blob.digest in absent:
                absent.remove(blob.digest)
                group.create_task(one(source, blob))
    return blobs


async def _put(http: Http, source: Path | bytes, blob: BlobAnswer) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
    try:
        body = source if isinstance(source, bytes) else lambda: _chunks(source)
        await http.ask("PUT", f"/v1/blobs/{blob.digest}", None, body, headers)
    except Refused as error:
        if error.code == "bad-digest":
            raise Refused(f"{source!r} changed while it was uploaded", remedy="upload it again") from error
        raise


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await in_thread(file.read, CHUNK_BYTES):
            yield chunk


async def read(http: Http, digest: Digest) -> bytes:
    """The whole blob. Raises HiveError."""
    _check_name(digest)
    data = await http.ask("GET", f"/v1/blobs/{digest}")
    _check(digest, (await in_thread(hashlib.sha256, data)).hexdigest())
    return data


async def download(
    http: Http, digest: Digest, to: Path, *, resume: bool = False, on_bytes: Callable[[int], None] = lambda count: None
) -> None:
    """Write the blob to the file `to`, which appears only when it is whole. A break goes on where it was; with `resume`
    what came is kept beside it until then, also when this fails, and the next call goes on from there. `on_bytes` is told
    how many came. Raises HiveError, OSError.
    """
    _check_name(digest)
    path = to.parent / f".{to.name[:40]}.{digest[:16]}.part" if resume else _temporary(to)
    done = False
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b") as file:
            _lock(file, to)
            running = hashlib.sha256()
            on_bytes(await in_thread(_hash_all, file, running))
            retry = Retry(http)
            while True:
                try:
                    await _rest(http, digest, file, running, retry, on_bytes)
                    break
                except BROKEN as trouble:
                    await retry.pause(unreachable(http.url, trouble))
                except Unavailable as error:
                    await retry.pause(error)
            done = True  # also when it is not what it should be: what came is of no use then
            _check(digest, running.hexdigest())
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            os.replace(path, to)
    finally:
        if done or not resume:
            path.unlink(missing_ok=True)


async def _rest(
    http: Http, digest: Digest, file: BinaryIO, running: Any, retry: Retry, on_bytes: Callable[[int], None]
) -> None:
    """Append what is missing. Raises HiveError, or one of BROKEN."""
    size = file.tell()
    headers = {"Range": f"bytes={size}-"} if size else None
    try:
        async with http.stream(f"/v1/blobs/{digest}", None, headers) as answer:
            if size and answer.status != 206:
                raise Broken(f"the hive did not go on at byte {size} of {digest}")
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                await in_thread(_write_and_hash, file, chunk, running)
                on_bytes(len(chunk))
                retry.again()
    except Refused as error:
        if size and error.code == "no-range":  # there is no more
            return
        raise


def _write_and_hash(file: BinaryIO, chunk: bytes, running: Any) -> None:
    file.write(chunk)
    running.update(chunk)


def _hash_all(file: BinaryIO, running: Any) -> int:
    while data := file.read(CHUNK_BYTES):
        running.update(data)
    return file.tell()


def _temporary(to: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{to.name[:40]}.", dir=to.parent)
    os.close(handle)
    return Path(name)


def _lock(file: BinaryIO, to: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{to} is being downloaded by another process", remedy="wait for it, or end it") from None


def is_here(to: Path, digest: Digest, size: int) -> bool:
    """Whether the file is there already, whole. Blocking."""
    try:
        return to.is_file() and to.stat().st_size == size and digest_of(to).digest == digest
    except OSError:
        return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _check_name(digest: Digest) -> None:
    if not DIGEST.match(digest):
        raise Refused(f"{digest[:80]!r} is no digest", remedy="a digest is 64 lower-case hexadecimal digits")


def _check(digest: Digest, got: Digest) -> None:
    if got != digest:
        raise Broken(f"the bytes that came for {digest} are {got}", remedy="try again")
