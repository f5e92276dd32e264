"""Blobs over HTTP: whole, in part, verified; and what a worker's ticket opens."""

import hashlib
import time
from typing import Any

import aiohttp
import msgspec
import pytest

from events.spec import Each, Input
from tests.web_support import Api

DATA = bytes(range(256)) * 20_000
DIGEST = hashlib.sha256(DATA).hexdigest()
URL = f"/v1/blobs/{DIGEST}"


async def get(hive: Api, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    async with hive.http.request(method, hive.url + path, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


async def test_a_blob_is_stored_once_and_read_back(hive: Api) -> None:
    assert (await hive.ask("POST", "/v1/blobs/missing", json={"digests": [DIGEST]}))[1] == {"missing": [DIGEST]}
    assert (await get(hive, URL))[0] == 404
    assert await hive.ask("PUT", URL, data=DATA) == (201, {"digest": DIGEST, "size": len(DATA)})
    assert (await hive.ask("PUT", URL, data=DATA))[0] == 200
    assert (await hive.ask("POST", "/v1/blobs/missing", json={"digests": [DIGEST]}))[1] == {"missing": []}
    status, body, headers = await get(hive, URL)
    assert (status, body, headers["ETag"]) == (200, DATA, f'"{DIGEST}"')
    status, body, headers = await get(hive, URL, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(DATA)))
    assert (await get(hive, URL, **{"If-None-Match": f'"{DIGEST}"'}))[:2] == (304, b"")


async def test_bytes_that_do_not_match_their_digest_are_not_kept(hive: Api) -> None:
    status, problem = await hive.ask("PUT", URL, data=DATA + b"x")
    assert (status, problem["field"], problem["type"]) == (422, "digest", "urn:hive:problem:bad-digest")
    assert (await get(hive, URL))[0] == 404
    assert (await hive.ask("PUT", "/v1/blobs/..%2f..%2fetc", data=b"x"))[0] in (400, 404)


async def test_parts(hive: Api) -> None:
    await hive.core.blobs.put_bytes(DATA)
    size = len(DATA)
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, size),
        ("bytes=-7", size - 7, size),
        ("bytes=10-99999999", 10, size),
    ):
        status, body, headers = await get(hive, URL, Range=asked)
        assert (status, body) == (206, DATA[start:end]), asked
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for asked in ("bytes=5-1", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        assert (await get(hive, URL, Range=asked))[0] == 200, asked
    assert (await get(hive, URL, **{"Range": "bytes=0-0", "If-Range": '"other"'}))[0] == 200
    status, _, headers = await get(hive, URL, Range=f"bytes={size}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{size}")


async def test_a_blob_that_changed_on_the_disk_is_not_served_as_if_it_were_whole(hive: Api) -> None:
    await hive.core.blobs.put_bytes(DATA)
    path = hive.core.blobs.open(DIGEST)
    path.write_bytes(b"x" + DATA[1:])
    with pytest.raises(aiohttp.ClientError):
        await get(hive, URL)
    assert (await get(hive, URL))[0] == 404


# Tickets


async def knock(hive: Api, ticket: str, method: str, path: str, data: bytes | None = None) -> int:
    """The status that a ticket gets."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Ticket {ticket}"}) as http,
        http.request(method, hive.url + path, data=data) as answer,
    ):
        return answer.status


def issue(hive: Api, roots: list[str], job: str = "jaaaaaaaaaaaaaaaa", seconds: int = 60) -> str:
    return hive.core.tickets.issue("w1", job, roots, (int(time.time()) + seconds) * 1000)


async def test_a_ticket_opens_what_it_names_and_nothing_else(hive: Api) -> None:
    blob, other = await hive.core.blobs.put_bytes(b"mine"), await hive.core.blobs.put_bytes(b"other")
    ticket = issue(hive, [blob.digest])
    assert await knock(hive, ticket, "GET", f"/v1/blobs/{blob.digest}") == 200
    assert await knock(hive, ticket, "HEAD", f"/v1/blobs/{blob.digest}") == 200
    assert await knock(hive, ticket, "GET", f"/v1/blobs/{other.digest}") == 403
    assert await knock(hive, ticket, "PUT", URL, DATA) == 403
    for method, path in (
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/status"),
        ("POST", "/v1/blobs/missing"),
        ("GET", "/v1/jobs/jaaaaaaaaaaaaaaaa/results"),
        ("GET", "/v1/jobs/jaaaaaaaaaaaaaaaa"),
        ("GET", "/schema/openapi.json"),
        ("GET", f"/v1/blobs/{blob.digest}/"),
    ):
        assert await knock(hive, ticket, method, path) == 403, path


async def test_tickets_that_are_over_or_changed(hive: Api) -> None:
    blob = await hive.core.blobs.put_bytes(b"mine")
    path = f"/v1/blobs/{blob.digest}"
    assert await knock(hive, issue(hive, [blob.digest], seconds=-1), "GET", path) == 401
    ticket = issue(hive, [blob.digest])
    assert await knock(hive, ticket[:-2] + ("AA" if ticket[-2:] != "AA" else "BB"), "GET", path) == 401


async def test_a_ticket_may_allow_uploads(hive: Api) -> None:
    ticket = issue(hive, ["put"])
    assert await knock(hive, ticket, "PUT", URL, DATA) == 201
    assert await knock(hive, ticket, "GET", URL) == 403


async def test_a_ticket_opens_what_the_manifest_of_its_job_lists(hive: Api) -> None:
    blob, other = await hive.core.blobs.put_bytes(b"mine"), await hive.core.blobs.put_bytes(b"other")
    manifest = await hive.core.blobs.put_bytes(msgspec.json.encode([Each(inputs=[Input("in", blob.digest)])]))
    job = {"command": ["x"], "each": manifest.digest}
    answer = (await hive.ask("POST", "/v1/jobs", json=job))[1]
    name = answer["jobs"][0]["job"]
    ticket = issue(hive, [manifest.digest], name)
    assert await knock(hive, ticket, "GET", f"/v1/blobs/{manifest.digest}") == 200
    assert await knock(hive, ticket, "GET", f"/v1/blobs/{blob.digest}") == 200
    assert await knock(hive, ticket, "GET", f"/v1/blobs/{other.digest}") == 403
    # The manifest counts only as the job's own, not as a blob that is a manifest by chance.
    plain = (await hive.ask("POST", "/v1/jobs", json={"kind": "noop"}))[1]["jobs"][0]["job"]
    assert await knock(hive, issue(hive, [manifest.digest], plain), "GET", f"/v1/blobs/{blob.digest}") == 403
