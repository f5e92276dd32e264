"""No secret and nothing that anybody typed is ever in a stream, in clear, in base64 or in hex: after a whole story with
real processes every message of both streams is looked through, and what the processes wrote to their own log.
"""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from infra.connect import open_platform
from infra.link import Link
from infra.nats_log import EVENTS_STREAM
from infra.settings import load
from infra.streams import TELEMETRY_STREAM
from tests.system import System, system

MAIL, OTHER_MAIL = "ada.lovelace@example.org", "countess@example.net"
PASSWORD, OTHER = "plum tractor 9 velvet", "seven quiet lanterns hum"
SHORTEST = 8
"""Characters that a text must have to be looked for: shorter ones are found by chance in what is random."""
MAY_SAY = {"the admin's key", "a machine's name", "where requests came from"}
"""What processes may tell who started them: the first key, once, and what was typed to that very process."""
_object_of = msgspec.json.Decoder(dict[str, Any]).decode


class Story:
    """Asks one hive as several people, and keeps every text that was typed and every secret that was given."""

    def __init__(self, running: System, http: aiohttp.ClientSession) -> None:
        self._running, self._http = running, http
        self.said: dict[str, str] = {}

    def hide(self, what: str, text: str) -> str:
        """`text`, which must not be found."""
        assert len(text) >= SHORTEST, text
        self.said[what] = text
        return text

    async def ask(self, method: str, path: str, token: str, body: Any = None, **more: Any) -> Any:
        """The decoded answer, which must be a good one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._http.request(method, self._running.url() + path, json=body, headers=headers, **more) as answer:
            data = await answer.read()
            assert answer.status < 300, (path, answer.status, data)
            return _object_of(data) if data else None


async def people(story: Story, admin: str) -> tuple[str, str]:
    """Somebody registers, logs in, changes password and address; keys, an invitation, a link. The session and the user."""
    hide, ask = story.hide, story.ask
    name = hide("the user's name", "lovelace_ada")
    invite = hide("an invitation", (await ask("POST", "/v1/invites", admin, {}))["text"])
    hide("the address", MAIL)
    hide("the password", PASSWORD)
    body = {"name": name, "password": PASSWORD, "email": MAIL, "invite": invite}
    user = (await ask("POST", "/v1/auth/register", "", body))["user"]
    login = await ask("POST", "/v1/auth/login", "", {"name": name, "password": PASSWORD})
    again = await ask("POST", "/v1/auth/refresh", "", {"refresh": hide("a refresh token", login["refresh"])})
    hide("an access token", login["access"])
    body = {"old": PASSWORD, "new": hide("the new password", OTHER)}
    session = await ask("POST", "/v1/me/password", again["access"], body)
    access = hide("the last access token", session["access"])
    hide("the last refresh token", session["refresh"])
    await ask("PATCH", "/v1/me", access, {"email": hide("the new address", OTHER_MAIL), "password": OTHER})
    key = await ask("POST", "/v1/keys", access, {"name": hide("a key's name", "key of the laptop")})
    hide("a key", key["text"][len(key["key"]["prefix"]) :])
    renewed = await ask("POST", f"/v1/keys/{key['key']['key']}/rotate", access, {})
    hide("the key in its place", renewed["text"][len(renewed["key"]["prefix"]) :])
    hide("a link", (await ask("POST", f"/v1/users/{user}/reset-link", admin))["token"])
    return access, user


async def machines(story: Story, running: System, admin: str) -> str:
    """A machine joins with a token, and is renamed. The worker's id."""
    token = (await story.ask("POST", "/v1/enrolments", admin, {}))["text"]
    story.hide("an enrolment token", token)
    state = running.folder.path("far")
    name = story.hide("a machine's name", "the-box-below-the-stairs")
    running.agents["far"] = running.spawn(
        "worker", "join", running.url(), "--name", name, "--state", str(state),
        environ={"HIVE_TOKEN": token, "HIVE_DATA": str(state)},
    )  # fmt: skip
    async with running.client() as client:
        await running.ready(client, 1)
        (worker,) = await client.workers()
    await story.ask(
        "PATCH", f"/v1/workers/{worker.worker}", admin, {"name": story.hide("its new name", "attic-machine")}
    )
    (seed,) = (line for path in state.rglob("*") if path.is_file() for line in _seeds(path))
    story.hide("the machine's secret key", seed)
    return worker.worker


def _seeds(path: Path) -> list[str]:
    return [line for line in path.read_text(errors="replace").split() if line.startswith("SU") and len(line) == 58]


async def work(story: Story, running: System, access: str) -> None:
    """Jobs with everything that can be typed: one that succeeds, one that fails for a reason that quotes it, one that
    cannot start.
    """
    hide = story.hide
    blob = hide("an input", "what is in the file").encode()
    digest = hashlib.sha256(blob).hexdigest()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {access}"}) as http:
        async with http.put(f"{running.url()}/v1/blobs/{digest}", data=blob) as answer:
            assert answer.status == 201
    job = {
        "command": ["sh", "-c", hide("a command", "echo marmalade; echo kept > quince.txt; cat damson.txt")],
        "name": hide("a job's name", "breakfast of tuesday"),
        "labels": {hide("a label", "pantry-shelf"): hide("a label's value", "third-from-left")},
        "env": {hide("a variable", "GOOSEBERRY_KEY"): hide("a variable's value", "swordfish-4711-tango")},
        "inputs": [{"path": hide("an input's path", "damson.txt"), "digest": digest}],
        "results": [hide("a result's path", "quince.txt")],
    }
    value = hide("a secret's value", "nightjar-9920-juliet")
    name = hide("a secret's name", "marmalade-jar")
    await story.ask("PUT", f"/v1/secrets/{name}", access, {"value": value})
    told = hashlib.sha256(value.encode()).hexdigest()
    safe = {
        "command": ["sh", "-c", 'test "$(printf %s "$JAR_TOKEN" | sha256sum | cut -c1-64)" = "$1"', "sh", told],
        "secrets": [{"name": name, "env": hide("a secret's variable", "JAR_TOKEN")}],
    }
    lost = {"command": [hide("a program that is not there", "mulberry-bush-round")], "retries": {"rejected": 0}}
    wrong = {**job, "cwd": hide("a folder that is not there", "elderflower/press"), "retries": {"rejected": 0}}
    jobs = await story.ask("POST", "/v1/jobs", access, [job, safe, lost, wrong])
    hide("what was printed", "echo marmalade"[5:])
    async with running.client() as client:
        for number, expected in enumerate(("succeeded", "succeeded", "failed", "failed")):
            done = await client.wait(jobs["jobs"][number]["job"])
            assert done.state == expected, done


def disguises(text: str) -> Iterator[bytes]:
    """The text in clear, in hex and in base64, wherever in a longer text it stood."""
    plain = text.encode()
    yield plain
    yield plain.hex().encode()
    yield plain.hex().upper().encode()
    for before in range(3):
        # The first and last characters depend on what stands beside the text.
        whole = base64.b64encode(b"\0" * before + plain)[-(-before * 4 // 3) :].rstrip(b"=")
        inner = whole[: len(whole) - 1] if (before + len(plain)) % 3 else whole
        yield inner
        yield inner.translate(bytes.maketrans(b"+/", b"-_"))


async def messages(link: Link, stream: str) -> list[bytes]:
    """Every message of the stream: subject, headers and data, as they are kept."""
    reply = await link.request(f"$JS.API.STREAM.INFO.{stream}", b"", 10)
    state, found = _object_of(reply.data)["state"], list[bytes]()
    for sequence in range(state["first_seq"], state["last_seq"] + 1):
        reply = await link.request(f"$JS.API.STREAM.MSG.GET.{stream}", b'{"seq":%d}' % sequence, 10)
        if kept := _object_of(reply.data).get("message"):
            headers, data = (base64.b64decode(kept.get(part, "")) for part in ("hdrs", "data"))
            found.append(b"\n".join((kept["subject"].encode(), headers, data)))
    return found


async def heard(link: Link) -> bool:
    """Whether anything is in the stream that heartbeats are kept in."""
    return bool(await messages(link, TELEMETRY_STREAM))


def test_a_text_is_found_however_it_is_disguised() -> None:
    text, around = "swordfish-4711-tango", "abcde"
    for before in range(4):
        for after in range(4):
            whole = f"{around[:before]}{text}{around[:after]}".encode()
            for said in (whole, whole.hex().encode(), base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
                assert any(one in said for one in disguises(text)), said


@pytest.mark.slow
async def test_after_a_whole_story_no_secret_is_in_a_stream(tmp_path: Path) -> None:
    async with system(tmp_path) as running, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        await running.plane()
        admin, story = running.folder.admin_key(), Story(running, http)
        story.hide("the admin's key", admin.removeprefix("hive_")[4:])
        access, user = await people(story, admin)
        worker = await machines(story, running, admin)
        await work(story, running, access)
        await story.ask("DELETE", f"/v1/users/{user}", admin)
        story.hide("where requests came from", "127.0.0.1")
        link = await open_platform(running.folder, load(running.folder.root, {}), "hive test")
        try:
            await running.until(lambda: heard(link), "there is a heartbeat")
            kept = {stream: await messages(link, stream) for stream in (EVENTS_STREAM, TELEMETRY_STREAM)}
        finally:
            await link.close()
        events = b"\n".join(kept[EVENTS_STREAM])
        for fact in (user, worker, "job.finished", "task.", "user.acted", "user.erased", "secret.set"):
            assert fact.encode() in events, f"the story left no {fact}"
        processes = running.log.read_bytes()
        spooled = [path for path in running.folder.path("far").rglob("*") if path.is_file()]
        value = story.said["a secret's value"]
        kept_there = [path for path in spooled if any(one in path.read_bytes() for one in disguises(value))]
        assert not kept_there, "the machine keeps the secret"
        assert spooled
    found = [
        f"{what} ({text!r}) is in {stream}: {said[max(0, said.find(one) - 200) :][:400]!r}"
        for what, text in story.said.items()
        for one in disguises(text)
        for stream, all_said in kept.items()
        for said in all_said
        if one in said
    ]
    assert not found, "\n".join(found)
    told = [what for what, text in story.said.items() if any(one in processes for one in disguises(text))]
    assert not set(told) - MAY_SAY, told
