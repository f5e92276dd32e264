"""Results over HTTP: folders file by file, pages, what a task told of; downloads that go on where they were; and whose they are."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from events.inputs import File, list_bytes
from events.protocol import Progress, Run
from events.task import Detail, FileRef
from tests.web_support import Api, api
from web.client import AsyncHive
from web.client.errors import Refused
from web.client.results import place_of
from web.schema import Result

FILES = {f"out/{n:03}": b"%d" % n * 5 for n in range(25)}
ARTIFACT = b"an artifact"
ALONE = b"alone" * 300_000


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    async with api(tmp_path / "hive", tables=True) as served:
        yield served


async def keep(hive: Api, data: bytes) -> str:
    return (await hive.core.blobs.put_bytes(data)).digest


async def listing(hive: Api, files: dict[str, bytes]) -> tuple[str, int]:
    listed = [File(path, await keep(hive, data), len(data)) for path, data in files.items()]
    return await keep(hive, list_bytes(listed)), len(listed)


async def job_with_results(hive: Api, key: str = "") -> str:
    """A job of two tasks, the first of which left a folder, a file and an artifact, and told of a result."""
    folder, count = await listing(hive, FILES)
    named, _ = await listing(hive, {"model.pt": ARTIFACT})
    alone = await keep(hive, ALONE)
    told = await keep(hive, b'[{"name":"metrics","json":{"acc":0.5}}]')
    detail = Detail(
        results=[
            FileRef(0, folder, sum(map(len, FILES.values())), count), FileRef(1, alone, len(ALONE)),
            FileRef(2, named, len(ARTIFACT), 1),
        ],
        progress=80, emitted=told,
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"command": ["x"], "count": 2, "results": ["out/", "alone"]}
    async with hive.http.post(f"{hive.url}/v1/jobs", json=body, headers=headers) as answer:
        job: str = (await answer.json())["jobs"][0]["job"]

    def of(run: Run, index: int) -> Detail:
        return detail if index == 0 else Detail()

    async with hive.crew(detail=of):
        async with AsyncHive(hive.url, key or hive.key) as client:
            await client.result(job, 20)
    return job


async def test_folders_are_listed_file_by_file_in_pages(hive: Api) -> None:
    job = await job_with_results(hive)
    _, whole = await hive.ask("GET", f"/v1/jobs/{job}/results")
    found = [(one["path"], one["digest"]) for one in whole["results"]]
    assert found == [
        *((path, hashlib.sha256(data).hexdigest()) for path, data in FILES.items()),
        ("alone", hashlib.sha256(ALONE).hexdigest()), ("model.pt", hashlib.sha256(ARTIFACT).hexdigest()),
    ]  # fmt: skip
    paged: list[Any] = []
    after = ""
    while after is not None:
        _, page = await hive.ask("GET", f"/v1/jobs/{job}/results?limit=7&after={after}")
        assert len(page["results"]) <= 7
        paged += page["results"]
        after = page["next"]
    assert paged == whole["results"]
    for bad in ("x", "0/0/x", "0//1", "-1/0/0"):
        assert (await hive.ask("GET", f"/v1/jobs/{job}/results?after={bad}"))[0] == 400


async def test_what_a_task_told_of(hive: Api) -> None:
    job = await job_with_results(hive)
    assert await hive.ask("GET", f"/v1/jobs/{job}/tasks/0/emitted") == (
        200,
        [{"name": "metrics", "json": {"acc": 0.5}}],
    )
    assert await hive.ask("GET", f"/v1/jobs/{job}/tasks/1/emitted") == (200, [])
    assert (await hive.ask("GET", f"/v1/jobs/{job}/tasks/2/emitted"))[0] == 404
    _, tasks = await hive.ask("GET", f"/v1/jobs/{job}/tasks")
    assert [task["progress"] for task in tasks["tasks"]] == [80, -1]


async def test_its_user_may_read_them_and_nobody_else(hive: Api) -> None:
    mine, other = await hive.key_of("user", "uann"), await hive.key_of("user", "ubob")
    job = await job_with_results(hive, mine)
    inside = hashlib.sha256(FILES["out/003"]).hexdigest()
    for key, status in ((mine, 200), (other, 404)):
        headers = {"Authorization": f"Bearer {key}"}
        for path in (f"/v1/jobs/{job}/results", f"/v1/blobs/{inside}", f"/v1/jobs/{job}/tasks/0/emitted"):
            async with hive.http.get(hive.url + path, headers=headers) as answer:
                assert answer.status == status, path


async def test_another_job_s_worker_may_fetch_them_with_its_ticket(hive: Api) -> None:
    job = await job_with_results(hive)
    ticket = hive.core.tickets.issue("w1", "j" + "a" * 16, [f"results:{job}"], 2**45)
    outside = await keep(hive, b"outside")
    async with aiohttp.ClientSession(headers={"Authorization": f"Ticket {ticket}"}) as http:
        for data, status in ((FILES["out/010"], 200), (ARTIFACT, 200), (b"outside", 403)):
            async with http.get(f"{hive.url}/v1/blobs/{hashlib.sha256(data).hexdigest()}") as answer:
                assert answer.status == status, data
        async with http.get(f"{hive.url}/v1/jobs/{job}/results?limit=3") as answer:
            assert len((await answer.json())["results"]) == 3
    assert outside


async def test_a_download_goes_on_where_it_was(hive: Api, tmp_path: Path) -> None:
    job = await job_with_results(hive)
    to, came = tmp_path / "to", 0

    def count(more: int) -> None:
        nonlocal came
        came += more

    async with AsyncHive(hive.url, hive.key) as client:
        digest = hashlib.sha256(ALONE).hexdigest()
        (to / "0").mkdir(parents=True)
        (to / "0" / f".alone.{digest[:16]}.part").write_bytes(ALONE[:1_000_000])
        (to / "0" / "model.pt").write_bytes(b"another file!")
        asked = 0
        stream = client._http.stream

        def counting(path: str, query: Any = None, headers: Any = None) -> Any:
            nonlocal asked
            asked += 1
            if path.endswith(digest):
                assert headers == {"Range": "bytes=1000000-"}
            return stream(path, query, headers)

        client._http.stream = counting  # pyright: ignore[reportAttributeAccessIssue]
        first = await client.download_results(job, to, on_bytes=count)
        assert (len(first.written), len(first.kept), first.expired) == (27, 0, [])
        assert came == sum(map(len, FILES.values())) + len(ALONE) + len(ARTIFACT)
        again = await client.download_results(job, to)
        assert (len(again.written), len(again.kept), asked) == (0, 27, 27)
    found = {path.relative_to(to / "0").as_posix(): path.read_bytes() for path in to.rglob("*") if path.is_file()}
    assert found == {**FILES, "alone": ALONE, "model.pt": ARTIFACT}


async def test_a_part_that_is_of_something_else_is_dropped(hive: Api, tmp_path: Path) -> None:
    digest = await keep(hive, ALONE)
    part = tmp_path / f".a.{digest[:16]}.part"
    async with AsyncHive(hive.url, hive.key) as client:
        one = [Result(0, "a", digest, len(ALONE))]
        part.write_bytes(b"x" * 1000)
        with pytest.raises(Exception, match="the bytes that came"):
            await client.download_results(one, tmp_path, flat=True)
        assert not part.exists()
        await client.download_results(one, tmp_path, flat=True)
    assert (tmp_path / "a").read_bytes() == ALONE


async def test_what_is_not_kept_any_more_is_said(hive: Api, tmp_path: Path) -> None:
    job = await job_with_results(hive)
    hive.core.blobs.open(hashlib.sha256(FILES["out/007"]).hexdigest()).unlink()
    async with AsyncHive(hive.url, hive.key) as client:
        fetched = await client.download_results(job, tmp_path / "to")
    assert [one.path for one in fetched.expired] == ["out/007"]
    assert len(fetched.written) == 26


def test_no_path_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "link").symlink_to(tmp_path)
    for path in ("../x", "link/x", "/etc/passwd"):
        with pytest.raises(Refused, match="outside"):
            place_of(tmp_path / "to", Result(0, path, "0" * 64, 1), flat=True)


async def test_progress_is_shown_while_it_runs(hive: Api) -> None:
    await hive.core.outputs.note([Progress(7, "jaaa", 3, 40, "epoch 4"), Progress(7, "jaaa", 3, 55, "epoch 5")])
    told = await hive.core.outputs.progress([("jaaa", 3, 7), ("jaaa", 4, 7)])
    assert told == {("jaaa", 3, 7): Progress(7, "jaaa", 3, 55, "epoch 5")}
    assert msgspec.json.encode(told["jaaa", 3, 7])
