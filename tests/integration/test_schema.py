"""Every operation of the OpenAPI document, asked by a stranger and by every role with what the document allows and what
it does not: no 5xx, no status, content type or shape that the document does not tell, nothing open that should not be.

Schemathesis makes the requests: the edges of every parameter and body, always the same ones, and some more drawn under
a seed. Half of those with something in their path name what is there and the caller's, the others nothing.
"""

import asyncio
import base64
import hashlib
import os
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra import nkey
from infra.database import Database
from infra.settings import Settings
from services.accounts.roles import ROLES
from tests.integration.test_permissions import CLOSED, MAY, NO_KEY, NOBODY_ASKED
from tests.people_support import OTHER, PASSWORD
from tests.web_support import Api, api
from web.keys_schema import join_text

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
_DEEP = os.environ.get("HIVE_TEST_PROFILE") == "deep"
EDGES_MAX = 10_000 if _DEEP else 30
"""Of one operation, evenly out of all that Schemathesis finds: a submission alone has more than 500."""
DRAWN = 100 if _DEEP else 4
"""More of one operation and mode."""
ANSWER_S_MAX = 20
SHOWN_MAX = 20
NEVER = {
    "POST /v1/auth/reset-request",
    "POST /v1/auth/verify",
    "POST /v1/worker/credential",
    "POST /v1/worker/rekey",
    "POST /v1/jobs/{job}/secrets",
}
"""What nobody is answered in full here: it takes mail, a worker that signs, or one that runs a task."""
SELDOM = {
    "DELETE /v1/me/sessions/{session}",
    "GET /v1/ledger/transfers/{id}",
    "GET /v1/reports/{digest}",
    "GET /v1/rewards/{reward}",
    "POST /v1/ledger/disputes",
    "POST /v1/ledger/disputes/{id}/rule",
    "POST /v1/ledger/disputes/{id}/withdraw",
    "POST /v1/ledger/payments",
    "POST /v1/ledger/transfers",
    "POST /v1/ledger/transfers/{id}/post",
    "POST /v1/ledger/transfers/{id}/void",
    "POST /v1/quotes",
    "POST /v1/workers/{worker}/configure",
    "PUT /v1/rewards/policies/{policy}",
}
"""What is answered in full only by luck: a drawn body is seldom one that can be, or it names what only an answer gave. The
tests of money, rewards, reports, sessions and GPUs ask these.
"""
PLACES = {"min_position", "cursor", "from", "since"}
"""Only what an answer gave is one of these: with any other the rest of a request is not looked at."""
NO_PATH = "there is nothing at this path"
ENDS = ("/ban", "/erase", "/suspend", "/sign-out")
"""What would leave the others nothing to name goes last, as every DELETE does."""

Things = dict[str, Any]


class Asking:
    """Asks as everybody, and keeps what should not be."""

    def __init__(self, url: str, keys: dict[str, str], things: dict[str, Things]) -> None:
        self._url, self._keys, self._things = url, keys, things
        self._sessions = {who: _session() for who in keys}
        self.wrong: dict[str, str] = {}
        self.done: set[str] = set()
        """Operations that somebody was answered in full."""

    def ask(self, case: Case[Any], operation: APIOperation, *, known: bool) -> None:
        """Send `case` as everybody; `known`: to something that is there."""
        drawn = {**(case.path_parameters or {})}
        case.headers.pop("Authorization", None)
        if any(parameter.name == "follow" for parameter in operation.query):
            case.query = {**(case.query or {}), "follow": "false"}
            if known and operation.path.endswith("/output"):
                case.headers["Accept"] = "text/event-stream"
        if known:
            case.query = {name: value for name, value in (case.query or {}).items() if name not in PLACES}
            case.headers.pop("Last-Event-ID", None)
        for who, key in self._keys.items():
            if known:
                case.path_parameters = {name: self._things[who].get(name, value) for name, value in drawn.items()}
            headers = {"Authorization": f"Bearer {key}" if key else ""}
            answer = case.call(base_url=self._url, session=self._sessions[who], headers=headers, timeout=ANSWER_S_MAX)
            self._look(case, operation, who, answer)

    def truly(self, operation: APIOperation, who: str, body: Any, token: str, **path: str) -> Any:
        """The decoded answer to a request that is right, from `who` or with a session's token."""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        more: dict[str, Any] = {} if body is None else {"body": body, "media_type": kind}
        case = operation.Case(path_parameters=path, **more)
        headers = {"Authorization": f"Bearer {token or self._keys[who]}".removesuffix("Bearer ")}
        answer = case.call(base_url=self._url, session=self._sessions[who], headers=headers, timeout=ANSWER_S_MAX)
        assert answer.status_code < 300, (operation.label, answer.status_code, answer.text)
        self._look(case, operation, who, answer)
        return answer.json() if answer.content else None

    def _look(self, case: Case[Any], operation: APIOperation, who: str, answer: Any) -> None:
        method, status, text = operation.method.upper(), answer.status_code, answer.text
        said = (
            f"{who}: {answer.request.method} {answer.request.url} {answer.request.body!r:.200} -> {status} {text:.300}"
        )
        if case.method.upper() == method:
            self.done |= {operation.label} if status < 300 else set()
            may = MAY[method, operation.path]
            closed = status in CLOSED and not (may is NOBODY_ASKED and NO_KEY not in text)
            if who not in may and not closed and NO_PATH not in text:
                self._note(operation, "is open to who may not", said)
            if who in may and status == CLOSED[1] and "it needs" in text:
                self._note(operation, "is closed to who may", said)
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as failures:
            for failure in failures.exceptions:
                self._note(operation, type(failure).__name__, f"{said}\n{failure!s:.400}")

    def _note(self, operation: APIOperation, what: str, said: str) -> None:
        self.wrong.setdefault(f"{operation.label} {what}", said)


def _session() -> requests.Session:
    """Without cookies: nobody is to be somebody because it asked before."""
    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def _cases(schema: BaseSchema, operation: APIOperation, seed: int) -> Iterator[Case[Any]]:
    config = schema.config.generation_for(operation=operation)
    edges = [*schema.iter_coverage_cases(operation, generation_modes=MODES, generation_config=config)]
    yield from edges[:: -(-len(edges) // EDGES_MAX)] if edges else []
    for mode in MODES:
        yield from _drawn(operation, mode, seed)


def _drawn(operation: APIOperation, mode: GenerationMode, seed: int) -> list[Case[Any]]:
    drawn: list[Case[Any]] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=DRAWN, database=None, phases=[hypothesis.Phase.generate], deadline=None)
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def keep(case: Case[Any]) -> None:
        drawn.append(case)

    try:
        keep()
    except Unsatisfiable:
        return []  # nothing can be wrong with an operation that takes nothing
    return drawn


def ask_truly(asking: Asking, schema: BaseSchema, worker: str) -> None:
    """What needs a secret, a signature or something that matches to be answered in full. `worker`: one that works."""

    def ask(label: str, who: str = "stranger", body: Any = None, token: str = "", **path: str) -> Any:
        operation = schema.find_operation_by_label(label)
        assert operation is not None, label
        return asking.truly(operation, who, body, token, **path)

    person: dict[str, Any] = {"name": "newcomer", "password": PASSWORD}
    user = ask("POST /v1/auth/register", body=person)["user"]
    tokens = ask("POST /v1/auth/login", body=person)
    tokens = ask("POST /v1/auth/refresh", body={"refresh": tokens["refresh"]})
    ask("PATCH /v1/me", "user", body={"email": "a@example.org", "password": PASSWORD}, token=tokens["access"])
    changed = ask("POST /v1/me/password", "user", body={"old": PASSWORD, "new": OTHER}, token=tokens["access"])
    ask("POST /v1/auth/logout", body={"refresh": changed["refresh"]})
    link = ask("POST /v1/users/{user}/reset-link", "admin", user=user)
    ask("POST /v1/auth/reset", body={"token": link["token"], "password": PASSWORD})
    tokens = ask("POST /v1/auth/login", body=person)
    ask("POST /v1/me/erase", "user", body={"password": PASSWORD}, token=tokens["access"])
    signer = nkey.Signer(nkey.new_user_seed())
    token = ask("POST /v1/enrolments", "owner", {})["text"]
    signature = base64.b64encode(signer.sign(join_text(token, signer.public_key))).decode()
    ask("POST /v1/workers/join", body={"token": token, "public_key": signer.public_key, "signature": signature})
    ask("POST /v1/workers", "owner", {"public_key": nkey.public_of(nkey.new_user_seed())})
    for on in (True, False):
        ask("POST /v1/workers/{worker}/drain", "operator", {"on": on}, worker=worker)
    ask("PUT /v1/blobs/{digest}", "user", b"bytes", digest=hashlib.sha256(b"bytes").hexdigest())
    job = ask("POST /v1/jobs", "user", {"command": ["true"], "cpus": 4096})["jobs"][0]["job"]
    ask("POST /v1/jobs/{job}/cancel", "user", job=job)


def ask_everything(asking: Asking, document: dict[str, Any], worker: str, seed: int) -> None:
    """Every operation of the document, what ends something last."""
    schema = schemathesis.openapi.from_dict(document)
    ask_truly(asking, schema, worker)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == len(MAY)
    for operation in sorted(operations, key=_rank):
        for number, case in enumerate(_cases(schema, operation, seed)):
            if number % 2 == 0 or not case.path_parameters:
                asking.ask(case, operation, known=False)
            if number % 2 or (not number and case.path_parameters):
                asking.ask(case, operation, known=True)


def _rank(operation: APIOperation) -> tuple[bool, bool, str]:
    return operation.method == "delete", operation.path.endswith(ENDS), operation.path


async def _member(hive: Api, role: str) -> str:
    """The key of somebody who registered, with this role alone."""
    person = {"name": f"member-{role}", "password": PASSWORD}
    status, answer = await hive.ask("POST", "/v1/auth/register", json=person)
    assert status == 201, answer
    user = answer["user"]
    for method, path, body in (
        ("PUT", f"/v1/users/{user}/roles", {"roles": [role]}),
        ("POST", "/v1/keys", {"user": user}),
    ):
        status, answer = await hive.ask(method, path, json=body)
        assert status in (200, 201), answer
    return answer["text"]


async def _things_of(hive: Api, who: str, key: str) -> Things:
    """Something of the caller's for every parameter of a path, as far as it may have such a thing."""
    headers = {"Authorization": f"Bearer {key}"}
    blob, public_key = who.encode(), nkey.public_of(nkey.new_user_seed())
    digest = hashlib.sha256(blob).hexdigest()
    _, me = await hive.ask("GET", "/v1/me", headers=headers)
    _, made = await hive.ask("POST", "/v1/keys", json={"name": "spare"}, headers=headers)
    await hive.ask("PUT", f"/v1/blobs/{digest}", data=blob, headers=headers)
    _, job = await hive.ask("POST", "/v1/jobs", json={"command": ["true"]}, headers=headers)
    _, worker = await hive.ask("POST", "/v1/workers", json={"public_key": public_key, "name": "box"}, headers=headers)
    _, enrolment = await hive.ask("POST", "/v1/enrolments", json={}, headers=headers)
    await hive.ask("PUT", "/v1/secrets/spare", json={"value": "x"}, headers=headers)
    things: Things = {"index": 0, "name": "spare", "user": me["user"], "key": made["key"]["key"], "digest": digest}
    if "jobs" in job:
        things["job"] = job["jobs"][0]["job"]
    if "worker" in worker:
        things["worker"] = worker["worker"]
    if "enrolment" in enrolment:
        things["enrolment"] = enrolment["enrolment"]["enrolment"]
    return things


async def _admins_things(hive: Api) -> Things:
    """Another user than itself, which the others need, and an invitation."""
    _, user = await hive.ask("POST", "/v1/auth/register", json={"name": "somebody", "password": PASSWORD})
    _, invite = await hive.ask("POST", "/v1/invites", json={})
    things = await _things_of(hive, "admin", hive.key)
    return {**things, "user": user["user"], "invite": invite["invite"]["invite"]}


@pytest.mark.slow
@pytest.mark.timeout(1800 if _DEEP else 400)
async def test_every_operation_is_as_the_document_says_for_everybody(
    tmp_path: Path, database: Database, seed: int
) -> None:
    async with api(tmp_path, tables=True, identities=database, settings=Settings(registration="open")) as hive:
        keys = {"stranger": "", "admin": hive.key}
        keys |= {role: await _member(hive, role) for role in ROLES if role != "admin"}
        things = {
            who: await _things_of(hive, who, key) for who, key in keys.items() if who not in ("stranger", "admin")
        }
        things["stranger"] = things["admin"] = await _admins_things(hive)
        status, document = await hive.ask("GET", "/schema/openapi.json")
        assert status == 200
        asking = Asking(hive.url, keys, things)
        async with hive.crew() as crew:
            await asyncio.to_thread(ask_everything, asking, document, crew.worker, seed)
    assert not asking.wrong, "\n\n".join(f"{what}\n  {said}" for what, said in [*asking.wrong.items()][:SHOWN_MAX])
    assert {f"{method} {path}" for method, path in MAY} - asking.done - SELDOM == NEVER
