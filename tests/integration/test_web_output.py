"""What tasks print and leave, over HTTP, with the tables in Postgres: bytes, live events, attempts, results, tickets."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from events.base import JobId
from events.protocol import Run
from events.task import Detail, FileRef
from infra.outputs import frame
from tests.web_support import Api, Crew, api
from web.client import AsyncHive, Piece

WAIT_S = 20.0


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    async with api(tmp_path, tables=True) as served:
        yield served


async def ordered(crew: Crew, count: int = 1) -> Run:
    """The `count`-th order that the crew got."""
    async with asyncio.timeout(WAIT_S):
        while len(crew.orders) < count:
            await asyncio.sleep(0.005)
    return crew.orders[count - 1]


async def printed(hive: Api, run: Run, offset: int, *pieces: tuple[int, bytes]) -> int:
    """Have a task print; the offset after it."""
    data = b"".join(frame(stream, 1000, text) for stream, text in pieces)
    return await hive.core.outputs.append(run.job, run.tasks[0], run.number, offset, data)


async def said(client: AsyncHive, job: JobId, **more: Any) -> list[tuple[str, bytes]]:
    async with asyncio.timeout(WAIT_S):
        return [(piece.stream, piece.data) async for piece in client.logs(job, **more)]


async def test_output_is_followed_to_its_end(hive: Api, client: AsyncHive) -> None:
    sizes: dict[int, int] = {}

    def detail(run: Run, index: int) -> Detail:
        return Detail(out_size=sizes.get(run.number, 0))

    async with hive.crew(detail=detail) as crew:
        crew.hold.clear()
        job = await client.submit(kind="noop")
        run = await ordered(crew)
        seen: list[Piece] = []
        more = asyncio.Event()

        async def follow() -> None:
            async for piece in client.logs(job):
                seen.append(piece)
                more.set()

        following = asyncio.create_task(follow())
        offset = await printed(hive, run, 0, (1, b"one\n"), (2, b"\xff\x00err"))
        await asyncio.wait_for(more.wait(), WAIT_S)
        sizes[run.number] = offset + len(frame(1, 0, b"last"))
        crew.hold.set()
        await client.result(job, WAIT_S)
        # The report came before the end of the output: it is waited for.
        await printed(hive, run, offset, (1, b"last"))
        await asyncio.wait_for(following, WAIT_S)
        assert [(p.stream, p.data) for p in seen] == [
            ("stdout", b"one\n"),
            ("stderr", b"\xff\x00err"),
            ("stdout", b"last"),
        ]
        assert await said(client, job.job, stream="stderr") == [("stderr", b"\xff\x00err")]
        assert await client.output(job) == b"one\nlast"
        path = f"{hive.url}/v1/jobs/{job}/tasks/0/output"
        async with hive.http.get(path) as answer:
            assert await answer.read() == b"one\n\xff\x00errlast"
            after = int(answer.headers["Hive-Next-Offset"])
            assert after == sizes[run.number]
        async with hive.http.get(path, params={"offset": offset, "stream": "stdout"}) as answer:
            assert await answer.read() == b"last"
        async with hive.http.get(path, params={"offset": after}) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        # An offset that counts what was shown, not what is stored, would skip all the rest without a word.
        events = {"Accept": "text/event-stream"}
        for field, asked in (
            ("offset", hive.http.get(path, params={"offset": offset - 3})),
            ("offset", hive.http.get(path, params={"offset": offset - 3}, headers=events)),
            ("Last-Event-ID", hive.http.get(path, headers={**events, "Last-Event-ID": f"{run.number}-{offset - 3}"})),
        ):
            async with asked as answer:
                assert (answer.status, (await answer.json(content_type=None))["field"]) == (400, field)


async def test_the_next_attempt_is_followed_too(hive: Api, client: AsyncHive) -> None:
    tries: list[int] = []

    def ends(run: Run, index: int) -> int:
        tries.append(run.number)
        return 1 if run.attempt == 1 else 0

    async with hive.crew(ends=ends) as crew:
        crew.hold.clear()
        answer = await hive.ask("POST", "/v1/jobs", json={"kind": "noop", "retries": {"exit": 1, "backoff": 0}})
        job = answer[1]["jobs"][0]["job"]
        first = await ordered(crew)
        await printed(hive, first, 0, (1, b"first"))
        names: list[str] = []
        text = b""
        async with hive.http.get(
            f"{hive.url}/v1/jobs/{job}/tasks/0/output", headers={"Accept": "text/event-stream"}
        ) as answer:
            async for line in answer.content:
                text += line
                if line.startswith(b"event: "):
                    names.append(line[7:].decode().strip())
                if line.startswith(b"data: ") and names == ["attempt"]:
                    crew.hold.set()
                    second = await ordered(crew, 2)
                    await printed(hive, second, 0, (1, b"second"))
                    names.append("")
        assert [name for name in names if name] == ["attempt", "attempt", "end"]
        assert b'"state":"succeeded"' in text
        assert await said(client, job) == [("stdout", b"first"), ("stdout", b"second")]
        assert await said(client, job, follow=False) == [("stdout", b"second")]


async def test_a_task_that_never_ran_has_an_end_too(hive: Api, client: AsyncHive) -> None:
    job = await client.submit(["true"], count=3)
    following = asyncio.create_task(said(client, job.job, index=2))
    await client.cancel(job)
    assert await asyncio.wait_for(following, WAIT_S) == []
    assert (await client.wait(job)).reason == "cancelled"


async def test_tasks_and_results_page_by_page(hive: Api, client: AsyncHive) -> None:
    blob = await hive.core.blobs.put_bytes(b"left")

    def detail(run: Run, index: int) -> Detail:
        return Detail(wall_ms=5, results=[FileRef(0, blob.digest, blob.size), FileRef(1, blob.digest, 4)])

    async with hive.crew(detail=detail, ends=lambda run, index: 3 if index == 7 else 0):
        job = await client.submit(["x"], count=10, results=["a.txt", "b.txt"])
        result = await client.result(job, WAIT_S)
        assert (result.state, result.succeeded, result.failed) == ("failed", 9, 1)
    page = await client.tasks(job, limit=4)
    assert [task.index for task in page.tasks] == [0, 1, 2, 3]
    assert page.next == 3
    rest = await client.tasks(job, after=page.next, limit=1000)
    assert [task.index for task in rest.tasks] == [4, 5, 6, 7, 8, 9]
    assert rest.next is None
    failed = await client.tasks(job, state="failed")
    assert [(task.index, task.code, task.end) for task in failed.tasks] == [(7, 3, "exit")]
    _status, some = await hive.ask("GET", f"/v1/jobs/{job}/results?limit=3")
    assert [(one["index"], one["path"]) for one in some["results"]] == [(0, "a.txt"), (0, "b.txt"), (1, "a.txt")]
    whole = [(one.index, one.path) async for one in client.results(job)]
    assert whole == [(index, path) for index in range(10) for path in ("a.txt", "b.txt")]
    assert (await hive.ask("GET", f"/v1/jobs/{job}/results?after=odd"))[0] == 400
    listed = await client.jobs(state=["failed"])
    assert [one.job for one in listed.jobs] == [job.job]


async def test_a_ticket_opens_the_results_of_a_job(hive: Api, client: AsyncHive) -> None:
    blob, other = await hive.core.blobs.put_bytes(b"left"), await hive.core.blobs.put_bytes(b"other")

    def made(run: Run, index: int) -> Detail:
        return Detail(results=[FileRef(0, blob.digest, 4)])

    async with hive.crew(detail=made):
        job = await client.submit(["x"], results=["a"])
        await client.result(job, WAIT_S)
    ticket = hive.core.tickets.issue("w1", "jother", [f"results:{job}"], (int(time.time()) + 60) * 1000)
    async with aiohttp.ClientSession(headers={"Authorization": f"Ticket {ticket}"}) as http:
        for path, status in (
            (f"/v1/jobs/{job}/results", 200),
            (f"/v1/blobs/{blob.digest}", 200),
            (f"/v1/blobs/{blob.digest}", 200),
            (f"/v1/blobs/{other.digest}", 403),
            (f"/v1/jobs/{job}", 403),
        ):
            async with http.get(hive.url + path) as answer:
                assert answer.status == status, path


async def test_the_output_of_an_attempt_that_is_not_known_is_not_there(hive: Api, client: AsyncHive) -> None:
    async with hive.crew(ends=lambda run, index: int(run.attempt == 1)) as crew:
        retries = {"exit": 1, "backoff": 0}
        answer = await hive.ask("POST", "/v1/jobs", json={"kind": "noop", "retries": retries})
        job = answer[1]["jobs"][0]["job"]
        await client.result(job, WAIT_S)
        first, second = crew.orders
    await printed(hive, first, 0, (1, b"one"))
    path = f"/v1/jobs/{job}/tasks/0/output?attempt_lease="
    for known, text in ((first.number, b"one"), (second.number, b""), (0, b"one")):
        async with hive.http.get(f"{hive.url}{path}{known}") as given:
            assert (given.status, await given.read()) == (200, text)
    for headers in ({}, {"Accept": "text/event-stream"}):
        status, problem = await hive.ask("GET", f"{path}{second.number + 7}", headers=headers)
        assert (status, problem["field"]) == (404, "attempt_lease")
        assert str(second.number + 7) in problem["detail"]
        assert str(first.number) in problem["remedy"]
