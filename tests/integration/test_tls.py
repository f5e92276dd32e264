"""Connections with TLS: to NATS over TCP and WebSocket, to the API; what is not believed, and what is said to it: nothing."""

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest
from litestar import Litestar, get
from litestar.connection import Request
from litestar.datastructures import State

from infra import certificates
from infra.certificates import DAY_S, Served
from infra.folder import Folder
from infra.link import Link, LinkDown
from infra.settings import Settings
from infra.tls import TlsError, Trust, fetch_ca
from services.certificates import Keeper, served_by
from tests.nats_support import eventually, until
from tests.tls_support import HOST, Ear, SafeNats, listening_ear, made, safe_nats, serving_context, split
from web.client import AsyncHive, Untrusted
from web.client.access import join
from web.server import Server
from web.stream import Closing

SCHEMES = ("tls", "wss")
INFO = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"nonce":"abc"}\r\n'


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncGenerator[SafeNats]:
    """A nats-server with TLS."""
    async with safe_nats(tmp_path / "hive") as running:
        yield running


# NATS


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_messages_of_all_sizes_go_both_ways_in_order(nats: SafeNats, scheme: str) -> None:
    async with nats.linked(scheme) as one, nats.linked(scheme) as two:
        got: list[bytes] = []
        await one.subscribe("n", lambda s, r, d: got.append(d))
        await one.subscribe("echo", lambda s, r, d: one.send(r, d))
        sent = [b"%d " % n + b"x" * (n * 37 % 5000) for n in range(2000)] + [b"y" * (1024 * 1024 - 8)]
        for n, data in enumerate(sent):
            if n % 3:
                two.send("n", data)
            else:
                await two.publish("n", data)
        await until(lambda: len(got) == len(sent), "all arrive")
        assert got == sent
        replies = await asyncio.gather(*[two.request("echo", b"%d" % n, 10) for n in range(300)])
        assert [reply.data for reply in replies] == [b"%d" % n for n in range(300)]
        await until(lambda: two._client is not None and two._client.unsent == 0, "all is sent")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_it_comes_back_after_the_server_was_killed(nats: SafeNats, scheme: str) -> None:
    async with nats.linked(scheme) as link:
        await link.subscribe("echo", lambda s, r, d: link.send(r, d))
        os.kill(nats.server.pid, signal.SIGKILL)
        await until(lambda: not link.connected, "the link is down")
        await nats.server.ensure()
        await asyncio.wait_for(link.wait_connected(), 20)
        assert (await link.request("echo", b"again", 10)).data == b"again"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("names", "ago_s", "known", "said"),
    [
        ((), 0, False, "self-signed certificate in certificate chain"),
        ((), 91 * DAY_S, True, "certificate has expired"),
        ((), -2 * DAY_S, True, "certificate is not yet valid"),
    ],
)
async def test_a_certificate_that_is_not_good_is_not_believed(
    tmp_path: Path, scheme: str, names: tuple[str, ...], ago_s: float, known: bool, said: str
) -> None:
    served = made(tmp_path / "served", *names, ago_s=ago_s)
    trust = served.trust if known else made(tmp_path / "another").trust
    async with listening_ear(served, INFO) as ear:
        with pytest.raises(LinkDown, match=f"its certificate is not believed: {said}"):
            await _link_to(ear, scheme, trust)
        assert ear.heard == b""


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_certificate_for_another_name_is_not_believed(tmp_path: Path, scheme: str) -> None:
    served = made(tmp_path, "hive.example.org")
    elsewhere = Trust(served.ca, "other.example.org")
    async with listening_ear(served, INFO) as ear:
        with pytest.raises(LinkDown, match="not believed: Hostname mismatch"):
            await _link_to(ear, scheme, elsewhere)
        assert ear.heard == b""


async def test_a_server_that_says_it_has_no_tls_is_not_talked_to(tmp_path: Path) -> None:
    async with listening_ear(None, INFO) as ear:
        with pytest.raises(LinkDown):
            await _link_to(ear, "tls", made(tmp_path).trust)
        assert ear.met
        assert b"CONNECT" not in ear.heard
        assert ear.heard[:1] == b"\x16", "only a TLS greeting"


async def _link_to(ear: Ear, scheme: str, trust: Trust) -> None:
    from infra import nkey
    from infra.credential import Credential

    who = Credential(nkey.new_user_seed())
    link = await Link.open(f"{scheme}://{HOST}:{ear.port}", who, "test", wait_s=1, trust=trust)
    await link.close()


async def test_what_is_plain_is_refused_by_a_server_with_tls(nats: SafeNats) -> None:
    with pytest.raises(LinkDown):
        await Link.open(f"nats://{HOST}:{nats.server.port}", nats.server.authority.platform, "test", wait_s=1)


async def test_of_two_ways_the_one_that_is_open_is_taken(nats: SafeNats) -> None:
    urls = f"tls://{HOST}:1,{nats.url('wss')}"
    link = await Link.open(urls, nats.server.authority.platform, "test", trust=nats.served.trust)
    try:
        assert link.connected
    finally:
        await link.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_renewed_certificate_is_served_and_nobody_is_disconnected(nats: SafeNats, scheme: str) -> None:
    async with nats.linked(scheme) as link:
        went: list[bool] = []
        link.on_state(went.append)
        client, before = link._client, await _shown(nats.url(scheme))
        certificates.renew(Folder(nats.served.file.parent.parent), time.time())
        await nats.server.renewed()
        assert await _shown(nats.url(scheme)) != before
        await link.publish("x", b"")
        assert (link._client, went) == (client, [])
        async with nats.linked(scheme) as another:
            assert another.connected


async def _shown(url: str) -> str:
    """The certificate that a server shows now (PEM)."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=10)


async def _other_than(before: str, url: str) -> None:
    """Return once the server shows another one."""

    async def other() -> bool:
        return await _shown(url) != before

    await eventually(other, "the new one is served")


# HTTP


@get("/", sync_to_thread=False)
def who(request: Request[object, object, State]) -> dict[str, str | int]:
    """Where a request came from."""
    client = request.client
    return {"client": client.host if client else "", "port": client.port if client else 0, "scheme": request.url.scheme}


@contextlib.asynccontextmanager
async def served_app(tls: ssl.SSLContext | None = None, proxies: tuple[str, ...] = ()) -> AsyncGenerator[Server]:
    """An application that says who asks."""
    app = Litestar([who], openapi_config=None, state=State({"closing": Closing()}))
    server = Server(app, HOST, 0, tls, proxies)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


FORWARDED = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("proxies", "client"), [((), HOST), (("10.0.0.1",), HOST), ((HOST,), "192.0.2.7"), (("127.0.0.0/8",), "192.0.2.7")]
)
async def test_only_a_trusted_proxy_says_where_a_request_came_from(proxies: tuple[str, ...], client: str) -> None:
    async with served_app(proxies=proxies) as server, aiohttp.ClientSession() as http:
        async with http.get(f"http://{HOST}:{server.port}/", headers=FORWARDED) as answer:
            said = await answer.json()
    assert (said["client"], said["scheme"]) == (client, "http" if client == HOST else "https")


async def test_an_open_connection_stays_while_the_certificate_is_renewed(tmp_path: Path) -> None:
    folder, served = Folder(tmp_path), made(tmp_path)
    keeper = Keeper(folder, Settings(), served)
    keeping = asyncio.create_task(keeper.run())
    connector = aiohttp.TCPConnector(limit=1, ssl=served.trust.context())
    async with served_app(keeper.context) as server, aiohttp.ClientSession(connector=connector) as http:
        url = f"https://{HOST}:{server.port}"

        async def port_used() -> object:
            async with http.get(url) as answer:
                return (await answer.json())["port"]

        used, before = await port_used(), await _shown(url)
        certificates.renew(folder, time.time())
        await _other_than(before, url)
        assert await port_used() == used, "the same connection as before"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_it_renews_by_itself_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    folder, served = Folder(tmp_path), made(tmp_path, ago_s=70 * DAY_S)
    taken: list[Served] = []
    keeper = Keeper(folder, Settings(), served)

    async def changed() -> None:
        taken.append(keeper.served)

    keeper.on_change(changed)
    keeping = asyncio.create_task(keeper.run())
    try:
        await until(lambda: bool(taken), "it is renewed")
        assert taken[0].ends_s - time.time() > 89 * DAY_S
        good = served.file.read_bytes()
        served.file.write_text("broken")
        async with served_app(keeper.context) as server:
            assert await _shown(f"https://{HOST}:{server.port}")
            served.file.write_bytes(good)
            certificates.renew(folder, time.time())
            await until(lambda: len(taken) > 1, "what is good again is taken")
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_an_operators_own_is_taken_when_its_files_change(tmp_path: Path) -> None:
    theirs = made(tmp_path / "theirs", "hive.example.org")
    cert, key = split(theirs, tmp_path / "own")
    settings = Settings(
        tls_cert_file=str(cert), tls_key_file=str(key), tls_ca_file=str(theirs.file.with_name("ca.pem"))
    )
    folder = Folder(tmp_path / "hive")
    served = served_by(folder, settings)
    assert served is not None
    keeper = Keeper(folder, settings, served)
    keeping = asyncio.create_task(keeper.run())
    async with served_app(keeper.context) as server:
        before = await _shown(url := f"https://{HOST}:{server.port}")
        split(certificates.renew(Folder(tmp_path / "theirs"), time.time()), tmp_path / "own")
        await _other_than(before, url)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


# The Python client, and joining


async def test_nothing_is_sent_to_who_does_not_show_the_pinned_authority(tmp_path: Path) -> None:
    wanted = made(tmp_path / "wanted").fingerprint
    async with listening_ear(made(tmp_path / "another")) as ear:
        url = f"https://{HOST}:{ear.port}"
        async with AsyncHive(f"{url}#{wanted}", "hive_secret") as hive:
            with pytest.raises(Untrusted, match=r"none of its certificates has the fingerprint .* Nothing was sent"):
                await hive.status()
        with pytest.raises(Untrusted):
            await join(url, f"hivw_x.{wanted[:32]}", "U", lambda data: b"x" * 64, trust=Trust(pin=wanted[:32]))
        assert ear.met
        assert ear.heard == b""


async def test_showing_the_authority_alone_is_not_enough(tmp_path: Path) -> None:
    """Its certificate is public: who shows it beside one of another authority's is not believed."""
    real, false = made(tmp_path / "real"), made(tmp_path / "false")
    text = false.file.read_text()
    leaf, rest = text.split("-----END CERTIFICATE-----\n", 1)
    key = rest[rest.index("-----BEGIN PRIVATE KEY-----") :]
    false.file.write_text(f"{leaf}-----END CERTIFICATE-----\n{real.ca}{key}")
    async with listening_ear(false) as ear:
        url = f"https://{HOST}:{ear.port}"
        assert await fetch_ca(url, real.fingerprint) == real.ca
        async with AsyncHive(f"{url}#{real.fingerprint}", "hive_secret") as hive:
            with pytest.raises(Untrusted, match="its certificate is not believed"):
                await hive.status()
        assert ear.heard == b""


@pytest.mark.parametrize(
    ("ago_s", "name", "said"),
    [(91 * DAY_S, "", "certificate has expired"), (0, "other.example.org", "Hostname mismatch")],
)
async def test_the_client_asks_nobody_whose_certificate_is_not_good(
    tmp_path: Path, ago_s: float, name: str, said: str
) -> None:
    served = made(tmp_path, ago_s=ago_s)
    async with listening_ear(served) as ear:
        trust = Trust(served.ca, name)
        async with AsyncHive(f"https://{HOST}:{ear.port}", "hive_secret", trust=trust) as hive:
            with pytest.raises(Untrusted, match=said):
                await hive.status()
        assert ear.heard == b""


async def test_the_client_finds_whom_to_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = made(tmp_path / "hive", "hive.example.org")
    monkeypatch.chdir(tmp_path)
    for name in ("HIVE_CA", "HIVE_CA_SHA256", "HIVE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIVE_DATA", str(tmp_path / "none"))
    async with served_app(serving_context(served)) as server:
        url = f"https://{HOST}:{server.port}"

        async def said(url: str) -> str:
            async with AsyncHive(url, "hive_x") as hive:
                try:
                    await hive.status()
                except Untrusted as error:
                    return str(error)
                except Exception as error:  # noqa: BLE001 - it is no hive, only believed to be one
                    return type(error).__name__
            return ""

        assert "HIVE_CA" in await said(url)
        assert await said(f"{url}#{served.fingerprint}") == "NotFound"
        monkeypatch.setenv("HIVE_CA_SHA256", served.fingerprint[:40])
        assert await said(url) == "NotFound"
        monkeypatch.setenv("HIVE_CA", str(served.file.with_name("ca.pem")))
        with pytest.raises(Untrusted, match="both set"):
            await said(url)
        monkeypatch.delenv("HIVE_CA_SHA256")
        assert await said(url) == "NotFound"
        monkeypatch.setenv("HIVE_CA", str(tmp_path / "nothing"))
        with pytest.raises(Untrusted, match="cannot be read"):
            await said(url)
        monkeypatch.delenv("HIVE_CA")
        monkeypatch.setenv("HIVE_DATA", str(tmp_path / "hive"))
        assert await said(url) == "NotFound"


async def test_where_nothing_speaks_tls_no_authority_is_found() -> None:
    async with listening_ear(None, b"HTTP/1.1 400 no\r\n\r\n") as ear:
        with pytest.raises(TlsError, match="does not speak TLS"):
            await fetch_ca(f"https://{HOST}:{ear.port}", "0" * 32)
