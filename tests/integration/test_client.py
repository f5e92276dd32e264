"""The Python client against a served API: batches, ends, breaks, files; async and sync."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.spec import Each
from infra.outputs import frame
from tests.web_support import Api
from web.app import create_app
from web.client import (
    AsyncHive,
    Hive,
    HiveError,
    Input,
    Job,
    JobFailed,
    JobSpec,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
)
from web.server import Server

WAIT_S = 20.0


@contextlib.asynccontextmanager
async def asked(hive: Api) -> AsyncGenerator[list[tuple[str, str]]]:
    """Method and path of every request that arrives."""
    seen: list[tuple[str, str]] = []
    inner = hive.server._app.asgi_handler

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["method"], scope["path"]))
        await inner(scope, receive, send)

    hive.server._app.asgi_handler = watch
    yield seen
    hive.server._app.asgi_handler = inner


async def test_concurrent_submissions_share_requests_and_one_stream_tells_their_ends(
    hive: Api, client: AsyncHive
) -> None:
    async with hive.crew(), asked(hive) as seen:

        async def one(number: int) -> str:
            result = await client.result(await client.submit(kind="noop", name=f"n{number}"), WAIT_S)
            assert result.ok and result.succeeded == 1
            return result.job

        jobs = await asyncio.gather(*(one(number) for number in range(500)))
        assert len(set(jobs)) == 500
    assert seen.count(("POST", "/v1/jobs")) <= 20
    assert seen.count(("GET", "/v1/events")) == 1
    assert len(seen) <= 21


async def test_a_refused_job_does_not_touch_those_it_travels_with(hive: Api, client: AsyncHive) -> None:
    tries = [
        client.submit(kind="noop"),
        client.submit(kind="noop", memory=-1),
        client.submit(kind="noop", after=["jaaaaaaaaaaaaaaaa"]),
        client.submit(kind="noop", env={"A": "x" * 70_000}),
        client.submit(["x"], inputs=[Input("a", "0" * 64)]),
        client.submit(kind="noop"),
    ]
    first, memory, after, text, blob, last = await asyncio.gather(*tries, return_exceptions=True)
    assert isinstance(first, Job) and isinstance(last, Job)
    assert isinstance(memory, Refused) and memory.field == "memory" and "jobs[" not in memory.detail
    assert isinstance(after, Refused) and (after.field, after.code) == ("after[0]", "unknown_job")
    assert isinstance(text, Refused) and text.status == 413
    assert isinstance(blob, Refused) and blob.field == "inputs[0].digest"
    assert (await client.status()).jobs == {"queued": 2}


async def test_a_key_makes_one_job(hive: Api, client: AsyncHive) -> None:
    first = await client.submit(kind="noop", idempotency_key="k")
    again = await client.submit(kind="noop", idempotency_key="k")
    assert (again.job, first.existing, again.existing) == (first.job, False, True)
    with pytest.raises(Refused) as caught:
        await client.submit(kind="noop", name="other", idempotency_key="k")
    assert caught.value.code == "different-body"


async def test_results_of_jobs_that_ended_before_anyone_asked(hive: Api, client: AsyncHive) -> None:
    async with hive.crew():
        jobs = [await client.submit(kind="noop") for _ in range(3)]
        assert all(result.ok for result in await client.gather(jobs, WAIT_S))
        assert (await client.result(jobs[0], WAIT_S)).ok
        async with AsyncHive(hive.url, hive.key) as other:
            assert [one.job for one in await other.gather([job.job for job in jobs], WAIT_S)] == [j.job for j in jobs]
            early = await other.submit(kind="noop")
            assert (await other.result(early, WAIT_S)).ok


async def test_how_a_job_that_failed_is_told(hive: Api, client: AsyncHive) -> None:
    async with hive.crew(ends=lambda run, index: 1):
        job = await client.submit(["false"])
        assert (await client.result(job, WAIT_S)).state == "failed"
        with pytest.raises(JobFailed) as caught:
            await client.result(job, check=True)
        assert caught.value.result.failed == 1
        assert (await client.wait(job)).reason.startswith("task 0: exit code 1")


async def test_waiting_may_time_out_and_be_asked_again(hive: Api, client: AsyncHive) -> None:
    job = await client.submit(kind="noop")
    with pytest.raises(TimeoutError):
        await client.result(job, 0.05)
    with pytest.raises(TimeoutError):
        await client.gather([job], 0.05)
    async with hive.crew():
        assert (await client.result(job, WAIT_S)).ok


async def test_what_does_not_exist(client: AsyncHive) -> None:
    with pytest.raises(NotFound):
        await client.job("jnothing")
    with pytest.raises(NotFound):
        await client.result("jnothing", WAIT_S)
    with pytest.raises(Refused):
        await client.submit(["x"], color="red")  # pyright: ignore[reportCallIssue]


async def test_a_wrong_key_and_a_wrong_address(hive: Api) -> None:
    async with AsyncHive(hive.url, "wrong") as other:
        with pytest.raises(Unauthorized):
            await other.status()
        with pytest.raises(Unauthorized):
            await other.submit(kind="noop")
        with pytest.raises(Unauthorized):
            await other.result("jx")
    async with AsyncHive("http://127.0.0.1:1", "key", try_s=0.1) as nobody:
        with pytest.raises(Unavailable, match="hivectl up"):
            await nobody.submit(kind="noop")


async def test_a_restarted_api_loses_nothing(hive: Api, client: AsyncHive) -> None:
    async with hive.crew() as crew:
        await client.result(await client.submit(kind="noop"), WAIT_S)
        crew.hold.clear()
        held = [await client.submit(kind="noop") for _ in range(5)]
        waiting = asyncio.create_task(client.gather(held))
        port = hive.server.port
        await hive.server.stop()
        submitting = [asyncio.create_task(client.submit(kind="noop")) for _ in range(5)]
        crew.hold.set()
        server = Server(create_app(hive.core), "127.0.0.1", port)
        await server.start()
        try:
            async with asyncio.timeout(WAIT_S):
                assert all(result.ok for result in await waiting)
                late = [await one for one in submitting]
                assert all(result.ok for result in await client.gather(late))
        finally:
            await client.close()
            await server.stop()
    assert hive.core.reads.totals().jobs == {"succeeded": 11}


async def test_map_runs_one_task_an_item(hive: Api, client: AsyncHive) -> None:
    async with hive.crew() as crew:
        job = await client.map(["echo", "-n"], [1, "two", ["three", "four"], Each(env={"A": "b"})], name="m")
        assert (await client.result(job, WAIT_S)).succeeded == 4
        manifest = msgspec.json.decode(await client.download(crew.orders[0].text.each), type=list[Each])
    assert manifest == [Each(["1"]), Each(["two"]), Each(["three", "four"]), Each(env={"A": "b"})]
    with pytest.raises(Refused, match="no items"):
        await client.map(["echo"], [])


async def test_inputs_are_uploaded_and_jobs_waited_for(hive: Api, client: AsyncHive, tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_bytes(b"1,2\n" * 1000)
    first = await client.submit(["x"], inputs={"data.csv": file, "note": b"text"}, results=["out"])
    second = await client.submit("cat 'a b'", inputs={"in": first})
    seen, waits = await client.job(first), await client.job(second)
    assert [one.path for one in seen.inputs] == ["data.csv", "note"]
    assert await client.download(seen.inputs[1].digest) == b"text"
    assert (waits.state, waits.after, waits.command) == ("held", [first.job], ["cat", "a b"])


async def test_several_jobs_at_once_by_ref(client: AsyncHive) -> None:
    specs = [JobSpec(kind="noop", ref="a"), JobSpec(kind="noop", after=["a"])]
    first, second = await client.submit_many(specs)
    assert (await client.job(second)).after == [first.job]


async def test_files_go_up_and_down(client: AsyncHive, hive: Api, tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(bytes(range(256)) * 20_000)
    async with asked(hive) as seen:
        first, again = await client.upload(file), await client.upload(file)
        assert first == again
        assert sum(method == "PUT" for method, _ in seen) == 1
        many = await client.upload_many([b"a", b"b", b"a", str(file)])
        assert [one.size for one in many] == [1, 1, 1, first.size]
        assert sum(method == "PUT" for method, _ in seen) == 3
    assert await client.download(first.digest, copy) == copy
    assert copy.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".copy", "copy"))) == ["copy"]
    with pytest.raises(NotFound):
        await client.download("0" * 64, tmp_path / "absent")
    with pytest.raises(Refused):
        await client.download("../../etc/passwd")
    assert await client.missing(["0" * 64, first.digest]) == ["0" * 64]


async def test_a_download_goes_on_where_it_broke(client: AsyncHive, hive: Api, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    digest = (await hive.core.blobs.put_bytes(data)).digest
    inner = hive.server._app.asgi_handler
    broken: list[bytes] = []

    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            await send(message)
            if message.get("body") and not broken:
                broken.append(message["body"])
                raise ConnectionResetError

        await inner(scope, receive, sending)

    hive.server._app.asgi_handler = breaks
    await client.download(digest, tmp_path / "copy")
    assert broken
    assert (tmp_path / "copy").read_bytes() == data


async def test_events_from_a_position_and_live(client: AsyncHive) -> None:
    jobs = [await client.submit(kind="noop") for _ in range(3)]
    told = [shown async for shown in client.events(types=["job.submitted"], follow=False)]
    assert [msgspec.json.decode(one.event)["job"] for one in told] == [job.job for job in jobs]
    async with asyncio.timeout(WAIT_S):
        async for shown in client.events(start=told[1].position, job=jobs[2].job):
            assert msgspec.json.decode(shown.event)["job"] == jobs[2].job
            break


async def test_drain_enrol_and_status(hive: Api, client: AsyncHive) -> None:
    async with hive.crew() as crew:
        await client.result(await client.submit(kind="noop"), WAIT_S)
        assert [worker.worker for worker in await client.workers()] == [crew.worker]
        assert not (await client.drain(crew.worker)).existing
        assert (await client.drain(crew.worker)).existing
        assert (await client.worker(crew.worker)).drained
        await client.drain(crew.worker, on=False)
        assert not (await client.worker(crew.worker)).drained
        with pytest.raises(Refused):
            await client.enrol("nonsense")
    status = await client.status()
    assert (status.pool, status.jobs) == ("default", {"succeeded": 1})


async def test_logs_end_with_the_job_even_without_tables(hive: Api, client: AsyncHive) -> None:
    async with hive.crew() as crew:
        crew.hold.clear()
        job = await client.submit(kind="noop")
        following = asyncio.create_task(client.output(job))
        while not crew.orders:
            await asyncio.sleep(0.005)
        run = crew.orders[0]
        await hive.core.outputs.append(job.job, 0, run.number, 0, frame(1, 1, b"said"))
        crew.hold.set()
        assert await asyncio.wait_for(following, WAIT_S) == b"said"


async def test_a_closed_client_fails_what_waits(hive: Api) -> None:
    client = AsyncHive(hive.url, hive.key)
    job = await client.submit(kind="noop")
    waiting = asyncio.create_task(client.result(job))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(HiveError):
        await waiting


async def test_the_client_for_ordinary_programs(hive: Api, monkeypatch: Any) -> None:
    monkeypatch.setenv("HIVE_URL", hive.url)
    monkeypatch.setenv("HIVE_KEY", hive.key)

    def program() -> list[Any]:
        with Hive() as client:
            job = client.submit(kind="noop", name="plain")
            jobs = [client.submit(kind="noop") for _ in range(3)]
            ends = client.gather([job, *jobs], WAIT_S)
            told = [shown.n for shown in client.events(types=["job.submitted"], follow=False)]
            blob = client.upload(b"bytes")
            with pytest.raises(NotFound):
                client.job("jnothing")
            return [client.job(job).name, [end.ok for end in ends], len(told), client.download(blob.digest)]

    async with hive.crew():
        assert await asyncio.to_thread(program) == ["plain", [True] * 4, 4, b"bytes"]
