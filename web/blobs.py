"""Blobs: bytes by their SHA-256, whole or in part. What a digest names never changes, so anyone may cache it."""

import re
from collections.abc import AsyncGenerator, Iterable
from typing import Annotated, Any

from litestar import HttpMethod, Request, Response, post, put, route
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.types import ASGIApp

from events.base import Digest
from events.spec import DIGEST
from infra.blobs import SIZE_BYTES_MAX, BlobMissing
from web import schema
from web.caller import JOBS_READ, Caller, caller_of
from web.core import Core
from web.openapi import BytesOperation
from web.params import CoreArg, problems
from web.problems import Failed, bad_field, encode
from web.stream import BytesStream

ASKED_BYTES_MAX = 8 * 1024**2
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")


def _check(digest: Digest) -> None:
    if not DIGEST.match(digest):
        detail = "must be the SHA-256 of the blob as 64 lower-case hexadecimal digits"
        raise bad_field("digest", detail, "see `sha256sum FILE`", status=400)


@put(
    "/v1/blobs/{digest:str}",
    needs="jobs:own",
    summary="Store a blob",
    description="The body's bytes; they are kept only if they are what the digest names. 200: it was there already.",
    responses={
        200: ResponseSpec(schema.BlobAnswer, generate_examples=False, description="It was there already"),
        201: ResponseSpec(schema.BlobAnswer, generate_examples=False, description="Stored, on disk"),
        **problems(413, 422, 507),
    },
    operation_class=BytesOperation,
    request_max_body_size=None,
)
async def put_blob(core: CoreArg, digest: FromPath[str], request: Request[Any, Any, State]) -> Response[bytes]:
    """Take bytes in."""
    _check(digest)
    existed = core.blobs.size(digest) is not None
    # What a worker has made may still be kept when nothing new is taken any more.
    if not existed and core.disk().state == "full" and not caller_of(request).ticket:
        raise Failed(507, "disk-full", core.disk().why(), remedy="free some space on the hive's disk")
    caller = caller_of(request)
    limit = 0 if caller.ticket else core.limits_of(caller.user).upload_bytes
    blob = await core.blobs.put_stream(digest, request.stream(), min(limit or SIZE_BYTES_MAX, SIZE_BYTES_MAX))
    if not caller.ticket:
        await core.references.add(caller.user, [digest])
    answer = schema.BlobAnswer(blob.digest, blob.size)
    return Response(encode(answer), status_code=200 if existed else 201, media_type="application/json")


@route(
    "/v1/blobs/{digest:str}",
    needs=JOBS_READ,
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    summary="Fetch a blob, or a part of it",
    media_type="application/octet-stream",
    responses={
        200: ResponseSpec(
            bytes, generate_examples=False, description="All of it", media_type="application/octet-stream"
        ),
        206: ResponseSpec(bytes, generate_examples=False, description="A part", media_type="application/octet-stream"),
        304: ResponseSpec(None, description="If-None-Match named it"),
        **problems(404, 416),
    },
)
async def get_blob(
    core: CoreArg,
    digest: FromPath[str],
    request: Request[Any, Any, State],
    part: Annotated[str, HeaderParameter(name="Range", description="One range of bytes, such as `bytes=0-1023`")] = "",
    if_none_match: Annotated[str, HeaderParameter(name="If-None-Match")] = "",
) -> ASGIApp:
    """The bytes."""
    _check(digest)
    size = core.blobs.size(digest)
    # What may not be read is not there: a digest is no permission.
    if size is None or not await _readable(core, caller_of(request), digest):
        raise BlobMissing(digest)
    tag = f'"{digest}"'
    headers = [(b"etag", tag.encode()), (b"accept-ranges", b"bytes"), (b"cache-control", b"private, immutable")]
    # It was made elsewhere: a browser must not take it for a page of ours.
    headers += [(b"content-type", b"application/octet-stream"), (b"x-content-type-options", b"nosniff")]
    if if_none_match == "*" or tag in if_none_match:
        return BytesStream(_nothing(), 304, headers)
    wanted = _range(part, size) if request.headers.get("if-range", tag) == tag else None
    start, end = wanted or (0, size)
    headers.append((b"content-length", b"%d" % (end - start)))
    if wanted:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
    if request.method == "HEAD":
        return BytesStream(_nothing(), 206 if wanted else 200, headers)
    return BytesStream(_bytes(core, digest, start, end), 206 if wanted else 200, headers)


async def _readable(core: Core, caller: Caller, digest: Digest) -> bool:
    return caller.ticket or caller.may("jobs:read") or bool(await core.references.of(caller.user, [digest]))


async def unseen(core: Core, caller: Caller, digests: Iterable[Digest]) -> list[Digest]:
    """Those of `digests` that are not here, as far as `caller` may know."""
    wanted = list(digests)
    missing = await core.blobs.missing(wanted)
    if caller.ticket or caller.may("jobs:read"):
        return missing
    seen = await core.references.of(caller.user, wanted) - {*missing}
    return [digest for digest in wanted if digest not in seen]


async def _nothing() -> AsyncGenerator[bytes]:
    for piece in ():
        yield piece


async def _bytes(core: Core, digest: Digest, start: int, end: int) -> AsyncGenerator[bytes]:
    async for piece in core.blobs.stream(digest, start, end):
        yield piece


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the one range asked for; None when there is none, or none that can be followed."""
    found = _RANGE.match(text.strip())
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found[1], found[2]
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    else:
        start, end = max(size - int(last), 0), size
    if start >= end:
        detail = f"there is nothing at {text[:60]!r}: the blob has {size} bytes"
        raise Failed(416, "no-range", detail, field="Range", headers={"Content-Range": f"bytes */{size}"})
    return start, end


@post(
    "/v1/blobs/missing",
    needs=JOBS_READ,
    status_code=200,
    summary="Which blobs are missing",
    description="Ask before uploading. Those that are here are kept for a while, so that a job may name them.",
    responses=problems(413),
    request_max_body_size=ASKED_BYTES_MAX,
)
async def missing(
    core: CoreArg, request: Request[Any, Any, State], data: JSONBody[schema.DigestsBody]
) -> schema.MissingAnswer:
    """Those to upload."""
    for digest in data.digests:
        _check(digest)
    return schema.MissingAnswer(await unseen(core, caller_of(request), dict.fromkeys(data.digests)))


ROUTES = [put_blob, get_blob, missing]
