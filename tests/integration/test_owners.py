"""What belongs to whom: jobs, blobs, events, keys and workers of one user, as another sees them."""

import asyncio
import base64
import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from events.account import Limits
from infra import nkey
from infra.credential import Credential
from infra.link import Link
from infra.renewal import sign
from services.accounts.commands import SetLimits
from tests.nats_support import until
from tests.web_support import Api, api
from web.keys_schema import join_text

NOOP = {"kind": "noop"}
REVOKED_S = 1.0


class Person:
    """Somebody with a key."""

    def __init__(self, hive: Api, key: str) -> None:
        self.hive, self.key = hive, key

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and decoded body."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {"Authorization": ""}
        async with self.hive.http.request(method, self.hive.url + path, headers=headers, **more) as answer:
            return answer.status, json.loads(await answer.read() or b"null")

    async def submit(self, **spec: Any) -> str:
        """The id of a job that was taken."""
        status, answer = await self.ask("POST", "/v1/jobs", json=NOOP | spec)
        assert status == 201, answer
        return answer["jobs"][0]["job"]

    async def put(self, data: bytes) -> str:
        """The digest of a blob that was taken."""
        digest = hashlib.sha256(data).hexdigest()
        assert (await self.ask("PUT", f"/v1/blobs/{digest}", data=data))[0] in (200, 201)
        return digest


@pytest.fixture
async def ann(hive: Api) -> Person:
    return Person(hive, await hive.key_of("user", "uann"))


@pytest.fixture
async def bob(hive: Api) -> Person:
    return Person(hive, await hive.key_of("user", "ubob"))


async def test_a_job_of_another_is_not_there(hive: Api, ann: Person, bob: Person) -> None:
    job = await ann.submit()
    paths = (f"/v1/jobs/{job}", f"/v1/jobs/{job}/tasks/0/output", f"/v1/events?job={job}")
    for path in paths:
        assert (await ann.ask("GET", path) if "events" not in path else (200,))[0] == 200, path
        assert (await bob.ask("GET", path))[0] == 404, path
    for path in (f"/v1/jobs/{job}/tasks", f"/v1/jobs/{job}/results"):
        assert (await bob.ask("GET", path))[0] == 404, path
    assert (await bob.ask("POST", f"/v1/jobs/{job}/cancel"))[0] == 404
    observer = Person(hive, await hive.key_of("observer"))
    assert (await observer.ask("GET", f"/v1/jobs/{job}"))[0] == 200
    assert (await observer.ask("POST", f"/v1/jobs/{job}/cancel"))[0] == 403
    assert (await ann.ask("POST", f"/v1/jobs/{job}/cancel"))[0] == 200


async def test_nobody_waits_for_or_takes_from_the_job_of_another(ann: Person, bob: Person) -> None:
    job = await ann.submit()
    await ann.submit(after=[job])
    for spec, field in (({"after": [job]}, "after[0]"), ({"inputs": [{"path": "in", "job": job}]}, "inputs[0].job")):
        status, problem = await bob.ask("POST", "/v1/jobs", json={"command": ["true"], **spec})
        assert (status, problem["field"]) == (422, field)


async def test_two_users_may_use_the_same_idempotency_key(ann: Person, bob: Person) -> None:
    jobs: list[str] = []
    for person in (ann, bob, ann):
        headers = {"Authorization": f"Bearer {person.key}", "Idempotency-Key": "same"}
        async with person.hive.http.post(f"{person.hive.url}/v1/jobs", headers=headers, json=NOOP) as answer:
            jobs.append((await answer.json())["jobs"][0]["job"])
    assert jobs[0] == jobs[2] != jobs[1]


async def test_a_digest_is_no_permission(hive: Api, ann: Person, bob: Person) -> None:
    digest = await ann.put(b"ann's own")
    assert (await bob.ask("GET", f"/v1/blobs/{digest}"))[0] == 404
    assert (await bob.ask("HEAD", f"/v1/blobs/{digest}"))[0] == 404
    assert (await bob.ask("POST", "/v1/blobs/missing", json={"digests": [digest]}))[1]["missing"] == [digest]
    spec = {"command": ["true"], "inputs": [{"path": "in", "digest": digest}]}
    status, problem = await bob.ask("POST", "/v1/jobs", json=spec)
    assert (status, problem["field"]) == (422, "inputs[0].digest")
    async with hive.http.get(f"{hive.url}/v1/blobs/{digest}", headers={"Authorization": f"Bearer {ann.key}"}) as answer:
        assert await answer.read() == b"ann's own"
    assert await bob.put(b"ann's own") == digest  # who has the bytes has them
    assert (await bob.ask("POST", "/v1/blobs/missing", json={"digests": [digest]}))[1]["missing"] == []


async def test_events_are_about_ones_own(hive: Api, ann: Person, bob: Person) -> None:
    mine, other = await ann.submit(), await bob.submit()
    await hive.ask("POST", f"/v1/jobs/{other}/cancel")
    await hive.ask("POST", f"/v1/jobs/{mine}/cancel")
    position = hive.core.projector.position
    assert await hive.core.reads.reached(position, 5)
    headers = {"Authorization": f"Bearer {ann.key}"}
    async with hive.http.get(f"{hive.url}/v1/events?from=1.1", headers=headers) as answer:
        text = (await answer.read()).decode()
    shown = [event for line in text.splitlines() if line.startswith("data: ") for event in json.loads(line[6:])]
    kinds = [event["event"]["type"] for event in shown]
    assert {"job.submitted", "job.cancelled", "job.finished"} <= set(kinds)
    assert all(event["event"].get("job", mine) == mine for event in shown)
    assert all(event["event"].get("user", "uann") == "uann" for event in shown)
    assert other not in text


async def test_a_key_is_no_way_to_a_stronger_one(ann: Person, hive: Api) -> None:
    status, made = await ann.ask("POST", "/v1/keys", json={"name": "ci", "scopes": ["hive:read"]})
    assert status == 201
    assert made["key"] | {"since": 0} == {
        "key": made["key"]["key"], "user": "uann", "prefix": made["text"][:9], "name": "ci", "role": "",
        "scopes": ["hive:read"], "since": 0, "expires_at": 0, "state": "live", "used_at": 0, "requests_per_min": 0,
    }  # fmt: skip
    weak = Person(hive, made["text"])
    assert (await weak.ask("GET", "/v1/status"))[0] == 200
    assert (await weak.ask("POST", "/v1/jobs", json=NOOP))[0] == 403
    assert (await weak.ask("POST", "/v1/keys", json={}))[0] == 403
    keys = (await weak.ask("GET", "/v1/keys"))[1]["keys"]
    strong = next(key["key"] for key in keys if len(key["scopes"]) > 1)
    assert (await weak.ask("POST", f"/v1/keys/{strong}/rotate"))[0] == 403
    assert (await weak.ask("DELETE", f"/v1/keys/{strong}"))[0] == 403
    assert (await ann.ask("POST", "/v1/keys", json={"scopes": ["users:all"]}))[1]["field"] == "scopes"
    assert (await ann.ask("POST", "/v1/keys", json={"user": "admin"}))[0] == 403


async def test_a_rotated_key_goes_over_and_a_revoked_one_ends_at_once(ann: Person, hive: Api) -> None:
    name = (await ann.ask("GET", "/v1/keys"))[1]["keys"][0]["key"]
    status, made = await ann.ask("POST", f"/v1/keys/{name}/rotate", json={"grace": 60})
    assert status == 201
    new = Person(hive, made["text"])
    assert (await new.ask("GET", "/v1/status"))[0] == (await ann.ask("GET", "/v1/status"))[0] == 200
    async with asyncio.timeout(REVOKED_S):
        assert (await new.ask("DELETE", f"/v1/keys/{name}"))[0] == 200
        assert (await ann.ask("GET", "/v1/status"))[0] == 401
    assert (await new.ask("DELETE", f"/v1/keys/{name}"))[1]["existing"] is True


async def test_who_makes_too_many_requests_waits(hive: Api) -> None:
    person = Person(hive, await hive.key_of("user", "ufast"))
    answer = await hive.core.accounts.ask([SetLimits("ufast", Limits(requests_per_min=3))], "test")
    assert await hive.core.access.reached(answer.position, 5)
    found = [(await person.ask("GET", "/v1/status"))[0] for _ in range(5)]
    assert found == [200, 200, 200, 429, 429]
    assert (await hive.ask("GET", "/v1/status"))[0] == 200


async def limited(hive: Api, user: str, limits: Limits) -> Person:
    """A new user with these limits."""
    person = Person(hive, await hive.key_of("user", user))
    answer = await hive.core.accounts.ask([SetLimits(user, limits)], "test")
    assert await hive.core.access.reached(answer.position, 5)
    return person


async def test_a_quota_of_open_jobs_names_the_limit_and_says_of_each_job_what_became_of_it(hive: Api) -> None:
    person = await limited(hive, "ufew", Limits(open_jobs=2))
    status, problem = await person.ask("POST", "/v1/jobs", json=[NOOP, NOOP, NOOP])
    assert (status, problem["type"].rpartition(":")[2], problem["field"]) == (429, "quota", "jobs[2]")
    assert [job["accepted"] for job in problem["jobs"]] == [True, True, False]
    status, problem = await person.ask("POST", "/v1/jobs", json=NOOP)
    assert status == 429
    assert "your limit `open_jobs` is 2; wait until some have ended" in problem["detail"]
    assert (await hive.ask("POST", "/v1/jobs", json=[NOOP] * 3))[0] == 201
    async with hive.crew():
        await until_taken(person)


async def until_taken(person: Person) -> None:
    async with asyncio.timeout(10):
        while (await person.ask("POST", "/v1/jobs", json=NOOP))[0] != 201:
            await asyncio.sleep(0.01)


async def test_a_quota_of_queued_tasks_names_the_field(hive: Api) -> None:
    person = await limited(hive, "ufew", Limits(queued_tasks=5))
    status, problem = await person.ask("POST", "/v1/jobs", json=NOOP | {"count": 6})
    assert (status, problem["field"]) == (429, "count")
    assert "6 queued tasks, and your limit `queued_tasks` is 5" in problem["detail"]
    assert (await person.ask("POST", "/v1/jobs", json=NOOP | {"count": 5}))[0] == 201


async def test_an_upload_beyond_the_users_limit_is_refused(hive: Api) -> None:
    person = await limited(hive, "usmall", Limits(upload_bytes=10))
    await person.put(b"0123456789")
    status, problem = await person.ask(
        "PUT", f"/v1/blobs/{hashlib.sha256(b'01234567890').hexdigest()}", data=b"01234567890"
    )
    assert (status, problem["type"].rpartition(":")[2]) == (413, "too-large")
    assert "10 bytes" in problem["detail"]


async def test_the_hives_own_limits_are_for_who_has_none_and_not_for_admins(tmp_path: Path) -> None:
    async with api(tmp_path, limits=Limits(open_jobs=1)) as hive:
        person = Person(hive, await hive.key_of("user", "uany"))
        assert [(await person.ask("POST", "/v1/jobs", json=NOOP))[0] for _ in range(2)] == [201, 429]
        more = await limited(hive, "umore", Limits(open_jobs=2))
        assert [(await more.ask("POST", "/v1/jobs", json=NOOP))[0] for _ in range(3)] == [201, 201, 429]
        assert [(await hive.ask("POST", "/v1/jobs", json=NOOP))[0] for _ in range(2)] == [201, 201]


def signed(seed: str, token: str) -> dict[str, str]:
    public_key = nkey.public_of(seed)
    signature = nkey.Signer(seed).sign(join_text(token, public_key))
    return {"token": token, "public_key": public_key, "signature": base64.b64encode(signature).decode(), "name": "box"}


def asking(seed: str, worker: str) -> dict[str, Any]:
    at, nonce = time.time_ns() // 1_000_000, secrets.token_hex(16)
    signature = base64.b64encode(sign(worker, nkey.Signer(seed), at, nonce)).decode()
    return {"worker": worker, "public_key": nkey.public_of(seed), "at": at, "nonce": nonce, "signature": signature}


async def test_a_machine_joins_with_a_token_and_is_shut_out(hive: Api) -> None:
    owner, stranger = Person(hive, await hive.key_of("owner")), Person(hive, "")
    status, made = await owner.ask("POST", "/v1/enrolments", json={"uses": 1})
    assert status == 201
    seed, other = nkey.new_user_seed(), nkey.new_user_seed()
    status, problem = await stranger.ask("POST", "/v1/workers/join", json=signed(seed, "hivw_wrong"))
    assert (status, problem["field"]) == (403, "token")
    wrong = signed(seed, made["text"]) | {"signature": signed(other, made["text"])["signature"]}
    status, problem = await stranger.ask("POST", "/v1/workers/join", json=wrong)
    assert (status, problem["field"]) == (422, "signature")
    status, joined = await stranger.ask("POST", "/v1/workers/join", json=signed(seed, made["text"]))
    assert status == 201, joined
    assert (await stranger.ask("POST", "/v1/workers/join", json=signed(seed, made["text"])))[1] == joined
    assert (await stranger.ask("POST", "/v1/workers/join", json=signed(other, made["text"])))[0] == 403
    worker = joined["worker"]
    shown = (await owner.ask("GET", f"/v1/workers/{worker}"))[1]
    assert (shown["state"], shown["name"], shown["owner"]) == ("enrolled", "box", "uowner")
    user = Person(hive, await hive.key_of("user"))
    assert (await user.ask("GET", f"/v1/workers/{worker}"))[1]["name"] == ""
    assert (await user.ask("DELETE", f"/v1/workers/{worker}"))[0] == 403
    second = Person(hive, await hive.key_of("owner", "uother"))
    assert (await second.ask("DELETE", f"/v1/workers/{worker}"))[0] == 404
    assert (await owner.ask("PATCH", f"/v1/workers/{worker}", json={"name": "lab box"}))[0] == 200
    status, credential = await stranger.ask("POST", "/v1/worker/credential", json=asking(seed, worker))
    assert status == 200
    link = await Link.open(joined["nats_url"], Credential(seed, lambda: credential["jwt"]), worker, f"_INBOX_{worker}")
    assert (await owner.ask("POST", f"/v1/workers/{worker}/ban"))[0] == 200
    await until(lambda: link.refused, "it is disconnected, and does not come back")
    await link.close()
    assert (await stranger.ask("POST", "/v1/workers/join", json=signed(seed, made["text"])))[0] == 403
    shown = (await owner.ask("GET", f"/v1/workers/{worker}"))[1]
    assert (shown["banned"], shown["name"]) == (True, "lab box")
    assert (await stranger.ask("POST", "/v1/worker/credential", json=asking(seed, worker)))[0] == 403


async def test_what_an_admin_did_is_in_the_log_with_who_and_from_where(hive: Api, ann: Person) -> None:
    made = (await hive.ask("POST", "/v1/keys", json={"user": "uann", "name": "given"}))[1]
    position = hive.core.access.position
    assert await hive.core.reads.reached(position, 5)
    async with hive.http.get(f"{hive.url}/v1/events?from=1.1&type=user.acted") as answer:
        text = (await answer.read()).decode()
    shown = [event for line in text.splitlines() if line.startswith("data: ") for event in json.loads(line[6:])]
    acted = shown[-1]["event"]
    assert (acted["user"], acted["action"], acted["target"]) == ("admin", "key.issue", made["key"]["key"])
    assert acted["address"] == "<sealed>"
    assert "127.0.0.1" not in text
    assert shown[-1]["by"] == "user:admin"
    assert shown[-1]["cause"].startswith("key:k")


async def test_a_key_with_a_rate_of_its_own_waits_and_makes_none_that_is_faster(hive: Api, ann: Person) -> None:
    status, made = await ann.ask("POST", "/v1/keys", json={"requests_per_min": 4})
    assert (status, made["key"]["requests_per_min"]) == (201, 4)
    slow = Person(hive, made["text"])
    rates = [
        (await slow.ask("POST", "/v1/keys", json={"requests_per_min": wanted}))[1]["key"]["requests_per_min"]
        for wanted in (0, 100, 2)
    ]
    assert rates == [4, 4, 2]
    rotated = (await slow.ask("POST", f"/v1/keys/{made['key']['key']}/rotate", json={"grace": 60}))[1]
    assert rotated["key"]["requests_per_min"] == 4
    assert (await slow.ask("GET", "/v1/status"))[0] == 429
    assert (await ann.ask("GET", "/v1/status"))[0] == 200, "its user's other keys go on"


async def test_a_tokens_labels_are_its_machines_for_who_may_see_them(hive: Api, ann: Person) -> None:
    owner = Person(hive, await hive.key_of("owner"))
    labels = {"rack": "b7", "site/floor": "2"}
    made = (await owner.ask("POST", "/v1/enrolments", json={"labels": labels}))[1]
    body = signed(nkey.new_user_seed(), made["text"])
    worker = (await owner.ask("POST", "/v1/workers/join", json=body))[1]["worker"]
    assert (await owner.ask("GET", f"/v1/workers/{worker}"))[1]["labels"] == labels
    assert (await ann.ask("GET", f"/v1/workers/{worker}"))[1]["labels"] == {}
    for bad in ({"Rack": "b7"}, {"rack": "b" * 129}, {f"l{n}": "" for n in range(17)}):
        status, problem = await owner.ask("POST", "/v1/enrolments", json={"labels": bad})
        assert (status, "labels" in problem["detail"]) == (400, True), problem


async def test_cancelling_anothers_job_is_an_administrative_act_and_ones_own_is_not(hive: Api, ann: Person) -> None:
    operator = Person(hive, await hive.key_of("operator"))
    mine, others = await ann.submit(), await ann.submit()
    assert (await ann.ask("POST", f"/v1/jobs/{mine}/cancel"))[0] == 200
    for _ in range(2):
        assert (await operator.ask("POST", f"/v1/jobs/{others}/cancel"))[0] == 200
    own = await operator.submit()
    assert (await operator.ask("POST", f"/v1/jobs/{own}/cancel"))[0] == 200
    assert await hive.core.reads.reached(hive.core.access.position, 5)
    async with hive.http.get(f"{hive.url}/v1/events?from=1.1&type=user.acted") as answer:
        text = (await answer.read()).decode()
    shown = [event for line in text.splitlines() if line.startswith("data: ") for event in json.loads(line[6:])]
    cancelled = [one["event"] for one in shown if one["event"]["action"] == "job.cancel"]
    assert [(one["user"], one["target"]) for one in cancelled] == [("uoperator", others)]
