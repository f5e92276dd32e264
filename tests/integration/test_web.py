"""The API as served: who may come in, what it says about mistakes, what a submission does, and the events."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from events.catalog import position_of
from infra.disk import DiskGuard
from infra.link import LinkDown
from services.asking import Unavailable
from tests.web_support import Api, api
from web.app import OPEN_PATHS
from web.server import PortTaken, Server

WAIT_S = 20.0
NOOP = {"kind": "noop"}


async def bare(hive: Api, method: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.request(method, hive.url + path, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_everything_but_health_is_closed(hive: Api) -> None:
    assert (await bare(hive, "GET", "/health"))[0] == 200
    document = (await hive.ask("GET", "/schema/openapi.json"))[1]
    paths = [path.replace("{", "").replace("}", "") for path in document["paths"] if path not in OPEN_PATHS]
    for path in [*paths, "/", "/nothing", "/health/", "/schema", "/schema/openapi.json"]:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
            status, problem = await bare(hive, method, path)
            assert (status, problem["type"]) == (401, "urn:hive:problem:unauthorized"), (method, path)
            assert "Bearer" in problem["remedy"]


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer ", "bearer", "Basic YTpi", "Ticket nonsense", "Bearer \xff"]
)
async def test_wrong_keys_are_refused(hive: Api, header: str) -> None:
    assert (await bare(hive, "GET", "/v1/jobs", Authorization=header))[0] == 401


async def test_the_scheme_may_be_written_in_any_case(hive: Api) -> None:
    assert (await bare(hive, "GET", "/ready", Authorization=f"bearer {hive.key}"))[0] == 200


MISTAKES = [
    ("GET", "/v1/jobs?limit=0", 400, "limit"),
    ("GET", "/v1/jobs?limit=1001", 400, "limit"),
    ("GET", "/v1/jobs?limit=x", 400, "limit"),
    ("GET", "/v1/jobs?state=odd", 400, "state"),
    ("GET", "/v1/jobs?cursor=odd", 400, "cursor"),
    ("GET", "/v1/jobs?min_position=odd", 400, "min_position"),
    ("GET", "/v1/jobs/jnothing", 404, ""),
    ("GET", "/v1/jobs/jnothing/tasks", 404, ""),
    ("GET", "/v1/jobs/jnothing/tasks/0/output", 404, ""),
    ("GET", "/v1/jobs/jnothing/tasks/x/output", 404, ""),
    ("POST", "/v1/jobs/jnothing/cancel", 404, ""),
    ("GET", "/v1/workers/wnothing", 404, ""),
    ("POST", "/v1/workers/wnothing/drain", 404, ""),
    ("DELETE", "/v1/workers/wnothing", 404, ""),
    ("GET", "/v1/blobs/odd", 400, "digest"),
    ("GET", f"/v1/blobs/{'0' * 64}", 404, ""),
    ("GET", "/v1/events?since=odd", 400, "since"),
    ("GET", "/v1/events?from=odd", 400, "from"),
    ("GET", "/v1/events?type=odd", 400, "type"),
    ("PATCH", "/v1/jobs", 405, ""),
    ("GET", "/nothing", 404, ""),
]


async def test_mistakes_are_problem_documents(hive: Api) -> None:
    for method, path, status, field in MISTAKES:
        async with hive.http.request(method, hive.url + path) as answer:
            problem = await answer.json(content_type=None)
            assert answer.content_type == "application/problem+json", path
            assert (answer.status, problem["status"], problem.get("field", "")) == (status, status, field), path
            assert problem["type"].startswith("urn:hive:problem:")
            assert problem["title"] and problem["detail"]


async def test_ten_megabytes_of_json_are_refused_with_the_limit(hive: Api) -> None:
    status, problem = await hive.ask("POST", "/v1/jobs", data=b"[" + b" " * 10_000_000)
    assert status == 413
    assert "8 MiB" in problem["detail"]
    assert (await hive.ask("GET", "/v1/status"))[1]["jobs"] == {}


async def test_a_job_goes_all_the_way(hive: Api) -> None:
    async with hive.crew():
        status, answer = await hive.ask("POST", "/v1/jobs", json={"kind": "noop", "name": "n", "env": {"K": "v"}})
        assert status == 201
        job = answer["jobs"][0]["job"]
        await ended(hive, answer["start"], 1)
        status, seen = await hive.ask("GET", f"/v1/jobs/{job}", params={"min_position": answer["position"]})
        assert (status, seen["state"], seen["succeeded"]) == (200, "succeeded", 1)
        assert (seen["name"], seen["env"], seen["owner"]) == ("n", {"K": "v"}, "admin")
        status, refusal = await hive.ask("POST", f"/v1/jobs/{job}/cancel", json={"reason": "late"})
        assert (status, refusal["type"]) == (409, "urn:hive:problem:job-ended")


async def test_a_position_that_is_not_there_yet_is_not_waited_for_for_ever(hive: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr("web.params.REACHED_S_MAX", 0.05)
    async with hive.http.get(f"{hive.url}/v1/jobs?min_position=1.99999") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json(content_type=None))["field"] == "min_position"


async def test_the_same_key_never_makes_two_jobs(hive: Api) -> None:
    key = {"Idempotency-Key": "one"}
    status, first = await hive.ask("POST", "/v1/jobs", json=[NOOP, NOOP], headers=key)
    assert (status, [one["existing"] for one in first["jobs"]]) == (201, [False, False])
    status, again = await hive.ask("POST", "/v1/jobs", json=[NOOP, NOOP], headers=key)
    assert [one["job"] for one in again["jobs"]] == [one["job"] for one in first["jobs"]]
    assert [one["existing"] for one in again["jobs"]] == [True, True]
    status, problem = await hive.ask("POST", "/v1/jobs", json=[NOOP, {"kind": "noop", "name": "x"}], headers=key)
    assert (status, problem["type"]) == (409, "urn:hive:problem:different-body")
    assert "none of the 2" in problem["detail"]
    assert (await hive.ask("GET", "/v1/status"))[1]["jobs"] == {"queued": 2}


async def test_refs_within_a_request(hive: Api) -> None:
    chain = [{"kind": "noop", "after": ["a"]}, {"kind": "noop", "ref": "a"}]
    status, answer = await hive.ask("POST", "/v1/jobs", json=chain)
    assert status == 201
    waiting, first = (one["job"] for one in answer["jobs"])
    seen = (await hive.ask("GET", f"/v1/jobs/{waiting}?min_position={answer['position']}"))[1]
    assert (seen["state"], seen["after"]) == ("held", [first])
    status, problem = await hive.ask("POST", "/v1/jobs", json=[{**chain[0], "ref": "b"}, {**chain[1], "after": ["b"]}])
    assert (status, problem["field"]) == (422, "jobs[0].after")
    assert "'b' waits for 'a' waits for 'b'" in problem["detail"]


async def test_what_became_of_each_job_when_some_were_refused(hive: Api) -> None:
    unknown = {"kind": "noop", "after": ["jaaaaaaaaaaaaaaaa"]}
    status, problem = await hive.ask("POST", "/v1/jobs", json=[NOOP, unknown])
    assert (status, problem["field"], problem["type"]) == (422, "jobs[1].after[0]", "urn:hive:problem:unknown-job")
    assert "1 of 2 jobs were accepted and will run" in problem["detail"]
    accepted, refused = problem["jobs"]
    assert accepted["accepted"] and accepted["job"]
    assert not refused["accepted"] and refused["code"] == "unknown_job"
    status, problem = await hive.ask("POST", "/v1/jobs", json=unknown)
    assert (status, problem["field"], "jobs" in problem) == (422, "after[0]", False)


async def test_blobs_that_a_job_names_must_be_there(hive: Api) -> None:
    absent = "0" * 64
    job = {"command": ["x"], "inputs": [{"path": "a", "digest": absent}]}
    status, problem = await hive.ask("POST", "/v1/jobs", json=[NOOP, job])
    assert (status, problem["field"]) == (422, "jobs[1].inputs[0].digest")
    status, problem = await hive.ask("POST", "/v1/jobs", json={"command": ["x"], "each": absent})
    assert (status, problem["field"]) == (422, "each")


MANIFESTS = [
    (b"nonsense", 400, "not JSON"),
    (b'[{"args":["a"]}]', 422, "1 entries, but the job has 2 tasks"),
    (b'[{"args":["a"]},{"arg":["b"]}]', 400, "each:[1].arg"),
    (b'[{},{"inputs":[{"path":"../x","digest":"%s"}]}]' % (b"0" * 64), 422, "each:[1].inputs[0].path"),
    (b'[{},{"inputs":[{"path":"x","job":"jaaaaaaaaaaaaaaaa"}]}]', 422, "each:[1].inputs"),
    (b'[{},{"inputs":[{"path":"x","digest":"%s"}]}]' % (b"0" * 64), 422, "1 blobs that the manifest names"),
]


async def test_a_manifest_is_checked_when_it_is_submitted(hive: Api) -> None:
    for manifest, status, says in MANIFESTS:
        digest = (await hive.core.blobs.put_bytes(manifest)).digest
        answered, problem = await hive.ask("POST", "/v1/jobs", json={"command": ["x"], "count": 2, "each": digest})
        assert answered == status, manifest
        assert says in f"{problem['field']} {problem['detail']}"


async def test_a_full_disk_takes_nothing_new(tmp_path: Path) -> None:
    full = DiskGuard(tmp_path, 2**62, 2**62)
    async with api(tmp_path, disk=lambda: full) as hive:
        status, problem = await hive.ask("POST", "/v1/jobs", json=NOOP)
        assert (status, problem["type"]) == (507, "urn:hive:problem:disk-full")
        assert (await hive.ask("PUT", f"/v1/blobs/{'0' * 64}", data=b"x"))[0] == 507
        assert (await hive.ask("GET", "/v1/status"))[1]["disk"] != "ok"


class Away:
    """A pool that does not answer."""

    async def ask(self, *_: object, **__: object) -> None:
        raise Unavailable("nobody leads")


class Odd:
    """A pool with a mistake in it."""

    async def ask(self, *_: object, **__: object) -> None:
        raise LookupError("secret inside")


async def test_a_pool_that_is_away(tmp_path: Path) -> None:
    async with api(tmp_path, ask=Away()) as hive, hive.http.post(f"{hive.url}/v1/jobs", json=NOOP) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_our_own_mistakes_show_a_trace_and_nothing_else(tmp_path: Path) -> None:
    async with api(tmp_path, ask=Odd()) as hive:
        status, problem = await hive.ask("POST", "/v1/jobs", json=NOOP)
        assert (status, problem["type"]) == (500, "urn:hive:problem:bug")
        assert problem["trace"] in problem["remedy"]
        assert "secret" not in json.dumps(problem) and "LookupError" not in json.dumps(problem)


async def test_without_a_database_lists_say_so_and_the_rest_goes_on(hive: Api) -> None:
    job = (await hive.ask("POST", "/v1/jobs", json=NOOP))[1]["jobs"][0]["job"]
    for path in ("/v1/jobs", f"/v1/jobs/{job}/tasks", f"/v1/jobs/{job}/results"):
        status, problem = await hive.ask("GET", path)
        assert status == 503, path
        assert "work goes on" in problem["detail"]
    status, page = await hive.ask("GET", "/v1/jobs?state=queued&state=running")
    assert [one["job"] for one in page["jobs"]] == [job]
    assert (await hive.ask("GET", f"/v1/jobs/{job}"))[0] == 200


async def test_jobs_are_found_by_name_and_label(hive: Api) -> None:
    jobs = [{"kind": "noop", "name": f"n{n}", "labels": {"even": str(n % 2 == 0), "k": "v"}} for n in range(5)]
    position = (await hive.ask("POST", "/v1/jobs", json=jobs))[1]["position"]

    async def names(query: str) -> list[str]:
        page = (await hive.ask("GET", f"/v1/jobs?state=queued&min_position={position}&{query}"))[1]
        return [one["name"] for one in page["jobs"]]

    assert await names("name=n3") == ["n3"]
    assert await names("name=n*") == ["n4", "n3", "n2", "n1", "n0"]
    assert await names("label=even=True&label=k") == ["n4", "n2", "n0"]
    assert await names("label=none") == []
    page = (await hive.ask("GET", "/v1/jobs?state=queued&name=n*&limit=2"))[1]
    rest = (await hive.ask("GET", f"/v1/jobs?state=queued&name=n*&cursor={page['next']}"))[1]
    assert [one["name"] for one in page["jobs"] + rest["jobs"]] == ["n4", "n3", "n2", "n1", "n0"]
    assert rest["next"] is None


# Events


async def listen(hive: Api, query: str, **headers: str) -> AsyncGenerator[tuple[str, list[dict[str, Any]]]]:
    """Id and events of each message."""
    async with hive.http.get(f"{hive.url}/v1/events?{query}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        id = ""
        async for line in answer.content:
            name, _, value = line.decode().strip().partition(": ")
            id = value if name == "id" else id
            if name == "data":
                yield id, json.loads(value)


async def ended(hive: Api, start: str, count: int) -> list[dict[str, Any]]:
    """The first `count` ends of jobs from a position on."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_S):
        async for _, events in listen(hive, f"type=job.finished&follow=true&from={start}"):
            found += events
            if len(found) >= count:
                return found
    raise AssertionError("the stream ended")


async def test_history_then_live_without_gap_or_repetition(hive: Api) -> None:
    seen: list[tuple[str, int]] = []
    async with hive.crew():
        await hive.ask("POST", "/v1/jobs", json=[NOOP] * 50)

        async def follow() -> None:
            done = 0
            async for _, events in listen(hive, "from=1.1&follow=true"):
                seen.extend((event["position"], event["n"]) for event in events)
                done += sum(event["event"]["type"] == "job.finished" for event in events)
                if done == 150:
                    return

        following = asyncio.create_task(follow())
        for _ in range(10):
            await hive.ask("POST", "/v1/jobs", json=[NOOP] * 10)
        await asyncio.wait_for(following, WAIT_S)
    whole = [(e["position"], e["n"]) async for _, events in listen(hive, "") for e in events]
    assert seen == whole[: len(seen)]
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen, key=lambda place: (position_of(place[0]), place[1]))


async def test_filters_and_sealed_fields(hive: Api) -> None:
    async with hive.crew():
        answer = (await hive.ask("POST", "/v1/jobs", json=[{**NOOP, "name": "hidden"}] * 2))[1]
        await ended(hive, answer["start"], 2)
    job = answer["jobs"][1]["job"]
    types = [e["event"]["type"] async for _, es in listen(hive, f"job={job}") for e in es]
    assert types[0] == "job.submitted" and types[-1] == "job.finished"
    submitted = [e["event"] async for _, es in listen(hive, "type=job.submitted") for e in es]
    assert [event["text"] for event in submitted] == ["<sealed>", "<sealed>"]
    assert {e["event"]["type"] async for _, es in listen(hive, "type=task.*&type=job.finished") for e in es} >= {
        "job.finished",
        "task.leased",
    }
    assert {e["event"]["type"].split(".")[0] async for _, es in listen(hive, "entity=worker") for e in es} == {"worker"}
    assert [e async for _, es in listen(hive, f"entity={job}&type=job.finished") for e in es]
    assert not [e async for _, es in listen(hive, "since=9999999999999") for e in es]
    assert [e async for _, es in listen(hive, "since=1h") for e in es]


async def test_going_on_after_the_last_id(hive: Api) -> None:
    for _ in range(3):
        await hive.ask("POST", "/v1/jobs", json=NOOP)
    everything = [message async for message in listen(hive, "type=job.submitted")]
    places = [e["position"] for _, es in everything for e in es]
    rest = [e["position"] async for _, es in listen(hive, "", **{"Last-Event-ID": places[0]}) for e in es]
    assert places[0] not in rest and places[1] in rest


# The server


async def test_stopping_ends_streams_at_once(hive: Api) -> None:
    stream = listen(hive, "from=1.1&follow=true")
    await hive.ask("POST", "/v1/jobs", json=NOOP)
    await anext(stream)
    async with asyncio.timeout(2.5):
        await hive.server.stop()
        async for _ in stream:
            pass


async def test_a_taken_port_is_named(hive: Api) -> None:
    with pytest.raises(PortTaken, match=rf"port {hive.server.port} .*--port"):
        await Server(hive.server._app, "127.0.0.1", hive.server.port).start()


async def test_the_document_is_true_about_problems(hive: Api) -> None:
    document = (await hive.ask("GET", "/schema/openapi.json"))[1]
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            if method not in ("get", "put", "post", "delete") or path == "/health":
                continue
            assert {"401", "500", "503"} <= set(told["responses"]), (path, method)
            for status, answer in told["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, method, status)
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["oneOf"][0] == {"$ref": "#/components/schemas/JobSpec"}
    assert set(body["examples"]) == {"one", "array", "chain"}


async def test_a_link_that_is_down_is_unavailable() -> None:
    from web.problems import failed_of

    assert failed_of(LinkDown("gone")).problem.status == 503
