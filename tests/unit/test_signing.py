"""Signed messages, the keys that sign them, and the archive of what was signed."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import protocol
from events.protocol import Denied, Hello, Orders, Poll, Recorded, Report
from events.worker import Capacity
from infra import signing, signing_key
from infra.folder import Folder
from infra.nkey import BadKey, Signer, new_seed, new_user_seed
from infra.report_archive import SEGMENT_BYTES_MAX, Record, ReportArchive
from infra.signing_key import CHAIN_MAX, BadChain, Link, SigningKey, follow
from services.pool.voice import Voice as PoolVoice
from tests.signing_support import HIVE, heard, said, signer_of, voice
from worker.pin import Pin
from worker.voice import Voice

HELLO = Poll("s1", 1, hello=Hello("boot", Capacity(1000, 2**30), "1", "nonce"))
REPORT = Report("s1", 1, [])


def test_what_a_worker_signed_counts_for_it_in_its_pool_and_as_what_it_is() -> None:
    signed = signing.split(said("p", "w1", REPORT))
    assert signed is not None
    pool = voice("p")
    assert pool.signer_of("w1", "report", signed) == signer_of("w1").public_key
    assert not pool.refused
    assert not pool.signer_of("w2", "report", signed)
    assert not pool.signer_of("w1", "hello", signed)
    assert not voice("other").signer_of("w1", "report", signed)
    assert pool.refused == {"w2": 1, "w1": 1}


def test_a_worker_that_nobody_knows_or_that_has_a_damaged_key_is_not_heard() -> None:
    signed = signing.split(said("p", "w1", REPORT))
    assert signed is not None
    for key in ("", "U" * 56, "damaged", HIVE.public_key):
        assert not PoolVoice("p", HIVE, lambda worker, key=key: key).signer_of("w1", "report", signed)


@given(st.data())
def test_no_bit_of_a_signed_message_can_be_changed(data: st.DataObject) -> None:
    sent = said("p", "w1", REPORT)
    at = data.draw(st.integers(0, len(sent) * 8 - 1))
    flipped = bytearray(sent)
    flipped[at // 8] ^= 1 << at % 8
    signed = signing.split(bytes(flipped))
    assert signed is None or not voice("p").signer_of("w1", "report", signed)


@given(st.integers(0, 200))
def test_a_message_that_is_cut_short_is_not_signed(length: int) -> None:
    sent = said("p", "w1", REPORT)[:length]
    signed = signing.split(sent)
    assert signed is None or sent == said("p", "w1", REPORT) or not voice("p").signer_of("w1", "report", signed)


def believer(hive: str = HIVE.public_key) -> tuple[Voice, list[str]]:
    doubts: list[str] = []
    return Voice("p", "w1", lambda: signer_of("w1"), lambda: hive, lambda: doubts.append("")), doubts


def test_an_answer_is_good_for_its_question_alone() -> None:
    answer = voice("p").say("next", "w1", HELLO, Orders())
    agent, doubts = believer()
    assert agent.believed("next", HELLO, answer) == protocol.pack(Orders())
    assert heard("p", "w1", HELLO, answer) == Orders()
    assert not doubts
    for verb, asked in (
        ("next", Poll("s1", 2)), ("next", Poll("s2", 1)), ("report", HELLO), ("output", HELLO),
    ):  # fmt: skip
        assert agent.believed(verb, asked, answer) is None  # pyright: ignore[reportArgumentType]
    others = voice("p").say("next", "w2", HELLO, Orders()), voice("q").say("next", "w1", HELLO, Orders())
    assert all(agent.believed("next", HELLO, other) is None for other in others)
    assert len(doubts) == 6


def test_nobody_but_the_hive_is_believed() -> None:
    mallory = Signer(new_seed("server"))
    forged = PoolVoice("p", mallory, lambda worker: "").say("next", "w1", HELLO, Orders())
    worker = PoolVoice("p", signer_of("w2"), lambda worker: "").say("next", "w1", HELLO, Orders())
    agent, doubts = believer()
    for data in (forged, worker, protocol.pack(Orders()), protocol.pack(Denied("superseded", "")), b"", b"\xc1\x01"):
        assert agent.believed("next", HELLO, data) is None
    assert len(doubts) == 6
    unpinned, doubts = believer("")
    assert unpinned.believed("next", HELLO, voice("p").say("next", "w1", HELLO, Orders())) is None
    assert doubts


def test_being_told_to_slow_down_needs_no_signature_and_raises_no_doubt() -> None:
    agent, doubts = believer()
    assert agent.believed("report", REPORT, protocol.pack(Denied("slow_down", ""))) is None
    assert not doubts


# The platform's key


def test_the_key_of_a_folder_stays_and_another_is_vouched_for_by_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = SigningKey.of(folder)
    assert SigningKey.of(folder).chain == first.chain == (Link(first.signer.public_key),)
    assert (tmp_path / "keys" / signing_key.NAME).stat().st_mode & 0o777 == 0o600
    keys = [first.signer.public_key, signing_key.rotate(folder), signing_key.rotate(folder)]
    now = SigningKey.of(folder)
    assert [link.key for link in now.chain] == keys
    assert now.signer.public_key == keys[-1]
    for pinned in ("", *keys):
        assert follow(pinned, now.chain) == keys[-1]


def test_the_chain_ends_somewhere(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = SigningKey.of(folder).signer.public_key
    for _ in range(CHAIN_MAX):
        signing_key.rotate(folder)
    chain = SigningKey.of(folder).chain
    assert len(chain) == CHAIN_MAX
    assert follow(chain[0].key, chain) == chain[-1].key
    with pytest.raises(BadChain, match="join again"):
        follow(first, chain)


def test_no_other_key_is_taken_for_the_hives(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    pinned = SigningKey.of(folder).signer.public_key
    mallory = Signer(new_seed("server"))
    claim = signing_key.link_text(pinned, mallory.public_key)
    forged = base64.b64encode(mallory.sign(claim)).decode()
    for chain in (
        (Link(mallory.public_key),),
        (Link(pinned), Link(mallory.public_key)),
        (Link(pinned), Link(mallory.public_key, forged)),
        (Link(pinned), Link(mallory.public_key, "no base64")),
        (),
    ):
        with pytest.raises(BadChain):
            follow(pinned, chain)
    assert follow(pinned, (Link(mallory.public_key), Link(pinned))) == pinned


def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    SigningKey.of(folder)
    (tmp_path / "keys" / signing_key.NAME).write_text('{"seed":"SN","chain":[]}')
    with pytest.raises(BadKey, match="restore it"):
        SigningKey.of(folder)


def test_a_worker_keeps_the_key_and_follows_the_chain_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "hive")
    first = SigningKey.of(folder)
    Pin(tmp_path / "w").follow(first.chain)
    assert Pin(tmp_path / "w").key == first.signer.public_key
    with pytest.raises(BadChain):
        Pin(tmp_path / "w").follow(SigningKey.new().chain)
    signing_key.rotate(folder)
    pin = Pin(tmp_path / "w")
    pin.follow(SigningKey.of(folder).chain)
    assert pin.key == Pin(tmp_path / "w").key == SigningKey.of(folder).signer.public_key
    (tmp_path / "w" / "keys" / "hive.pub").write_text("nothing")
    with pytest.raises(BadKey, match="delete it"):
        Pin(tmp_path / "w")


# The archive

SIGNER = Signer(new_user_seed())
ROOM = 64 * 1024 * 1024


def report(n: int, size: int = 10) -> tuple[Record, str]:
    body = protocol.pack(Report("s" * size, n, []))
    digest = signing.digest_of(body)
    return Record(n, "p", "w1", SIGNER.public_key, b"x" * 64, body), digest


async def test_what_was_taken_in_is_found_also_by_the_next_process(tmp_path: Path) -> None:
    archive = ReportArchive(tmp_path, ROOM)
    records = [report(n) for n in range(100)]
    for record, digest in records:
        archive.add(record, digest)
    for record, digest in records:
        assert archive.has(digest)
        assert await archive.find(digest) == record
    assert await archive.find("0" * 64) is None
    # Killed here: nothing is closed.
    after = ReportArchive(tmp_path, ROOM)
    await tidied(after)
    assert [await after.find(digest) for _, digest in records] == [record for record, _ in records]
    assert not after.has(records[0][1])


async def tidied(archive: ReportArchive) -> None:
    """Do what `run` does at its start."""
    archive._tidy(archive._full)
    archive._full = []


async def test_a_torn_end_costs_what_is_torn(tmp_path: Path) -> None:
    archive = ReportArchive(tmp_path, ROOM)
    records = [report(n) for n in range(3)]
    for record, digest in records:
        archive.add(record, digest)
    archive.close()
    (segment,) = tmp_path.glob("*.open")
    segment.write_bytes(segment.read_bytes()[:-5])
    after = ReportArchive(tmp_path, ROOM)
    await tidied(after)
    assert [await after.find(digest) for _, digest in records] == [records[0][0], records[1][0], None]


async def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    archive = ReportArchive(tmp_path, 2 * SEGMENT_BYTES_MAX)
    noise = [Record(n, "p", "w1", "U", b"", os.urandom(2**20)) for n in range(64)]
    for record in noise:
        archive.add(record, signing.digest_of(record.body))
    await tidied(archive)
    found = [await archive.find(signing.digest_of(record.body)) for record in noise]
    assert found[-1] == noise[-1]
    assert found[0] is None
    assert found == [None] * found.count(None) + noise[found.count(None) :]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * SEGMENT_BYTES_MAX


async def test_of_none_nothing_is_kept(tmp_path: Path) -> None:
    archive = ReportArchive(tmp_path / "no", 0)
    record, digest = report(1)
    archive.add(record, digest)
    await archive.run()
    assert await archive.find(digest) is None
    assert not (tmp_path / "no").exists()


def test_a_recorded_answer_is_for_its_report() -> None:
    answer = voice("p").say("report", "w1", REPORT, Recorded("1.7"))
    assert heard("p", "w1", REPORT, answer) == Recorded("1.7")
