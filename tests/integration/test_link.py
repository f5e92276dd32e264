"""The link: what fails, when, and what comes back."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from infra.link import DATA_BYTES_MAX, UNSENT_BYTES_MAX, Link, LinkDown, LinkTimeout, NoResponders
from infra.nats_server import NatsServer
from tests.nats_support import linked, serving, until


async def restart(server: NatsServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: not server.alive(), "the server is dead")
    await server.ensure()


def unsent(link: Link) -> int:
    """Bytes that wait for the socket."""
    client = link._client
    assert client is not None
    return client.unsent


async def test_requests_are_answered_each_with_its_own_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, "a") as one, linked(server, "b") as two:
        await one.subscribe("echo.*", lambda s, r, d: one.send(r, d, headers={"From": s}))
        replies = await asyncio.gather(*[two.request(f"echo.{n}", b"%d" % n, 10) for n in range(500)])
        assert [reply.data for reply in replies] == [b"%d" % n for n in range(500)]
        assert replies[7].headers == {"From": "echo.7"}


async def test_messages_arrive_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, "a") as one, linked(server, "b") as two:
        got: list[int] = []
        await one.subscribe("n", lambda s, r, d: got.append(int(d)))
        for n in range(5000):
            if n % 2:
                two.send("n", b"%d" % n)
            else:
                await two.publish("n", b"%d" % n)
        await until(lambda: len(got) == 5000, "all arrive")
        assert got == list(range(5000))


async def test_nobody_there_and_no_answer_are_told_apart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        with pytest.raises(NoResponders, match="nobody listens on nowhere"):
            await link.request("nowhere", b"", 5)
        await link.subscribe("silent", lambda s, r, d: None)
        with pytest.raises(LinkTimeout, match=r"silent within 0\.05 s"):
            await link.request("silent", b"", 0.05)


async def test_what_waits_fails_at_once_when_the_server_dies(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        asked: list[bytes] = []
        states: list[bool] = []
        link.on_state(states.append)
        await link.subscribe("silent", lambda s, r, d: asked.append(d))
        waiting = [asyncio.ensure_future(link.request("silent", b"", 60)) for _ in range(10)]
        await until(lambda: len(asked) == 10, "all are asked")
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(2):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, LinkDown) for result in results)
        assert states == [False]
        with pytest.raises(LinkDown, match="not connected"):
            link.send("x", b"")
        with pytest.raises(LinkDown):
            await link.request("x", b"", 1)


async def test_subscriptions_survive_the_server_and_ended_ones_stay_ended(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        kept: list[bytes] = []
        ended: list[bytes] = []
        later: list[bytes] = []
        await link.subscribe("n", lambda s, r, d: kept.append(d))
        subscription = await link.subscribe("n", lambda s, r, d: ended.append(d))
        subscription.close()
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not link.connected, "the link notices")
        await link.subscribe("n", lambda s, r, d: later.append(d))
        await server.ensure()
        await link.wait_connected()
        link.send("n", b"1")
        await until(lambda: bool(kept and later), "both hear it")
        assert (kept, ended, later) == ([b"1"], [], [b"1"])


async def test_it_comes_back_again_and_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        states: list[bool] = []
        link.on_state(states.append)
        await link.subscribe("echo", lambda s, r, d: link.send(r, d))
        for n in range(3):
            await restart(server)
            await until(lambda n=n: states[2 * n :] == [False, True], "down, then up")
            assert (await link.request("echo", b"x", 5)).data == b"x"


async def test_a_server_that_hangs_is_noticed_and_the_link_closes_all_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        link = await Link.open(server.url, server.authority.platform, "test")
        await link.subscribe("silent", lambda s, r, d: None)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(LinkTimeout):
            await link.request("silent", b"", 0.1)
        async with asyncio.timeout(8):
            await link.close()


async def test_a_callback_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        got: list[bytes] = []

        def callback(subject: str, reply: str, data: bytes) -> None:
            if data == b"bad":
                raise RuntimeError("a bug")
            got.append(data)

        await link.subscribe("n", callback)
        for data in (b"bad", b"good"):
            link.send("n", data)
        await until(lambda: got == [b"good"], "the next is delivered")


async def test_a_message_that_is_too_large_is_refused_here(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        with pytest.raises(ValueError, match=f"has {DATA_BYTES_MAX + 1} bytes"):
            link.send("n", b"x" * (DATA_BYTES_MAX + 1))
        assert link.connected


async def test_a_flood_waits_for_room_instead_of_filling_memory(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        await link.subscribe("echo", lambda s, r, d: link.send(r, d))
        most = 0
        for _ in range(2 * UNSENT_BYTES_MAX // DATA_BYTES_MAX):
            await link.publish("nobody.listens", b"x" * DATA_BYTES_MAX)
            most = max(most, unsent(link))
        assert most < 2 * DATA_BYTES_MAX
        # Everything went out, in order, or this would not come after it.
        assert (await link.request("echo", b"after", 20)).data == b"after"


async def test_what_is_no_subject_is_not_sent(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        for subject in ("", "a b", "a..b", "a\r\nPUB x 0"):
            with pytest.raises(ValueError, match="not a subject"):
                link.send(subject, b"")
            if subject:
                with pytest.raises(ValueError, match="not a subject"):
                    link.send("a", b"", reply=subject)
        assert link.connected


async def test_what_is_no_subject_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        for subject in ("", "a b", "a..b", "a.", "a\r\nPUB x 0"):
            with pytest.raises(ValueError, match="not a subject"):
                await link.subscribe(subject, lambda s, r, d: None)
        assert link.connected


async def test_who_does_not_wait_is_refused_when_too_much_is_unsent(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server) as link:
        with pytest.raises(LinkDown, match="wait to be sent already"):
            for _ in range(2 * UNSENT_BYTES_MAX // DATA_BYTES_MAX):
                link.send("n", b"x" * DATA_BYTES_MAX)
        assert unsent(link) < UNSENT_BYTES_MAX + 2 * DATA_BYTES_MAX


async def test_opening_says_why_it_failed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        url, seed = server.url, server.authority.platform
    with pytest.raises(LinkDown, match=f"no NATS at {url} for test: .*[Cc]onnect"):
        await Link.open(url, seed, "test", wait_s=0.2)


async def test_an_unconnected_link_connects_when_the_server_comes(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        url, seed = server.url, server.authority.platform
    link = await Link.open(url, seed, "early", wait_s=0)
    assert not link.connected
    async with serving(tmp_path):
        async with asyncio.timeout(10):
            await link.wait_connected()
        await link.close()
    with pytest.raises(LinkDown, match="closed"):
        await link.wait_connected()
    with pytest.raises(LinkDown):
        link.send("x", b"")


async def test_closing_ends_those_who_wait_for_a_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        url, seed = server.url, server.authority.platform
    link = await Link.open(url, seed, "test", wait_s=0)
    waiting = asyncio.ensure_future(link.wait_connected())
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(LinkDown, match="closed"):
        await waiting


async def test_what_was_sent_before_closing_arrives(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, linked(server, "a") as one:
        got: list[bytes] = []
        await one.subscribe("n", lambda s, r, d: got.append(d))
        two = await Link.open(server.url, server.authority.platform, "b")
        for n in range(1000):
            two.send("n", b"%d" % n)
        await two.close()
        await until(lambda: len(got) == 1000, "all arrive")
