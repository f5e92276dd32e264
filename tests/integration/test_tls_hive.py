"""Whole hives with TLS, as processes: a machine joins by a token alone, works over WebSocket alone, stays while
certificates change; and what may not be listened on or joined.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from infra import certificates
from infra.nats_process import free_port
from tests.system import System, system
from tests.tls_support import HOST, listening_ear, made
from web.client import AsyncHive

JOB_S = 30.0
pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def safe_hive(root: Path, **settings: str | int) -> AsyncGenerator[tuple[System, AsyncHive]]:
    """A hive with certificates, whose NATS others reach; settings are added."""
    async with system(root) as running:
        made(running.folder.root)
        lines = [f"{name} = {value!r}".replace("'", '"') for name, value in settings.items()]
        running.folder.path("hive.toml").write_text("\n".join(['nats_host = "0.0.0.0"', *lines]))
        await running.plane()
        async with running.client() as client:
            yield running, client


def join(running: System, url: str, token: str, name: str = "far") -> "subprocess.Popen[bytes]":
    """A machine that knows nothing but the URL and the token."""
    data = running.folder.path("far")
    process = running.spawn(
        "worker", "join", url, token, "--name", name, "--state", str(data / name), environ={"HIVE_DATA": str(data)}
    )
    running.agents[name] = process
    return process


def ports(process: "subprocess.Popen[bytes]") -> dict[int, int]:
    """To which ports a process is connected, and from which."""
    found = psutil.Process(process.pid).net_connections("tcp")
    return {one.raddr.port: one.laddr.port for one in found if one.raddr and one.status == psutil.CONN_ESTABLISHED}


async def test_a_machine_joins_by_a_token_alone_and_works_over_websocket_alone(tmp_path: Path) -> None:
    web = free_port("0.0.0.0")
    public = f"wss://{HOST}:{web}"
    async with safe_hive(tmp_path, nats_websocket_port=web, nats_public_url=public) as (running, client):
        token = (await client.access.make_enrolment()).text
        served = certificates.look(running.folder)
        assert served is not None
        assert token.partition(".")[2] == served.fingerprint[:32]
        assert running.url().startswith("https://")
        agent = join(running, running.url(), token)
        await running.ready(client, 1)
        job = await client.submit(["echo", "hello"])
        assert (await client.result(job, timeout=JOB_S)).ok
        assert await client.output(job) == b"hello\n"
        to = ports(agent)
        assert web in to
        assert int(running.folder.path("nats", "port").read_text()) not in to


async def test_a_renewal_ends_no_connection_of_a_client_or_a_worker(tmp_path: Path) -> None:
    async with safe_hive(tmp_path) as (running, client):
        agent = join(running, running.url(), (await client.access.make_enrolment()).text)
        await running.ready(client, 1)
        port = int(running.folder.path("nats", "port").read_text())
        await client.status()
        before, mine = ports(agent)[port], _own_connections(running.url())
        assert mine
        log = running.folder.path("nats", "nats.log")
        reloads = log.read_text().count("Reloaded: tls")
        certificates.renew(running.folder, time.time())

        async def taken() -> bool:
            return log.read_text().count("Reloaded: tls") > reloads

        await running.until(taken, "nats-server takes it", JOB_S)
        assert (await client.result(await client.submit(["true"]), timeout=JOB_S)).ok
        assert ports(agent)[port] == before
        assert mine & _own_connections(running.url()) == mine
        join(running, running.url(), (await client.access.make_enrolment()).text, "new")
        await running.ready(client, 2)


def _own_connections(url: str) -> set[int]:
    """The local ports from which this process is connected to the API."""
    port = int(url.rpartition(":")[2])
    found = psutil.Process().net_connections("tcp")
    return {one.laddr.port for one in found if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED"}


async def test_nothing_is_sent_to_an_address_that_is_not_the_tokens_hive(tmp_path: Path) -> None:
    pin = made(tmp_path / "meant").fingerprint[:32]
    async with system(tmp_path / "data") as running, listening_ear(made(tmp_path / "other")) as ear:
        process = join(running, f"https://{HOST}:{ear.port}", f"hivw_secret.{pin}")
        assert await asyncio.to_thread(process.wait, JOB_S) == 3
        assert "Nothing was sent to it" in running.tail()
        assert ear.met
        assert ear.heard == b""


@pytest.mark.parametrize(
    ("url", "token", "said"),
    [
        ("http://192.0.2.1:8420", "hivw_x", "is not encrypted, and leaves this machine; use https://"),
        ("http://127.0.0.1:8420", f"hivw_x.{'0' * 32}", "the token is for a hive with TLS"),
        ("https://127.0.0.1:8420", "hivw_x.short", "is not the fingerprint of a certificate"),
    ],
)
async def test_a_token_goes_nowhere_in_the_clear(tmp_path: Path, url: str, token: str, said: str) -> None:
    async with system(tmp_path) as running:
        process = join(running, url, token)
        assert await asyncio.to_thread(process.wait, JOB_S) in {2, 3}
        assert said in running.tail()


@pytest.mark.parametrize("name", ["HIVE_HOST", "HIVE_NATS_HOST"])
async def test_a_hive_without_certificates_does_not_listen_off_this_machine(tmp_path: Path, name: str) -> None:
    async with system(tmp_path) as running:
        process = running.spawn("serve", "--port", "0", environ={name: "0.0.0.0"})
        assert await asyncio.to_thread(process.wait, JOB_S) == 4
        assert "would listen without TLS" in running.tail()
        assert "hivectl tls init --name HOST" in running.tail()
        assert not running.folder.path("nats", "nats.pid").exists()
