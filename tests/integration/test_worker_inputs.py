"""A task's folder before it starts: folders, archives, URLs, parameters; and who must not be asked for them."""

import gzip
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from events.inputs import File, Input, list_bytes
from events.spec import Each, TaskText
from tests.unit.test_unpack import tar
from tests.worker_support import Rig, rigged
from worker.fetch import Fetcher, NotFetched, is_public


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    async with rigged(tmp_path) as rig:
        yield rig


async def printed(rig: Rig, script: str, *inputs: Input, **more: object) -> str:
    """What a task with these inputs prints; it must succeed."""
    text = TaskText(command=["sh", "-c", script], inputs=[*inputs], **more)  # pyright: ignore[reportArgumentType]
    lease = rig.pool.run([0, 0], text, ticket="a-ticket")
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code) == ("exit", 0), ended.reason
    return rig.pool.text(lease).decode()


async def test_a_folder_is_its_files_each_fetched_once(rig: Rig) -> None:
    same, other = rig.shelf.put(b"same\n"), rig.shelf.put(b"other\n")
    files = [File("a/b.txt", same, 5), File("a/c.txt", same, 5), File("d.txt", other, 6), File("empty/here")]
    folder = Input("in", rig.shelf.put(list_bytes(files)), form="folder")
    await rig.start()
    said = await printed(rig, "cat in/a/b.txt in/a/c.txt in/d.txt; test -d in/empty/here && ls -A in", folder)
    assert said == "same\nsame\nother\na\nd.txt\nempty\n"
    whole = await printed(rig, "cat d.txt; ls", Input(".", folder.digest, form="folder"))
    assert whole == "other\na\nd.txt\nempty\n"
    assert sum(path.startswith("/v1/blobs/") for _, path, _ in rig.shelf.asked) == 3


async def test_a_folder_that_leads_out_is_refused(rig: Rig) -> None:
    bad = rig.shelf.put(msgspec.json.encode([{"path": "../../out", "digest": rig.shelf.put(b"x")}]))
    await rig.start()
    lease = rig.pool.sh("true", inputs=[Input("in", bad, form="folder")], ticket="t")
    ended = await rig.pool.ended(lease)
    assert ended.end == "rejected"
    assert "input 'in' does not lie inside" in ended.reason


async def test_an_archive_is_unpacked_or_the_task_rejected(rig: Rig) -> None:
    good = rig.shelf.put(
        gzip.compress(tar(("a/b", b"hello\n", {}), ("run", b"#!/bin/sh\necho ran\n", {"mode": 0o755})))
    )
    bad = rig.shelf.put(tar(("../b", b"x", {})))
    await rig.start()
    assert await printed(rig, "cat in/a/b; in/run", Input("in", good, form="archive")) == "hello\nran\n"
    ended = await rig.pool.ended(rig.pool.sh("true", inputs=[Input("in", bad, form="archive")], ticket="t"))
    assert (ended.end, ended.reason.split(": ")[0]) == ("rejected", "input 'in' could not be unpacked")


async def test_parameters_are_in_the_environment_and_in_a_file(rig: Rig) -> None:
    each = rig.shelf.put(msgspec.json.encode([Each(params={"n": 7})]))
    await rig.start()
    said = await printed(
        rig, 'echo $HIVE_PARAM_lr $HIVE_PARAM_n "$HIVE_PARAM_name"; cat "$HIVE_PARAMS"',
        params={"lr": 0.5, "n": 1, "name": "a b"}, each=each,
    )  # fmt: skip
    first, _, second = said.partition("\n")
    assert first == "0.5 7 a b"
    assert msgspec.json.decode(second) == {"lr": 0.5, "n": 7, "name": "a b"}


# URLs


class Site:
    """A web site of the test's."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        if request.path == "/on":
            return web.Response(status=302, headers={"Location": "/file"})
        if request.path == "/round":
            return web.Response(status=302, headers={"Location": "/round"})
        if request.path == "/file":
            return web.Response(body=b"from afar\n")
        return web.Response(status=302, headers={"Location": "ftp://elsewhere/"})


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", site.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


FILE = hashlib.sha256(b"from afar\n").hexdigest()


async def test_a_url_is_fetched_once_where_the_owner_allows_it(rig: Rig, site: Site) -> None:
    await rig.start(urls="any")
    for _ in range(2):
        assert await printed(rig, "cat f", Input("f", FILE, url=f"{site.url}/on")) == "from afar\n"
    assert site.asked == ["/on", "/file"]


async def test_a_private_address_is_not_asked_unless_the_owner_allows_it(rig: Rig, site: Site) -> None:
    await rig.start()
    port = site.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        ended = await rig.pool.ended(
            rig.pool.sh("true", inputs=[Input("f", FILE, url=f"http://{host}:{port}/file")], ticket="t")
        )
        assert ended.end == "rejected", host
        assert "not on the public internet" in ended.reason or "none that can be asked" in ended.reason, host
    assert site.asked == []


async def test_what_the_site_does_wrong_is_said_without_its_address(site: Site, tmp_path: Path) -> None:
    fetcher = Fetcher("any", bytes_max=1000)
    with (tmp_path / "f").open("w+b") as file:
        for path, digest, said in (
            ("/file", "1" * 64, "not the ones that the digest names"),
            ("/round", FILE, "leads on more than"),
            ("/else", FILE, "must begin with http"),
        ):
            with pytest.raises(NotFetched, match=said) as caught:
                await fetcher.fetch(site.url + path, digest, file.fileno())
            assert site.url not in str(caught.value)
        site.statuses = [503, 404]
        with pytest.raises(NotFetched, match="answered 404"):
            await fetcher.fetch(f"{site.url}/file", FILE, file.fileno())
        site.statuses = [503]
        assert await fetcher.fetch(f"{site.url}/file", FILE, file.fileno()) == 10
    await fetcher.close()
    small, none = Fetcher("any", bytes_max=5), Fetcher("none")
    with pytest.raises(NotFetched, match="larger than"):
        await small.fetch(f"{site.url}/file", FILE, 0)
    with pytest.raises(NotFetched, match="lets no job"):
        await none.fetch(f"{site.url}/file", FILE, 0)
    await small.close()
    await none.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("10.1.2.3", False), ("127.0.0.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True),
        ("2002:a00:1::", False), ("2001:0:1::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
