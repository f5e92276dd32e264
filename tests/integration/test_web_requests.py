"""Requests that are a little wrong, as plain clients make them: mistyped parameters, bodies that are too large."""

import asyncio
import http.client
import json
import socket
from typing import Any

import pytest

from tests.web_support import Api
from web import unread
from web.submit import BODY_BYTES_MAX

WAIT_S = 20.0


FOR_TICKETS = {"/v1/jobs/{job}/secrets"}
"""What no key opens."""


async def declared(hive: Api) -> list[tuple[str, str, list[str]]]:
    """Method, path and the query parameters of every operation, as the document says."""
    document = (await hive.ask("GET", "/schema/openapi.json"))[1]
    return [
        (method, path, [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "400" in operation["responses"] and path not in FOR_TICKETS
    ]


async def test_an_unknown_parameter_is_refused_everywhere_with_those_that_are_known(hive: Api) -> None:
    operations = await declared(hive)
    assert len(operations) > 15
    for method, path, known in operations:
        filled = path.replace("{index}", "0").replace("{", "").replace("}", "")
        async with hive.http.request(
            method, f"{hive.url}{filled}?{''.join(f'{name}=1&' for name in known)}stat=queued"
        ) as answer:
            problem = await answer.json(content_type=None) if method != "head" else {}
        assert answer.status == 400, (method, path, problem)
        if problem:
            assert (problem["type"], problem["field"]) == ("urn:hive:problem:bad-field", "stat"), (method, path)
            assert all(name in problem["remedy"] for name in known or ("no parameters",)), (problem, known)


async def test_a_mistyped_filter_does_not_answer_with_everything(hive: Api) -> None:
    assert (await hive.ask("GET", "/v1/jobs?state=queued"))[0] == 200
    status, problem = await hive.ask("GET", "/v1/jobs?stat=queued")
    assert (status, problem["detail"]) == (400, "'stat' is not a parameter of this path")
    assert {"cursor", "kind", "label", "state"} <= {*problem["remedy"].removeprefix("use ").split(", ")}
    status, problem = await hive.ask("GET", "/health?force=1")
    assert (status, problem["remedy"]) == (400, "this path has no parameters")


def post(hive: Api, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    """What a client that sends everything before it looks for an answer gets."""
    connection = http.client.HTTPConnection("127.0.0.1", hive.server.port, timeout=WAIT_S)
    try:
        sent = {"Authorization": f"Bearer {hive.key}", "Content-Type": "application/json", **headers}
        connection.request("POST", path, body, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize("size", [10_000_000, 40_000_000])
async def test_a_plain_client_sees_why_its_body_was_too_large(hive: Api, connection: str, size: int) -> None:
    status, problem = await asyncio.to_thread(post, hive, "/v1/jobs", b"[" + b" " * size, Connection=connection)
    assert (status, problem["type"]) == (413, "urn:hive:problem:too-large")
    assert "8 MiB" in problem["detail"]


async def test_a_body_of_no_known_length_is_refused_as_well(hive: Api) -> None:
    pieces = (b" " * 1_000_000 for _ in range(12))
    status, problem = await asyncio.to_thread(post, hive, "/v1/jobs", pieces, Connection="close")
    assert (status, problem["type"]) == (413, "urn:hive:problem:too-large")


async def test_who_may_not_come_in_sees_that_too(hive: Api) -> None:
    status, problem = await asyncio.to_thread(
        post, hive, "/v1/jobs", b" " * 10_000_000, Connection="close", Authorization="Bearer wrong"
    )
    assert (status, problem["type"]) == (401, "urn:hive:problem:unauthorized")


def head_of(hive: Api, *lines: str) -> bytes:
    first = ("POST /v1/jobs HTTP/1.1", "Host: hive", f"Authorization: Bearer {hive.key}")
    return "\r\n".join((*first, *lines, "", "")).encode()


def answers(hive: Api, sent: bytes) -> bytes:
    """All that comes until the hive closes the connection."""
    with socket.create_connection(("127.0.0.1", hive.server.port), WAIT_S) as connection:
        connection.sendall(sent)
        found = b""
        while data := connection.recv(65536):
            found += data
        return found


async def test_who_asks_before_it_sends_is_refused_without_being_asked_to(hive: Api) -> None:
    head = head_of(hive, f"Content-Length: {BODY_BYTES_MAX + 1}", "Expect: 100-continue")
    found = await asyncio.to_thread(answers, hive, head)
    assert found.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in found


async def test_a_client_that_stops_sending_is_let_go(hive: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "UNREAD_S_MAX", 0.2)
    head = head_of(hive, f"Content-Length: {BODY_BYTES_MAX + 1}")
    found = await asyncio.to_thread(answers, hive, head + b" " * 1000)
    assert found.startswith(b"HTTP/1.1 413")


async def test_what_is_thrown_away_is_bounded(hive: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "UNREAD_BYTES_MAX", 1_000_000)
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(post, hive, "/v1/jobs", b" " * 60_000_000)
