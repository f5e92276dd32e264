"""The embedded nats-server: what survives, who may do what, and what a person is told."""

import asyncio
import json
import os
import re
import signal
import socket
import stat
import time
from pathlib import Path

import psutil
import pytest

from infra import nkey, streams
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link, LinkDown, LinkTimeout
from infra.nats_jwt import read_user
from infra.nats_log import JetStreamLog
from infra.nats_process import NatsServerError
from infra.nats_server import NatsServer
from tests.nats_support import eventually, linked, serving, until, worker_linked


def new_key() -> tuple[str, str]:
    public_key = nkey.public_of(nkey.new_user_seed())
    return nkey.worker_id_of(public_key), public_key


async def test_it_starts_answers_and_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert server.alive()
        async with linked(server) as link:
            assert link.connected
        pid = server.pid
    assert not psutil.pid_exists(pid)


async def test_secrets_and_configuration_are_for_this_user_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True):
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        seeds = {path.name for path in files if path.suffix == ".seed"}
        assert seeds == {
            "nats_operator.seed", "nats_account_sys.seed", "nats_account_platform.seed", "nats_account_workers.seed",
            "nats_worker_signing.seed",
        }  # fmt: skip
        assert {path.name for path in files} >= {"nats.conf", "nats.log"}
        assert [path for path in files if path.stat().st_mode & 0o077] == []
        for name in ("keys", "nats"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
        command = " ".join(psutil.Process(server.pid).cmdline())
        conf = (tmp_path / "nats/nats.conf").read_text()
        for name in seeds:
            seed = (tmp_path / "keys" / name).read_text()
            assert seed not in command + conf + repr(server.authority.platform)


async def test_it_listens_on_this_machine_only_and_apart_from_our_terminal(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
        assert os.getsid(server.pid) != os.getsid(0)


async def test_a_restart_keeps_the_port_the_keys_and_the_record(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        url, operator = server.url, server.authority.operator_key
        async with linked(server, make_streams=True) as link:
            await JetStreamLog(link).append("evt.pool.a", b"1", 0)
    async with serving(tmp_path) as server:
        assert (server.url, server.authority.operator_key) == (url, operator)
        async with linked(server) as link:
            assert await JetStreamLog(link).last("evt.pool.a") == 1


async def test_what_a_killed_hive_left_running_is_adopted(tmp_path: Path) -> None:
    async with serving(tmp_path) as left:
        again = NatsServer(Folder(tmp_path))
        await again.start()
        assert (again.pid, again.url) == (left.pid, left.url)
        assert again.alive()
        await again.revoke(new_key()[1])
        async with linked(again) as link:
            assert link.connected
        await again.stop()
        await until(lambda: not left.alive(), "the adopted server ends")
        assert not again.alive()


async def test_an_orphan_on_another_port_than_wanted_is_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path) as left:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        again = NatsServer(Folder(tmp_path), port=port)
        await again.start()
        assert again.port == port
        assert again.pid != left.pid
        assert not left.alive()
        await again.stop()


async def test_a_pid_file_that_names_someone_else_is_not_believed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        pid = server.pid
    (tmp_path / "nats/nats.pid").write_text(str(os.getpid()))
    async with serving(tmp_path) as server:
        assert server.pid not in (pid, os.getpid())
    (tmp_path / "nats/nats.pid").write_text("not a number")
    async with serving(tmp_path) as server:
        assert server.alive()


async def test_a_taken_port_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NatsServerError, match=rf"port {port} .* taken .* `nats_port` in hive\.toml"):
            await NatsServer(Folder(tmp_path), port=port).start()


async def test_a_killed_server_whose_port_was_taken_meanwhile_is_back_once_it_is_free(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not server.alive(), "the server is dead")
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", server.port))
            thief.listen()
            with pytest.raises(NatsServerError, match="taken"):
                await server.ensure()
            keeper = asyncio.create_task(server.keep())
            await asyncio.sleep(0)
        await until(server.alive, "it is back")
        keeper.cancel()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.directory("nats")
    (tmp_path / "nats/data").write_text("a file where a folder belongs")
    with pytest.raises(
        NatsServerError, match=r"did not start: Can't start JetStream: storage directory is not a directory \(its log: "
    ):
        await NatsServer(folder).start()


async def test_a_killed_server_is_back_on_its_port_and_links_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log, url, pid = JetStreamLog(link), server.url, server.pid
        await log.append("evt.pool.a", b"1", 0)
        keeper = asyncio.create_task(server.keep())
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not link.connected, "the link notices")
        await link.wait_connected()
        assert server.url == url
        assert server.pid != pid
        assert await log.last("evt.pool.a") == 1
        assert await log.append("evt.pool.a", b"2", 1) == 2
        keeper.cancel()


async def test_ensure_leaves_a_living_or_stopped_server_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert await server.ensure() is False
        await server.stop()
        assert await server.ensure() is False
        assert not server.alive()


# Workers


async def test_a_worker_may_use_its_own_subjects(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link, worker_linked(server) as (worker, theirs):
        heard: list[str] = []
        await link.subscribe("req.default.*.next", lambda s, r, d: link.send(r, b"orders for " + s.encode()))
        for subject in ("hb.>", "tok.>"):
            await link.subscribe(subject, lambda s, r, d: heard.append(s))
        await theirs.subscribe(f"push.default.{worker}.>", lambda s, r, d: heard.append(s))
        await theirs.subscribe("push.default.all.>", lambda s, r, d: heard.append(s))
        reply = await theirs.request(f"req.default.{worker}.next", b"", 5)
        assert reply.data == f"orders for req.default.{worker}.next".encode()
        mine = [f"hb.default.{worker}", f"tok.default.{worker}.t1"]
        for subject in mine:
            theirs.send(subject, b"x")
        pushed = [f"push.default.{worker}.nonce.poll", "push.default.all.poll"]
        for subject in pushed:
            link.send(subject, b"")
        await until(lambda: len(heard) >= 4, "all four are heard")
        assert sorted(heard) == sorted(mine + pushed)


async def test_a_worker_may_use_nothing_else(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as server,
        linked(server, make_streams=True) as link,
        worker_linked(server) as (worker, theirs),
        worker_linked(server) as (other, _),
    ):
        await JetStreamLog(link).append("evt.pool.default", b"fact", 0)
        heard: list[str] = []
        reached: list[str] = []
        await link.subscribe(">", lambda s, r, d: reached.append(s) if d == b"forged" else None)
        foreign = (
            f"push.default.{other}.>", "push.>", ">", "evt.>", "_INBOX.>", f"_INBOX_{other}.>", f"req.default.{worker}.next",
            "$SYS.>", "$JS.>", f"push.elsewhere.{worker}.>",
        )  # fmt: skip
        for subject in foreign:
            await theirs.subscribe(subject, lambda s, r, d: heard.append(s))
        forbidden = (
            "evt.pool.default", f"req.default.{other}.next", f"req.elsewhere.{worker}.next", f"hb.default.{other}",
            f"push.default.{other}.nonce.cancel", "cmd.pool.default", "$JS.API.STREAM.DELETE.EVENTS", "$SYS.REQ.SERVER.PING",
            f"req.default.{worker}.next.more", f"_INBOX_{other}.x",
        )  # fmt: skip
        for subject in forbidden:
            theirs.send(subject, b"forged")
        # Reply subjects are not checked by NATS, so they must lead nowhere.
        for reply in ("$JS.API.STREAM.DELETE.EVENTS", "evt.pool.default", "$JS.API.STREAM.PURGE.EVENTS"):
            theirs.send(f"hb.default.{worker}", b"beat", reply)
        await link.subscribe(f"req.default.{worker}.report", lambda s, r, d: link.send(r, b"{}"))
        for reply in ("$JS.API.STREAM.DELETE.EVENTS", "evt.pool.default", "cmd.pool.default"):
            theirs.send(f"req.default.{worker}.report", b"", reply)
        link.send(f"push.default.{other}.nonce.cancel", b"")
        with pytest.raises(LinkTimeout):
            await theirs.request("$JS.API.STREAM.NAMES", b"", 0.3)
        assert reached == []
        assert heard == []
        assert await JetStreamLog(link).last("evt.>") == 1
        await streams.check(link)


async def test_heartbeats_are_kept_in_telemetry(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as server,
        linked(server, make_streams=True) as link,
        worker_linked(server) as (worker, theirs),
    ):
        theirs.send(f"hb.default.{worker}", b"beat")
        kept = JetStreamLog(link, "TELEMETRY")

        async def found() -> bool:
            return await kept.get(f"hb.default.{worker}", 1) is not None

        await eventually(found, "the heartbeat is kept")


async def test_what_cannot_stand_in_a_subject_gets_no_jwt(tmp_path: Path) -> None:
    server = NatsServer(Folder(tmp_path))
    worker_id, public_key = new_key()
    assert read_user(server.admit(worker_id, public_key, "default")).name == worker_id
    with pytest.raises(ValueError, match=r"damaged|not a NATS user's public key"):
        server.admit(worker_id, public_key[:-1] + ("A" if public_key[-1] != "A" else "B"), "default")
    with pytest.raises(ValueError, match="not a NATS user's public key"):
        server.admit(worker_id, 'U" } ] } # ' + "A" * 45, "default")
    for name in ("w1.>", "*", ">", worker_id + "\n", "w{{name()}}"):
        with pytest.raises(ValueError, match="not a worker's id"):
            server.admit(name, public_key, "default")
    for pool in ("a.>", "*", "a b", "A", "a\n", "{{name()}}"):
        with pytest.raises(ValueError, match="not a pool"):
            server.admit(worker_id, public_key, pool)


async def test_a_damaged_list_of_workers_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path):
        pass
    (tmp_path / "nats/workers.json").write_text("{")
    with pytest.raises(NatsServerError, match=r"workers\.json is damaged"):
        await NatsServer(Folder(tmp_path)).start()


async def test_a_stranger_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        with pytest.raises(LinkDown, match="Authorization Violation"):
            await Link.open(server.url, Credential(nkey.new_user_seed()), "stranger")


# Streams and durability


async def test_a_server_that_syncs_always_passes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        link = await Link.open(server.url, server.authority.system, "sys")
        await streams.check_durability(link)
        await link.close()


async def test_a_server_that_acknowledges_early_is_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path, sync_always=False) as server:
        link = await Link.open(server.url, server.authority.system, "sys")
        with pytest.raises(
            streams.UnsafeDurability, match=r"server hive-\S+ .*sync_interval: always.*--unsafe-durability"
        ):
            await streams.check_durability(link)
        await streams.check_durability(link, unsafe=True)
        await link.close()


async def test_durability_cannot_be_asked_by_a_user_outside_sys(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        with pytest.raises(streams.StreamsUnavailable, match="SYS user"):
            await streams.check_durability(link)


async def test_each_setting_that_drifted_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        await streams.ensure(link)
        changed = {**streams.EVENTS_CONFIG, "num_replicas": 1, "max_age": 3600 * streams.SECOND, "max_msgs": 5}
        reply = await link.request("$JS.API.STREAM.UPDATE.EVENTS", json.dumps(changed).encode(), 5)
        assert b"error" not in reply.data
        with pytest.raises(streams.StreamDrift) as caught:
            await streams.ensure(link)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2
        assert re.search(r"EVENTS: `max_msgs` is 5, wanted -1; set it back with `nats stream edit", lines[0])
        assert "`max_age` is 3600000000000, wanted 0" in lines[1]


async def test_the_watch_tells_once_of_a_drift_and_of_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        told: list[str] = []
        watching = asyncio.create_task(streams.watch(link, on_drift=told.append, every_s=0.01))
        for count, limit in enumerate((7, -1), 1):
            changed = {**streams.EVENTS_CONFIG, "num_replicas": 1, "max_msgs": limit}
            await link.request("$JS.API.STREAM.UPDATE.EVENTS", json.dumps(changed).encode(), 5)
            await until(lambda count=count: len(told) >= count, "the watch tells")
        assert "`max_msgs` is 7" in told[0]
        assert told[1:] == [""]
        watching.cancel()


async def test_nobody_can_delete_from_the_record(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        log = JetStreamLog(link)
        await log.append("evt.pool.a", b"fact", 0)
        for subject, body in (
            ("$JS.API.STREAM.PURGE.EVENTS", b""),
            ("$JS.API.STREAM.MSG.DELETE.EVENTS", b'{"seq": 1}'),
        ):
            assert b"error" in (await link.request(subject, body, 5)).data
        assert await log.last("evt.pool.a") == 1


async def test_a_clock_that_is_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as server, linked(server, make_streams=True) as link:
        await streams.check_clock(link)
        now = time.time
        monkeypatch.setattr(streams.time, "time", lambda: now() - 60)
        with pytest.raises(streams.ClockOff, match=r"60 s behind .*set the clock"):
            await streams.check_clock(link)
