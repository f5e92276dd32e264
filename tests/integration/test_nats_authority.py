"""Who the embedded nats-server lets in: JWTs, shutting out, and folders and servers that came before."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from infra import nats_authority, nats_jwt, nats_server
from infra.credential import Credential
from infra.folder import Folder
from infra.link import Link
from infra.nats_authority import EVERYONE, WORKER_JWT_S, WORKER_SUBSCRIPTIONS_MAX, Authority
from infra.nats_jwt import read_user
from infra.nats_process import NatsServerError, launch
from infra.nats_server import NatsServer
from infra.nkey import Signer, new_seed
from tests.nats_support import Who, is_refused, linked, new_worker, serving, until

POOL = "default"


@contextlib.asynccontextmanager
async def connected(server: NatsServer, who: Who, jwt: str) -> AsyncGenerator[Link]:
    link = await Link.open(server.url, who.with_jwt(jwt), who.id, f"_INBOX_{who.id}")
    try:
        yield link
    finally:
        await link.close()


# Shutting out


async def test_a_revoked_worker_is_disconnected_and_neither_its_jwt_nor_an_older_one_lets_it_in(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as platform:
        bad, good = new_worker(), new_worker()
        older, jwt = server.admit(bad.id, bad.key, POOL), server.admit(bad.id, bad.key, POOL)
        parked: list[str] = []
        await platform.subscribe("req.default.*.next", lambda s, r, d: parked.append(r))
        async with (
            connected(server, bad, jwt) as theirs,
            connected(server, good, server.admit(good.id, good.key, POOL)) as ours,
        ):
            waiting = asyncio.ensure_future(ours.request(f"req.default.{good.id}.next", b"", 20))
            await until(lambda: bool(parked), "a poll is parked")
            await server.revoke(bad.key)
            await until(lambda: theirs.refused, "the revoked worker is refused")
            assert await is_refused(server, bad.with_jwt(jwt))
            assert await is_refused(server, bad.with_jwt(older))
            # Nobody else notices: not even an answer that was waited for is lost.
            platform.send(parked[0], b"orders")
            assert (await waiting).data == b"orders"
            assert platform.connected


async def test_who_is_taken_in_again_comes_in_with_a_new_jwt_and_not_with_an_old_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        who = new_worker()
        old = server.admit(who.id, who.key, POOL)
        await server.revoke(who.key)
        async with connected(server, who, server.admit(who.id, who.key, POOL)) as link:
            assert link.connected
        assert await is_refused(server, who.with_jwt(old))
        other = new_worker()._replace(id=who.id)
        async with connected(server, other, server.admit(who.id, other.key, POOL)) as link:
            assert link.connected


async def test_a_revocation_holds_over_kill_9_and_restarts(tmp_path: Path) -> None:
    who = new_worker()
    async with serving(tmp_path) as server:
        jwt = server.admit(who.id, who.key, POOL)
        await server.revoke(who.key)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not server.alive(), "the server is dead")
        # Not by us, as an init system would: the file that it starts from has it too.
        again = launch(tmp_path / "nats", tmp_path / "said")
        await until(lambda: server.port in listening(again.pid), "it listens")
        assert await is_refused(server, who.with_jwt(jwt))
        again.kill()
        again.wait()
        await server.ensure()
        assert await is_refused(server, who.with_jwt(jwt))
    async with serving(tmp_path) as server:
        assert await is_refused(server, who.with_jwt(jwt))


def listening(pid: int) -> list[int]:
    """Ports on which a process listens."""
    with contextlib.suppress(psutil.Error):
        return [c.laddr.port for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    return []


async def test_who_is_revoked_while_the_server_is_dead_is_refused_when_it_is_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        who = new_worker()
        jwt = server.admit(who.id, who.key, POOL)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not server.alive(), "the server is dead")
        await server.revoke(who.key)
        await server.ensure()
        assert await is_refused(server, who.with_jwt(jwt))


async def test_what_a_server_that_hangs_did_not_take_it_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_server, "ANSWER_S", 0.2)
    async with serving(tmp_path) as server:
        who = new_worker()
        async with connected(server, who, server.admit(who.id, who.key, POOL)) as theirs:
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(NatsServerError, match="did not take what was changed"):
                await server.revoke(who.key)
            os.kill(server.pid, signal.SIGCONT)
            monkeypatch.undo()
            keeper = asyncio.create_task(server.keep())
            await until(lambda: theirs.refused, "it is told by its keeper")
            keeper.cancel()


async def test_what_a_killed_hive_wrote_and_did_not_tell_is_told_by_the_next(tmp_path: Path) -> None:
    async with serving(tmp_path) as left:
        who = new_worker()
        async with connected(left, who, left.admit(who.id, who.key, POOL)) as theirs, linked(left) as platform:
            left.authority.revoke(who.key)
            assert theirs.connected
            again = NatsServer(Folder(tmp_path))
            again.authority._clock = lambda: time.time() + 5  # what it says was issued in another second
            await again.start()
            assert again.pid == left.pid
            await until(lambda: theirs.refused, "the revoked worker is refused")
            assert platform.connected
            await again.stop()


async def test_a_hundred_are_shut_out_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, contextlib.AsyncExitStack() as stack:
        them = [new_worker() for _ in range(100)]
        links = [
            await stack.enter_async_context(connected(server, who, server.admit(who.id, who.key, POOL))) for who in them
        ]
        await asyncio.gather(*(server.revoke(who.key) for who in them))
        await until(lambda: all(link.refused for link in links), "all are refused")


async def test_more_than_can_be_named_means_everybody_asks_for_a_new_jwt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_authority, "REVOCATIONS_MAX", 3)
    async with serving(tmp_path) as server:
        good, bad = new_worker(), [new_worker() for _ in range(4)]
        old = server.admit(good.id, good.key, POOL)
        jwts = [server.admit(who.id, who.key, POOL) for who in bad]
        for who in bad:
            await server.revoke(who.key)
        assert await is_refused(server, good.with_jwt(old))
        assert [await is_refused(server, who.with_jwt(jwt)) for who, jwt in zip(bad, jwts, strict=True)] == [True] * 4
        assert not await is_refused(server, good.with_jwt(server.admit(good.id, good.key, POOL)))


def test_a_revocation_is_kept_as_long_as_a_jwt_can_live(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    authority = Authority(Folder(tmp_path), lambda: now[0])
    who = new_worker()
    authority.revoke(who.key)
    now[0] += WORKER_JWT_S
    assert who.key in revocations(authority)
    assert who.key in revocations(Authority(Folder(tmp_path), lambda: now[0]))
    now[0] += WORKER_JWT_S
    assert revocations(authority) == {}


def revocations(authority: Authority) -> dict[str, int]:
    authority.workers_account_jwt()
    return authority._revoked


def test_a_worker_gets_no_jwt_that_would_outlive_its_revocation(tmp_path: Path) -> None:
    who = new_worker()
    with pytest.raises(ValueError, match="86400 s at most"):
        Authority(Folder(tmp_path)).worker_jwt(who.id, who.key, POOL, int(time.time()) + 2 * WORKER_JWT_S)


def test_a_damaged_list_of_revocations_is_named(tmp_path: Path) -> None:
    Folder(tmp_path).directory("nats")
    (tmp_path / "nats/revocations.json").write_text("{")
    with pytest.raises(NatsServerError, match=r"revocations\.json is damaged"):
        Authority(Folder(tmp_path))
    assert EVERYONE == "*"


# JWTs that are not what they should be


async def test_forged_borrowed_and_widened_jwts_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        authority, now = server.authority, int(time.time())
        who, other = new_worker(), new_worker()
        stranger = Signer(new_seed("account"))
        forged = nats_jwt.scoped_user_jwt(
            stranger, authority.workers_account, who.key, who.id, (f"pool:{POOL}",), now, now + 60
        )
        own_account = nats_jwt.user_jwt(stranger, who.key, who.id, now, now + 60)
        over = nats_jwt.scoped_user_jwt(
            authority._worker_key, authority.workers_account, who.key, who.id, (f"pool:{POOL}",), now - 60, now - 1
        )
        in_platform = nats_jwt.scoped_user_jwt(
            authority._worker_key, authority.platform_account, who.key, who.id, (f"pool:{POOL}",), now, now + 60
        )
        head, body, signature = server.admit(who.id, who.key, POOL).split(".")
        changed = f"{head}.{body[:-6]}{'AAAAAA' if body[-6:] != 'AAAAAA' else 'BBBBBB'}.{signature}"
        widened = nats_jwt.user_jwt(authority._worker_key, who.key, who.id, now, now + 60)
        for jwt in (forged, own_account, over, in_platform, changed, widened, server.admit(other.id, other.key, POOL)):
            assert await is_refused(server, who.with_jwt(jwt))
        assert not await is_refused(server, who.with_jwt(server.admit(who.id, who.key, POOL)))


async def test_a_worker_has_a_bounded_number_of_subscriptions(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        who = new_worker()
        async with connected(server, who, server.admit(who.id, who.key, POOL)) as link:
            for number in range(WORKER_SUBSCRIPTIONS_MAX):
                await link.subscribe(f"push.default.{who.id}.{number}", lambda s, r, d: None)
            await until(lambda: "maximum subscriptions" in link.last_error, "the server says so")


# Links


async def test_a_link_comes_back_with_the_newest_jwt_when_its_own_is_over(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        who, now = new_worker(), int(time.time())
        jwts = [server.authority.worker_jwt(who.id, who.key, POOL, now + 2)]
        link = await Link.open(server.url, Credential(who.seed, lambda: jwts[-1]), who.id, f"_INBOX_{who.id}")
        states: list[bool] = []
        link.on_state(states.append)
        await until(lambda: link.refused, "it is over")
        assert read_user(jwts[0]).exp == now + 2
        jwts.append(server.admit(who.id, who.key, POOL))
        await until(lambda: states == [False, True], "it is back")
        await link.close()


async def test_a_link_without_a_jwt_yet_is_refused_and_goes_on_when_there_is_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        who, jwts = new_worker(), [""]
        credential, inbox = Credential(who.seed, lambda: jwts[-1]), f"_INBOX_{who.id}"
        link = await Link.open(server.url, credential, who.id, inbox, wait_s=0)
        await until(lambda: link.refused, "it says so")
        jwts.append(server.admit(who.id, who.key, POOL))
        await until(lambda: link.connected, "it is let in")
        await link.close()
