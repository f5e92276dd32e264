"""Inputs of a submission over HTTP: data in the request, folders; and that a digest is no permission."""

import base64
import hashlib
import time
from typing import Any

import aiohttp
import msgspec

from events.inputs import File, Input, list_bytes
from events.spec import Each
from tests.web_support import Api


async def submit(hive: Api, body: dict[str, Any], key: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with hive.http.post(f"{hive.url}/v1/jobs", json=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


async def put(hive: Api, data: bytes, key: str = "") -> str:
    digest = hashlib.sha256(data).hexdigest()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with hive.http.put(f"{hive.url}/v1/blobs/{digest}", data=data, headers=headers) as answer:
        assert answer.status in (200, 201)
    return digest


async def test_data_in_the_request_becomes_a_blob(hive: Api) -> None:
    data = base64.b64encode(b"hello\n").decode()
    status, answer = await submit(hive, {"command": ["x"], "inputs": [{"path": "a", "data": data}]})
    assert status == 201
    name, position = answer["jobs"][0]["job"], answer["position"]
    _, shown = await hive.ask("GET", f"/v1/jobs/{name}?min_position={position}")
    digest = hashlib.sha256(b"hello\n").hexdigest()
    assert shown["inputs"] == [{"path": "a", "digest": digest}]
    assert await hive.core.blobs.read(digest) == b"hello\n"


async def test_data_that_is_wrong_or_too_much_is_refused(hive: Api) -> None:
    status, problem = await submit(hive, {"command": ["x"], "inputs": [{"path": "a", "data": "%"}]})
    assert (status, problem["field"]) == (400, "inputs[0].data")
    much = base64.b64encode(b"x" * (1024**2 + 1)).decode()
    status, problem = await submit(hive, {"command": ["x"], "inputs": [{"path": "a", "data": much}]})
    assert (status, problem["field"]) == (422, "inputs[0].data")


async def test_a_folder_is_taken_once_all_its_files_are_here(hive: Api) -> None:
    one = File("a/b", hashlib.sha256(b"one").hexdigest(), 3)
    folder = await put(hive, list_bytes([one, File("c")]))
    body = {"command": ["x"], "inputs": [{"path": "in", "digest": folder, "form": "folder"}]}
    status, problem = await submit(hive, body)
    assert (status, problem["field"]) == (422, "inputs[0].digest")
    assert "1 blobs that the folder names are not here" in problem["detail"]
    await put(hive, b"one")
    assert (await submit(hive, body))[0] == 201
    bad = await put(hive, b'[{"path":"../x"}]')
    status, problem = await submit(hive, {**body, "inputs": [{"path": "in", "digest": bad, "form": "folder"}]})
    assert (status, problem["field"]) == (422, "inputs[0].digest:[0].path")


async def test_a_ticket_opens_the_files_of_its_folder_and_no_others(hive: Api) -> None:
    inside, outside = await put(hive, b"inside"), await put(hive, b"outside")
    folder = await put(hive, list_bytes([File("a", inside, 6)]))
    ticket = hive.core.tickets.issue("w1", "jaaaaaaaaaaaaaaaa", [f"folder:{folder}"], int(time.time() + 60) * 1000)
    async with aiohttp.ClientSession(headers={"Authorization": f"Ticket {ticket}"}) as http:
        for digest, status in ((folder, 200), (inside, 200), (outside, 403)):
            async with http.get(f"{hive.url}/v1/blobs/{digest}") as answer:
                assert answer.status == status, digest


async def test_nobody_reads_another_s_file_by_naming_its_digest(hive: Api) -> None:
    secret = await put(hive, b"the admin's own")
    key = await hive.key_of("user")
    folder = await put(hive, list_bytes([File("a", secret, 15)]), key)
    each = await put(hive, msgspec.json.encode([Each(inputs=[Input("a", secret)])]), key)
    for body, field in (
        ({"inputs": [{"path": "in", "digest": secret}]}, "inputs[0].digest"),
        ({"inputs": [{"path": "in", "digest": folder, "form": "folder"}]}, "inputs[0].digest"),
        ({"each": each}, "each"),
    ):
        status, problem = await submit(hive, {"command": ["x"], **body}, key)
        assert (status, problem["field"]) == (422, field)
        assert (await submit(hive, {"command": ["x"], **body}))[0] == 201, "the admin may"


async def test_a_url_needs_no_blob_here(hive: Api) -> None:
    file = {"path": "a", "digest": "1" * 64, "url": "https://example.org/a"}
    assert (await submit(hive, {"command": ["x"], "inputs": [file]}))[0] == 201
    status, problem = await submit(hive, {"command": ["x"], "inputs": [{**file, "url": "gopher://example.org/"}]})
    assert (status, problem["field"]) == (422, "inputs[0].url")
