"""Deleting what is not needed any more: never what a job needs, or what somebody wanted lately; and only by admins."""

import hashlib
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.inputs import File, Input, list_bytes
from events.protocol import Run
from events.spec import Each
from events.task import Detail, FileRef
from tests.web_support import Api, api
from web.client import AsyncHive
from web.expiry import DAY_S, LATELY_S

OLD_S = 10 * DAY_S


@pytest.fixture
async def hive(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Api]:
    keep_days: int = getattr(request, "param", 0)
    async with api(tmp_path / "hive", tables=True, keep_days=keep_days) as served:
        yield served


async def keep(hive: Api, data: bytes, age_s: float = OLD_S) -> str:
    """A blob that nobody has wanted for so long."""
    digest = (await hive.core.blobs.put_bytes(data)).digest
    age(hive, digest, age_s)
    return digest


def age(hive: Api, digest: str, age_s: float = OLD_S) -> None:
    then = time.time() - age_s
    os.utime(hive.core.blobs.open(digest), (then, then))


def is_kept(hive: Api, digest: str) -> bool:
    return hive.core.blobs.size(digest) is not None


async def submit(hive: Api, **body: Any) -> str:
    status, answer = await hive.ask("POST", "/v1/jobs", json={"command": ["x"], **body})
    assert status == 201, answer
    return answer["jobs"][0]["job"]


async def expire(hive: Api, dry_run: bool = False) -> dict[str, Any]:
    status, answer = await hive.ask("POST", "/v1/blobs/expire", json={"dry_run": dry_run})
    assert status == 200, answer
    return answer


async def run(hive: Api, detail: Detail, **body: Any) -> str:
    """A job that ended and left this."""

    def of(run: Run, index: int) -> Detail:
        return detail

    job = await submit(hive, results=["out/", "a"], **body)
    async with hive.crew(detail=of), AsyncHive(hive.url, hive.key) as client:
        await client.result(job, 20)
    return job


async def named_by_jobs(hive: Api) -> dict[str, str]:
    """Blobs that an open job and an ended one name, in every way there is; all of them old."""
    names = ("file", "in folder", "each", "result", "in result", "emitted")
    blobs = {name: await keep(hive, name.encode()) for name in names}
    blobs["folder"] = await keep(hive, list_bytes([File("a", blobs["in folder"], 9)]))
    blobs["list"] = await keep(hive, list_bytes([File("out/a", blobs["in result"], 9)]))
    blobs["manifest"] = await keep(hive, msgspec.json.encode([Each(inputs=[Input("e", blobs["each"])])]))
    inputs = [{"path": "f", "digest": blobs["file"]}, {"path": "d", "digest": blobs["folder"], "form": "folder"}]
    results = [FileRef(0, blobs["list"], 9, 1), FileRef(1, blobs["result"], 6)]
    await run(hive, Detail(results=results, emitted=blobs["emitted"]))
    await submit(hive, inputs=inputs, each=blobs["manifest"])
    for digest in blobs.values():
        age(hive, digest)
    return blobs


async def test_what_jobs_name_is_never_deleted(hive: Api) -> None:
    blobs = await named_by_jobs(hive)
    nobodys = await keep(hive, b"of an attempt that was given up")
    dry = await expire(hive, dry_run=True)
    assert (dry["blobs"], dry["size"], dry["some"]) == (1, 31, [nobodys])
    assert is_kept(hive, nobodys)
    done = await expire(hive)
    assert (done["blobs"], done["size"]) == (1, 31)
    assert not is_kept(hive, nobodys)
    assert {name for name, digest in blobs.items() if not is_kept(hive, digest)} == set()
    assert (await expire(hive))["blobs"] == 0


async def test_what_was_wanted_lately_stays(hive: Api) -> None:
    lately = await keep(hive, b"lately", LATELY_S - 60)
    asked = await keep(hive, b"asked for")
    await hive.ask("POST", "/v1/blobs/missing", json={"digests": [asked]})
    assert (await expire(hive))["blobs"] == 0
    assert is_kept(hive, lately)
    assert is_kept(hive, asked)


async def test_without_an_end_what_people_uploaded_stays(hive: Api) -> None:
    digest = hashlib.sha256(b"uploaded").hexdigest()
    await hive.ask("PUT", f"/v1/blobs/{digest}", data=b"uploaded")
    age(hive, digest)
    assert (await expire(hive))["blobs"] == 0
    assert is_kept(hive, digest)


@pytest.mark.parametrize("hive", [3], indirect=True)
async def test_with_one_what_ended_long_ago_goes(hive: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"uploaded").hexdigest()
    await hive.ask("PUT", f"/v1/blobs/{digest}", data=b"uploaded")
    age(hive, digest)
    result = await keep(hive, b"a result")
    job = await run(hive, Detail(results=[FileRef(1, result, 8)]))
    await hive.core.outputs.append(job, 0, 1, 0, b"x" * 100)
    open_input = await keep(hive, b"still needed")
    waits = await submit(hive, inputs=[{"path": "f", "digest": open_input}])
    await hive.core.outputs.append(waits, 0, 2, 0, b"x" * 100)
    for one in (result, open_input):
        age(hive, one)
    first = await expire(hive)
    assert (first["blobs"], first["outputs"], first["some"]) == (1, 0, [digest]), "the job has just ended"
    later = time.time() + 4 * DAY_S
    monkeypatch.setattr("web.expiry.time.time", lambda: later)
    done = await expire(hive)
    assert (done["blobs"], done["outputs"]) == (1, 1)
    assert not is_kept(hive, result)
    assert is_kept(hive, open_input)
    assert hive.core.outputs.size(job, 0, 1) == 0
    assert hive.core.outputs.size(waits, 0, 2) == 100
    _, listed = await hive.ask("GET", f"/v1/jobs/{job}/results")
    assert [one["expired"] for one in listed["results"]] == [True]


async def test_a_blob_that_is_wanted_while_it_is_deleted_stays(hive: Api) -> None:
    digest = await keep(hive, b"x")
    before = time.time() - LATELY_S
    age(hive, digest, 0)
    assert await hive.core.blobs.expire([digest, "0" * 64], before) == (0, 0)
    assert is_kept(hive, digest)


async def test_only_admins_do_so(hive: Api) -> None:
    for role in ("user", "operator", "observer"):
        headers = {"Authorization": f"Bearer {await hive.key_of(role)}"}
        async with hive.http.post(f"{hive.url}/v1/blobs/expire", json={}, headers=headers) as answer:
            assert answer.status == 403, role
