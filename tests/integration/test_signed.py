"""Who said it: an agent that is answered by somebody else than its hive, and a hive that hears what is not its workers'."""

import base64
from typing import Any

import msgspec
import pytest

from events import catalog, protocol
from events.protocol import Denied, Ended, Hello, Poll, Recorded, Report
from events.worker import Capacity, WorkerReported
from infra import signing, signing_key
from infra.nkey import Signer, new_seed, new_user_seed
from infra.signing_key import Link
from services.accounts.commands import RekeyWorker
from services.pool.voice import UNSIGNED, UNVERIFIED
from tests.integration.test_attacks import Mallory, facts, held, mallory
from tests.nats_support import until
from tests.signing_support import CHAIN, HIVE, opened, said
from tests.web_support import POOL, Api
from tests.worker_support import Rig

__all__ = ["mallory"]

HELLO = Hello("boot", Capacity(0, 0), "test", "nonce")


# What an agent believes


def flipped(data: bytes) -> bytes:
    """One bit of the body is another."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("spoil", [flipped, opened, lambda data: data[:40], lambda data: b""])
async def test_no_order_is_obeyed_that_is_not_as_the_hive_signed_it(rig: Rig, spoil: Any) -> None:
    await rig.start()
    rig.pool.spoil = spoil
    lease = rig.pool.sh("echo done")
    seen = len(rig.pool.polls)
    await rig.pool.until(lambda: len(rig.pool.polls) > seen + 2, "it asks again")
    assert not rig.agent._shell.state.queue
    assert not rig.agent._shell.state.running
    assert rig.agent._voice.doubts
    rig.pool.spoil = lambda data: data
    assert (await rig.pool.ended(lease)).code == 0


async def test_an_order_by_anybody_else_is_not_obeyed_and_the_hives_key_is_asked_for(rig: Rig) -> None:
    await rig.start()
    rig.pool.hive, asked = Signer(new_seed("server")), len(rig.shelf.credentials)
    rig.pool.sh("echo forged")
    await until(lambda: len(rig.shelf.credentials) > asked, "it asks who the hive is")
    assert not rig.agent._shell.state.running
    assert rig.agent._credential.pin.key == HIVE.public_key


async def test_an_answer_that_says_recorded_without_being_the_hives_loses_no_report(rig: Rig) -> None:
    await rig.start()
    rig.pool.spoil = opened
    lease = rig.pool.number()
    report = Report(rig.agent.session, 1, [Ended(lease, "jx", [0, 0])])
    assert rig.agent._voice.believed("report", report, protocol.pack(Recorded("1.1"))) is None
    forged = signing.answered(
        Signer(new_seed("server")), "report", POOL, rig.who.worker, rig.agent.session, 1, protocol.pack(Recorded("1.1"))
    )
    assert rig.agent._voice.believed("report", report, forged) is None


async def test_a_hive_with_another_key_that_the_old_one_vouches_for_is_followed(rig: Rig) -> None:
    await rig.start()
    assert rig.shelf.desk is not None
    after = Signer(new_seed("server"))
    lease = rig.pool.sh("sleep 0.2")
    proof = base64.b64encode(HIVE.sign(signing_key.link_text(HIVE.public_key, after.public_key))).decode()
    rig.shelf.desk._signing = (*CHAIN, Link(after.public_key, proof))
    rig.pool.hive = after
    assert (await rig.pool.ended(lease)).code == 0
    assert rig.agent._credential.pin.key == after.public_key
    assert (rig.root / "keys" / "hive.pub").read_text() == after.public_key
    assert len({session for session, _ in rig.pool.hellos}) == 1, "it is the same session"


async def test_a_hive_with_a_key_that_nothing_leads_to_is_not(rig: Rig) -> None:
    task = await rig.start()
    await rig.kill(task)
    assert rig.shelf.desk is not None
    after = Signer(new_seed("server"))
    rig.shelf.desk._signing, rig.pool.hive = (Link(after.public_key),), after
    hellos = len(rig.pool.hellos)
    task = await rig.start_without_waiting()
    await rig.pool.until(lambda: len(rig.pool.hellos) > hellos + 1, "it greets, and does not believe the answer")
    assert not rig.agent.ready.is_set()
    await until(lambda: "vouched" in rig.agent._credential.said, "it says why")


# What a hive takes


async def told(hive: Api, mallory: Mallory, data: bytes, verb: str = "report") -> Any:
    """The answer to these bytes, signed or not."""
    body = opened(await mallory.ask(verb, data))
    return protocol.poll_answer_of(body) if verb == "next" else protocol.report_answer_of(body)


async def test_a_report_that_its_worker_did_not_sign_changes_nothing_and_is_counted(
    hive: Api, mallory: Mallory
) -> None:
    await mallory.greet()
    before = await facts(hive)
    report = Report("mallory", 1, [])
    body, other = protocol.pack(report), Signer(new_user_seed())
    good = mallory.said(report)
    for data in (
        body,
        said(POOL, mallory.id, report, other),
        said("other", mallory.id, report, mallory.signer),
        said(POOL, "w234567abcdef", report, mallory.signer),
        signing.spoken(mallory.signer, "hello", POOL, mallory.id, body),
        signing.joined(good[2:66], protocol.pack(Report("mallory", 2, []))),
        signing.joined(bytes(64), body),
    ):
        assert await told(hive, mallory, data) == UNVERIFIED
    assert await facts(hive) == before
    assert isinstance(await told(hive, mallory, good), Recorded)
    assert len(await facts(hive)) == len(before) + 1


async def test_a_bit_that_flipped_on_the_way_is_noticed(hive: Api, mallory: Mallory) -> None:
    await mallory.greet()
    before = await facts(hive)
    good = bytearray(mallory.said(Report("mallory", 1, [Ended(1, "jsomething", [0, 0])])))
    for at in (2, 40, 70, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        assert isinstance(await told(hive, mallory, bytes(bad)), Denied)
    assert await facts(hive) == before


async def test_a_hello_that_its_worker_did_not_sign_opens_no_session(hive: Api, mallory: Mallory) -> None:
    async with hive.crew() as crew:
        job = await held(hive, crew, 1)
        poll = Poll("stolen", 1, hello=HELLO)
        # As if whoever has the worker's subject had not its key: the session at work stays.
        forged = said(POOL, crew.worker, poll, mallory.signer)
        answer = (await crew.link.request(f"req.{POOL}.{crew.worker}.next", forged, 5.0)).data
        assert protocol.poll_answer_of(opened(answer)) == UNVERIFIED
        crew.hold.set()
        await until(lambda: crew.reported > 0, "the worker reports")
        _, found = await hive.ask("GET", f"/v1/jobs/{job}")
        assert found["succeeded"] == 1


async def test_a_report_of_a_session_that_is_over_is_refused_however_well_signed(hive: Api, mallory: Mallory) -> None:
    await mallory.greet("one")
    await mallory.greet("two")
    answer = await mallory.report(1, session="one")
    assert isinstance(answer, Denied)
    assert answer.code == "superseded"


async def test_an_agent_of_the_version_before_is_told_so_in_words_that_it_understands(
    hive: Api, mallory: Mallory
) -> None:
    for poll in (Poll("old", 1, hello=HELLO), Poll("old", 2)):
        answer = await mallory.ask("next", protocol.pack(poll))
        assert msgspec.msgpack.decode(answer, type=Denied) == UNSIGNED
    assert "Upgrade" in UNSIGNED.detail


async def test_the_key_that_a_worker_had_opens_nothing(hive: Api, mallory: Mallory) -> None:
    await mallory.greet()
    after = Signer(new_user_seed())
    change = RekeyWorker(mallory.id, mallory.signer.public_key, after.public_key)
    answer = await hive.core.accounts.ask([change], f"worker:{mallory.id}")
    assert await hive.core.access.reached(answer.position, 5)
    before = await facts(hive)
    pool, report = hive.service, Report("mallory", 1, [])
    # Its connection ends as well; what is on its way is as good as what was never sent.
    for signer, changes in ((mallory.signer, False), (after, True)):
        pool._reported(f"req.{POOL}.{mallory.id}.report", "", said(POOL, mallory.id, report, signer))
        if changes:
            await until(lambda: pool.writer.position > before[-1][0], "it is recorded")
        assert (len(await facts(hive)) > len(before)) is changes


async def test_each_recorded_report_is_in_the_archive_under_the_digest_in_the_event(
    hive: Api, mallory: Mallory
) -> None:
    await mallory.greet()
    sent = [mallory.said(Report("mallory", n, [Ended(1, "jx", [0, n])])) for n in range(1, 4)]
    for data in [*sent, sent[0]]:
        assert isinstance(await told(hive, mallory, data), Recorded)
    events = [event for _, data in await facts(hive) for event in catalog.decode(data).events()]
    digests = [event.digest for event in events if isinstance(event, WorkerReported) and event.worker == mallory.id]
    assert digests == [signing.digest_of(opened(data)) for data in sent]
    for digest, data in zip(digests, sent, strict=True):
        found = await hive.core.reports.find(digest)
        assert found is not None
        assert (found.worker, found.key, found.body) == (mallory.id, mallory.signer.public_key, opened(data))
        assert signing.joined(found.signature, found.body) == data
