"""A hostile worker, with a real credential, against the real server and the real service of its pool: whatever it
sends, no stream changes, no other worker is reached, no fact is forged, and the others are served.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import pytest

from events import catalog, protocol
from events.base import runs_of
from events.protocol import Asked, Denied, Ended, Hello, Orders, Output, Piece, Poll, Recorded, Report
from events.worker import Capacity
from infra import nkey, streams
from infra.credential import Credential
from infra.link import Link, LinkDown, LinkTimeout
from infra.nats_authority import WORKER_PAYLOAD_BYTES_MAX
from infra.nats_log import JetStreamLog
from infra.nkey import Signer
from tests.knocking import knock
from tests.nats_support import linked, until, worker_linked
from tests.signing_support import opened, said
from tests.web_support import POOL, Api, Crew
from tests.worker_support import Rig

BAD_CONNECTIONS = 2000
ANSWER_S = 10.0
STREAM_API = (
    "$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.DELETE.TELEMETRY", "$JS.API.STREAM.PURGE.TELEMETRY", "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS", "$JS.API.STREAM.CREATE.MINE",
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": f"evt.pool.{POOL}"},
    {"Nats-TTL": "1"},
    {"Nats-Incr": "1"},
    {"Nats-Msg-Id": "theirs"},
    {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-Expected-Last-Subject-Sequence-Subject": "evt.>"},
)


class Mallory(NamedTuple):
    """A worker that was let in and means harm."""

    id: str
    link: Link
    signer: Signer

    def said(self, asked: Asked) -> bytes:
        """What it sends, signed with its own key."""
        return said(POOL, self.id, asked, self.signer)

    async def ask(self, verb: str, data: bytes) -> bytes:
        """The platform's answer."""
        return (await self.link.request(f"req.{POOL}.{self.id}.{verb}", data, ANSWER_S)).data

    async def greet(self, session: str = "mallory") -> None:
        """Open a session, with nothing to offer."""
        hello = Hello("boot", Capacity(0, 0), "test", "nonce")
        with contextlib.suppress(LinkTimeout):
            await self.link.request(f"req.{POOL}.{self.id}.next", self.said(Poll(session, 1, hello=hello)), 1.0)

    async def report(self, sequence: int, *items: Ended, session: str = "mallory") -> Recorded | Denied:
        """The answer to a report."""
        answer = await self.ask("report", self.said(Report(session, sequence, list(items))))
        return protocol.report_answer_of(opened(answer))


@pytest.fixture
async def mallory(hive: Api) -> AsyncGenerator[Mallory]:
    """Let in like any other."""
    seed = nkey.new_user_seed()
    status, answer = await hive.ask("POST", "/v1/workers", json={"public_key": nkey.public_of(seed), "name": "m"})
    assert status == 201, answer
    worker = answer["worker"]
    jwt = hive.nats.admit(worker, nkey.public_of(seed), POOL)
    link = await Link.open(hive.nats.url, Credential(seed, lambda: jwt), worker, f"_INBOX_{worker}")
    yield Mallory(worker, link, Signer(seed))
    await link.close()


async def facts(hive: Api) -> list[tuple[int, bytes]]:
    """The whole record."""
    log = JetStreamLog(hive.link)
    last, found = await log.last("evt.>"), list[tuple[int, bytes]]()
    async with contextlib.aclosing(log.read("evt.>", 1)) as reader:
        async for batch in reader:
            found += ((entry.position, entry.data) for entry in batch)
            if not batch or found[-1][0] >= last:
                break
    return found


async def telemetry(hive: Api) -> int:
    """How many messages TELEMETRY holds."""
    answer = json.loads((await hive.link.request("$JS.API.STREAM.INFO.TELEMETRY", b"", ANSWER_S)).data)
    return int(answer["state"]["messages"])


async def served(hive: Api, count: int = 3) -> None:
    """Submit a job and see it done; fail when it is not, within a while."""
    status, answer = await hive.ask("POST", "/v1/jobs", json={"kind": "noop", "count": count})
    assert status == 201, answer
    await done(hive, answer["jobs"][0]["job"])


async def done(hive: Api, job: str) -> dict[str, Any]:
    """The job, once it is over."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            _, found = await hive.ask("GET", f"/v1/jobs/{job}")
            if found["state"] in ("succeeded", "failed", "cancelled"):
                return found
            await asyncio.sleep(0.01)


# The network


async def test_a_reply_subject_changes_no_stream_and_reaches_nobody(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        await served(hive)
        before = await facts(hive)
        heard: list[str] = []
        await crew.link.subscribe(f"push.{POOL}.{crew.worker}.>", lambda s, r, d: heard.append(s))
        targets = (
            *STREAM_API, f"evt.pool.{POOL}", f"cmd.pool.{POOL}", f"req.{POOL}.{crew.worker}.report", "hb.x.y",
            f"push.{POOL}.{crew.worker}.guessed.cancel", "$SYS.REQ.SERVER.PING", f"_INBOX_{crew.worker}.guessed",
        )  # fmt: skip
        for reply in targets:
            for verb in ("next", "report", "output", "anything"):
                mallory.link.send(f"req.{POOL}.{mallory.id}.{verb}", b"{}", reply)
            mallory.link.send(f"hb.{POOL}.{mallory.id}", b"+ACK", reply)
            mallory.link.send(f"tok.{POOL}.{mallory.id}.t", b"+ACK", reply)
        await mallory.ask("report", b"")
        await streams.check(hive.link)
        names = json.loads((await hive.link.request("$JS.API.STREAM.NAMES", b"", ANSWER_S)).data)["streams"]
        assert sorted(names) == ["EVENTS", "TELEMETRY"]
        assert await facts(hive) == before
        # A subject that is known can be reached by an answer of the platform, whose bytes are not Mallory's; what an
        # agent listens to has its session's nonce in it.
        assert {subject for subject in heard if "guessed" not in subject} == set()
        await served(hive)


async def test_an_answer_sent_on_to_all_workers_is_no_order_to_them(at_work: Rig) -> None:
    agent, heard = at_work.agent, list[bytes]()
    async with linked(at_work.server) as platform, worker_linked(at_work.server) as (worker, link):
        await platform.subscribe(f"req.{POOL}.{worker}.next", lambda s, r, d: platform.send(r, b"an answer"))
        await link.subscribe(f"push.{POOL}.all.>", lambda s, r, d: heard.append(d))
        link.send(f"req.{POOL}.{worker}.next", b"", f"push.{POOL}.all.poll")
        await until(lambda: heard == [b"an answer"], "it is reflected")
        assert agent._link._client is not None
        await agent._link._client.flush()
        assert agent._pushed_at == 0.0
        platform.send(f"push.{POOL}.all.poll", b"")
        await until(lambda: agent._pushed_at > 0.0, "the platform is obeyed")


async def test_headers_that_command_a_stream_do_nothing(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        await served(hive)
        hive.link.send(f"hb.{POOL}.{crew.worker}", b"beat")

        before, beats = await facts(hive), await telemetry(hive)
        for headers in HEADERS:
            for subject in (f"hb.{POOL}.{mallory.id}", f"req.{POOL}.{mallory.id}.report", f"tok.{POOL}.{mallory.id}.t"):
                mallory.link.send(subject, b"x", f"evt.pool.{POOL}", dict(headers))
        await mallory.ask("report", b"")
        await crew.link.publish(f"hb.{POOL}.{crew.worker}", b"beat", headers={"Nats-Msg-Id": "theirs"})
        assert await facts(hive) == before
        assert await telemetry(hive) >= beats
        await streams.check(hive.link)
        await served(hive)


async def test_no_other_subject_can_be_published_to_or_listened_to(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        other, heard, reached = crew.worker, list[str](), list[bytes]()
        await hive.link.subscribe(">", lambda s, r, d: reached.append(d))
        forbidden = (
            f"evt.pool.{POOL}", f"cmd.pool.{POOL}", f"req.{POOL}.{other}.report", f"req.other.{mallory.id}.next",
            f"req.{POOL}.{mallory.id}.next.more", f"req.{POOL}.{mallory.id}", f"hb.{POOL}.{other}",
            f"tok.{POOL}.{other}.t", f"push.{POOL}.{other}.n.cancel", f"push.{POOL}.all.poll", f"lead.pool.{POOL}",
            f"_INBOX_{other}.x", f"_INBOX_{mallory.id}.x", "$JS.ACK.EVENTS.x.1.1.1.1.1", "$SYS.REQ.ACCOUNT.PING.CONNZ",
            *STREAM_API,
        )  # fmt: skip
        for subject in forbidden:
            for headers in (None, {"Nats-Msg-Id": "x"}):
                mallory.link.send(subject, b"forged by mallory", headers=headers)
        listened = (
            ">", "*.>", "evt.>", "$JS.>", "$SYS.>", "_INBOX.>", f"_INBOX_{other}.>", f"push.{POOL}.{other}.>", "push.>",
            f"push.{POOL}.*.>", "req.>", f"req.{POOL}.{other}.*", f"req.{POOL}.{mallory.id}.*", "hb.>", "_R_.>",
        )  # fmt: skip
        for subject in listened:
            with contextlib.suppress(LinkDown):
                await mallory.link.subscribe(subject, lambda s, r, d: heard.append(s))
        await served(hive)
        hive.link.send(f"push.{POOL}.{other}.n.cancel", b"")
        await mallory.ask("report", b"")
        assert b"forged by mallory" not in reached
        assert heard == []


# What it says


async def test_a_report_for_another_workers_attempt_changes_nothing(hive: Api, mallory: Mallory) -> None:
    await mallory.greet()
    async with hive.crew() as crew:
        job = await held(hive, crew, 3)
        lease = crew.orders[0].number
        forged = Ended(lease, job, [0, 2], "exit", 0)
        answer = await mallory.report(1, forged, Ended(lease + 1000, job, [0, 0]), Ended(lease, "jnothing", [0, 0]))
        assert isinstance(answer, Recorded)
        output = Output("mallory", [Piece(lease, job, 0, 0, b"forged", final=True)])
        assert protocol.output_answer_of(opened(await mallory.ask("output", mallory.said(output)))) == protocol.Stored(
            [-1]
        )
        _, found = await hive.ask("GET", f"/v1/jobs/{job}")
        assert (found["succeeded"], found["failed"], found["leased"] + found["running"]) == (0, 0, 3)
        crew.hold.set()
        assert (await done(hive, job))["succeeded"] == 3


async def held(hive: Api, crew: Crew, count: int) -> str:
    """A job whose tasks the crew has, and keeps until `crew.hold.set()`."""
    crew.hold.clear()
    _, answer = await hive.ask("POST", "/v1/jobs", json={"kind": "noop", "count": count})
    await until(lambda: sum(run.tasks[1] - run.tasks[0] + 1 for run in crew.orders) == count, "the crew has them")
    return answer["jobs"][0]["job"]


async def test_a_replayed_report_counts_once(hive: Api) -> None:
    async with hive.crew(ends=lambda run, index: 1) as crew:
        job = await held(hive, crew, 2)
        run = crew.orders[0]
        report = crew.said(Report("session", 1, [Ended(run.number, job, runs_of([0]), "exit", 0)]))
        for _ in range(5):
            answer = (await crew.link.request(f"req.{POOL}.{crew.worker}.report", report, ANSWER_S)).data
            assert isinstance(protocol.report_answer_of(opened(answer)), Recorded)
        _, found = await hive.ask("GET", f"/v1/jobs/{job}")
        assert (found["succeeded"], found["failed"]) == (1, 0)
        ended = [
            event
            for _, data in await facts(hive)
            for decision in catalog.decode(data).decisions
            for event in decision.events
            if type(event).__name__ == "TasksFinished"
        ]
        assert len(ended) == 1


async def test_another_workers_session_cannot_be_used(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        job = await held(hive, crew, 1)
        taken = await mallory.report(2, Ended(crew.orders[0].number, job, [0, 0]), session="session")
        assert isinstance(taken, Denied)
        await mallory.greet("session")
        await mallory.report(1, Ended(crew.orders[0].number, job, [0, 0]), session="session")
        _, found = await hive.ask("GET", f"/v1/jobs/{job}")
        assert found["succeeded"] == 0
        crew.hold.set()
        assert (await done(hive, job))["succeeded"] == 1


async def test_what_is_malformed_is_refused_and_the_others_are_served(hive: Api, mallory: Mallory) -> None:
    nested = b"\x91" * 100_000
    junk = [
        b"",
        b"\x00",
        b"{}",
        nested,
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        *(os.urandom(300) for _ in range(50)),
    ]
    ints = (-1, 2**31, 2**62, -(2**63))
    polls = [Poll("s" * 100_000, 1), *(Poll("s", n, n, n, n, Hello("b", Capacity(n, n), "v", "n")) for n in ints)]
    reports = [
        *(Report("mallory", n + 2, [Ended(n, "j" * 50_000, [0, 0])]) for n in range(3)),
        *(Report("mallory", 50, [Ended(1, "j", [n, n])]) for n in ints),
        *(Report("mallory", 60, [Ended(1, "j", runs)]) for runs in ([], [0], [5, 1], [0, 2**62], [0] * 20_000)),
        *(Report("mallory", n, []) for n in ints),
    ]
    async with hive.crew():
        await mallory.greet()
        for data in [*junk, *map(protocol.pack, polls), *map(mallory.said, [*polls, *reports])]:
            for subject in ("req.{}.{}.next", "req.{}.{}.report", "req.{}.{}.output", "req.{}.{}.odd", "hb.{}.{}"):
                mallory.link.send(subject.format(POOL, mallory.id), data)
        async with asyncio.timeout(ANSWER_S):
            answer = b""  # so much at once is too much: not all of it is answered
            while not answer:
                with contextlib.suppress(LinkTimeout):
                    answer = (await mallory.link.request(f"req.{POOL}.{mallory.id}.report", b"odd", 0.2)).data
        assert isinstance(protocol.report_answer_of(answer), Denied)
        await served(hive)


async def test_what_is_too_large_ends_its_own_connection_only(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        states: list[bool] = []
        crew.link.on_state(states.append)
        mallory.link.send(f"hb.{POOL}.{mallory.id}", b"x" * (WORKER_PAYLOAD_BYTES_MAX + 1))
        await until(lambda: "maximum payload" in mallory.link.last_error, "the server hangs up on it")
        await served(hive)
        assert states == []


async def test_others_are_served_while_thousands_knock_in_vain(hive: Api) -> None:
    async with hive.crew() as crew:
        states: list[bool] = []
        crew.link.on_state(states.append)
        knocking = asyncio.create_task(knock(hive.nats, BAD_CONNECTIONS))
        rounds = 0
        while not knocking.done():
            await served(hive, 1)
            rounds += 1
        ended = await knocking
        assert rounds > 1
        assert ended.total() == BAD_CONNECTIONS
        assert ended["let in"] == 0
        assert ended["refused"] > BAD_CONNECTIONS / 2
        assert states == []


async def test_who_floods_is_told_then_put_out_for_a_while_and_the_others_are_served(
    hive: Api, mallory: Mallory
) -> None:
    data = mallory.said(Report("mallory", 1, [Ended(1, "jnothing", [0, 0])]))
    poll = mallory.said(Poll("mallory", 1))
    told: list[str] = []

    def heard(subject: str, reply: str, data: bytes) -> None:
        answer = protocol.report_answer_of(opened(data))
        told.append(answer.code if isinstance(answer, Denied) else "")

    inbox = mallory.link.new_inbox()
    await mallory.link.subscribe(inbox, heard)
    async with hive.crew() as crew:
        states: list[bool] = []
        crew.link.on_state(states.append)
        with contextlib.suppress(LinkDown):
            async with asyncio.timeout(ANSWER_S):
                while True:
                    for _ in range(500):
                        mallory.link.send(f"req.{POOL}.{mallory.id}.report", data, inbox)
                        mallory.link.send(f"req.{POOL}.{mallory.id}.next", poll)
                    await mallory.link.publish(f"hb.{POOL}.{mallory.id}", b"")
                    await asyncio.sleep(0)
        await until(lambda: mallory.link.refused, "it is disconnected, and its JWT does not let it in again")
        assert "slow_down" in told
        await served(hive)
        assert states == []


async def test_a_few_too_many_are_told_to_wait_and_nobody_is_put_out(hive: Api, mallory: Mallory) -> None:
    await mallory.greet()
    hello = mallory.said(Poll("mallory", 2, hello=Hello("boot", Capacity(0, 0), "test", "nonce")))
    told = [protocol.poll_answer_of(opened(await mallory.ask("next", hello)))]
    while not isinstance(told[-1], Denied):
        told.append(protocol.poll_answer_of(opened(await mallory.ask("next", hello))))
    assert told[0] == Orders([])
    assert told[-1].code == "slow_down"
    assert isinstance(await mallory.report(1), Recorded)
    assert mallory.link.connected


async def test_who_was_let_go_is_out_for_good_with_what_it_has(hive: Api, mallory: Mallory) -> None:
    status, _ = await hive.ask("DELETE", f"/v1/workers/{mallory.id}")
    assert status in (200, 204)
    await until(lambda: mallory.link.refused, "it is disconnected, and its JWT does not let it in again")
    with pytest.raises(LinkDown):
        await mallory.link.request(f"req.{POOL}.{mallory.id}.report", b"", 1)


async def test_the_only_orders_are_the_platforms(hive: Api, mallory: Mallory) -> None:
    """What a worker that asks as another would get: nothing, not even an answer."""
    async with hive.crew() as crew:
        poll = mallory.said(Poll("session", 99, hello=Hello("boot", Capacity(64_000, 2**36), "test", "nonce")))
        with pytest.raises(LinkTimeout):
            await mallory.link.request(f"req.{POOL}.{crew.worker}.next", poll, 0.3)
        orders = protocol.poll_answer_of(opened(await mallory.ask("next", mallory.said(Poll("unknown", 1)))))
        assert orders == Orders([], resync=True)
        await served(hive)
