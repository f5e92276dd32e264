"""The embedded nats-server after a version without JWTs, and servers that are not ours."""

import contextlib
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

import pytest

from infra import nkey, streams
from infra.connect import NoServer, open_platform, open_system
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link
from infra.nats_log import JetStreamLog
from infra.nats_process import NatsServerError, launch
from infra.nats_server import NatsServer, WorkerUser
from infra.settings import Settings
from tests.nats_support import Who, is_refused, linked, new_worker, serving, until, write_creds

OLD_CONFIG = """
server_name: "hive-old"
listen: "127.0.0.1:{port}"
pid_file: "{home}/nats.pid"
log_file: "{home}/nats.log"
jetstream {{ store_dir: "{home}/data", sync_interval: always, strict: true, max_mem: 268435456, max_file: 8796093022208 }}
system_account: SYS
accounts {{
  SYS {{ users: [ {{ nkey: {sys} }} ] }}
  PLATFORM {{ jetstream: enabled, users: [ {{ nkey: {platform} }} ] }}
  WORKERS {{ users: [ {{ nkey: {worker} }} ] }}
}}
"""


class Old(NamedTuple):
    """A server of the version before there was an operator, with nkey users in its configuration."""

    process: "subprocess.Popen[bytes]"
    url: str
    platform: Credential
    system: Credential
    who: Who


@contextlib.asynccontextmanager
async def old_server(root: Path, port: int) -> AsyncGenerator[Old]:
    home, who = Folder(root).directory("nats"), new_worker()
    platform, system = nkey.new_user_seed(), nkey.new_user_seed()
    keys = {"sys": nkey.public_of(system), "platform": nkey.public_of(platform), "worker": who.key}
    (home / "nats.conf").write_text(OLD_CONFIG.format(home=home, port=port, **keys))
    (home / "port").write_text(str(port))
    (home / "workers.json").write_text(f'{{"{who.id}": {{"public_key": "{who.key}", "pool": "gpu"}}}}')
    process = launch(home, root / "said")
    try:
        yield Old(process, f"nats://127.0.0.1:{port}", Credential(platform), Credential(system), who)
    finally:
        process.kill()
        process.wait()


async def test_a_folder_from_before_goes_on_with_its_record_and_its_workers(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with old_server(tmp_path, unused_tcp_port) as old:
        link = await Link.open(old.url, old.platform, "old")
        await streams.ensure(link)
        for number in range(3):
            await JetStreamLog(link).append("evt.pool.gpu", b"%d" % number, number)
        await link.close()
        # Its orphan still runs, with accounts that are not ours: it is replaced.
        async with serving(tmp_path) as server, linked(server, make_streams=True) as ours:
            await until(lambda: old.process.poll() is not None, "the old one ended")
            assert server.url == old.url
            log = JetStreamLog(ours)
            entries = [await log.get("evt.pool.gpu", number) for number in (1, 2, 3)]
            assert [entry and entry.data for entry in entries] == [b"0", b"1", b"2"]
            assert await log.append("evt.pool.gpu", b"3", 3) == 4
            assert server.known() == {old.who.id: WorkerUser(old.who.key, "gpu")}
            assert not await is_refused(server, old.who.with_jwt(server.admit(old.who.id, old.who.key, "gpu")))
            assert await is_refused(server, Credential(old.who.seed))
    async with serving(tmp_path) as server, linked(server) as ours:
        assert await JetStreamLog(ours).last("evt.pool.gpu") == 4


async def test_two_records_are_not_mixed_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True):
        account = server.authority.platform_account
    (tmp_path / "nats/data/jetstream/PLATFORM").mkdir()
    with pytest.raises(NatsServerError, match=f"streams in .*PLATFORM and in .*{account}"):
        await NatsServer(Folder(tmp_path)).start()


async def test_an_external_server_is_reached_with_a_seed_file(tmp_path: Path, unused_tcp_port: int) -> None:
    async with old_server(tmp_path / "server", unused_tcp_port) as old:
        seed, sys_seed = tmp_path / "platform.seed", tmp_path / "sys.seed"
        seed.write_text(old.platform.seed + "\n")
        sys_seed.write_text(old.system.seed)
        settings = Settings(nats_url=old.url, nats_seed_file=str(seed), nats_sys_seed_file=str(sys_seed))
        await check_external(Folder(tmp_path / "hive"), settings)


async def test_an_external_server_is_reached_with_a_creds_file(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as server:
        platform = write_creds(tmp_path / "platform.creds", server.authority.platform)
        system = write_creds(tmp_path / "sys.creds", server.authority.system)
        settings = Settings(nats_url=server.url, nats_seed_file=platform, nats_sys_seed_file=system)
        await check_external(Folder(tmp_path / "hive"), settings)


async def check_external(folder: Folder, settings: Settings) -> None:
    system = await open_system(folder, settings, "test")
    await streams.check_durability(system)
    await system.close()
    link = await open_platform(folder, settings, "test")
    await streams.ensure(link)
    await link.close()


@pytest.mark.parametrize("text", ["", "not a seed", "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------"])
async def test_a_file_without_a_credential_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "who").write_text(text)
    file = str(tmp_path / "who")
    settings = Settings(nats_url="nats://127.0.0.1:1", nats_seed_file=file, nats_sys_seed_file=file)
    with pytest.raises(NoServer, match=r"who is neither a user's seed \(SU\.\.\.\) nor a \.creds file"):
        await open_platform(Folder(tmp_path), settings, "test")


async def test_a_server_that_never_was_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match="no nats-server was ever started"):
        await open_platform(Folder(tmp_path), Settings(), "test")
    assert not (tmp_path / "keys").exists()
