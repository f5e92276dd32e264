"""Output by offset: what is safe, what is skipped, what is cut, and who is woken."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.protocol import Piece
from infra import output_files
from infra.outputs import HEADER, MARK, STDERR, STDOUT, BadOutputName, Outputs, frame, frames

WAIT_S = 20.0
JOB = "jabc234"


@pytest.fixture
async def outputs(tmp_path: Path) -> AsyncIterator[Outputs]:
    made = Outputs(tmp_path / "outputs")
    yield made
    await made.close()


async def whole(outputs: Outputs, index: int = 0, lease: int = 1) -> bytes:
    return await outputs.read(JOB, index, lease, 0, 1 << 30)


def test_frames_come_back() -> None:
    data = frame(STDOUT, 5, b"one") + frame(STDERR, 6, b"") + frame(MARK, 7, b"two")
    assert list(frames(data, 100)) == [
        (STDOUT, 5, b"one", 116),
        (STDERR, 6, b"", 129),
        (MARK, 7, b"two", 145),
    ]


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(0, 400))
def test_reading_on_from_a_cut_misses_nothing(payloads: list[bytes], cut: int) -> None:
    data = b"".join(frame(STDOUT, n, payload) for n, payload in enumerate(payloads))
    first = list(frames(data[:cut]))
    at = first[-1][3] if first else 0
    assert [payload for _, _, payload, _ in first + list(frames(data[at:], at))] == payloads


async def test_appends_in_order(outputs: Outputs) -> None:
    assert await outputs.append(JOB, 0, 1, 0, b"hello ") == 6
    assert await outputs.append(JOB, 0, 1, 6, b"world") == 11
    assert outputs.size(JOB, 0, 1) == 11
    assert await whole(outputs) == b"hello world"
    assert await outputs.read(JOB, 0, 1, 6, 3) == b"wor"
    assert await outputs.read(JOB, 0, 1, 11, 3) == b""
    assert await outputs.read(JOB, 7, 1, 0, 3) == b""


async def test_a_gap_is_not_taken(outputs: Outputs) -> None:
    await outputs.append(JOB, 0, 1, 0, b"12")
    assert await outputs.append(JOB, 0, 1, 3, b"4") == 2
    assert await whole(outputs) == b"12"


async def test_what_is_known_never_changes(outputs: Outputs) -> None:
    await outputs.append(JOB, 0, 1, 0, b"1234")
    assert await outputs.append(JOB, 0, 1, 0, b"xx") == 4
    assert await outputs.append(JOB, 0, 1, 2, b"xx56") == 6
    assert await whole(outputs) == b"123456"


async def test_a_batch_answers_each_piece(outputs: Outputs) -> None:
    pieces = [
        Piece(1, JOB, 0, 0, b"ab"),
        Piece(1, JOB, 1, 0, b"cd"),
        Piece(1, JOB, 0, 2, b"ef"),
        Piece(2, JOB, 0, 9, b"gap"),
        Piece(1, JOB, 0, 0, b"ab"),
    ]
    assert await outputs.append_many(pieces) == [2, 2, 4, 0, 4]
    assert await outputs.append_many([]) == []
    assert await whole(outputs) == b"abef"


async def test_leases_of_a_task(outputs: Outputs) -> None:
    for index, lease in ((1, 30), (1, 4), (11, 5), (1001, 6)):
        await outputs.append(JOB, index, lease, 0, b"x")
    assert await outputs.leases(JOB, 1) == [4, 30]
    assert await outputs.leases(JOB, 1001) == [6]
    assert await outputs.leases(JOB, 2) == []
    assert await outputs.leases("jother", 1) == []


async def test_survives_a_restart(tmp_path: Path) -> None:
    first = Outputs(tmp_path)
    await first.append(JOB, 0, 1, 0, b"before ")
    second = Outputs(tmp_path)  # the first was never closed
    assert second.size(JOB, 0, 1) == 7
    assert await second.append(JOB, 0, 1, 7, b"after") == 12
    assert await whole(second) == b"before after"
    await first.close()
    await second.close()


async def test_more_files_than_may_be_open(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_files, "OPEN_FILES_MAX", 5)
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(3):
        safe = await outputs.append_many([Piece(1, JOB, n, turn, b"x") for n in range(40)])
        assert safe == [turn + 1] * 40
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    assert [await whole(outputs, n) for n in range(40)] == [b"xxx"] * 40


async def test_sealed_takes_nothing_more(outputs: Outputs, tmp_path: Path) -> None:
    assert await outputs.seal(JOB, 0, 1) is None
    await outputs.append(JOB, 0, 1, 0, b"all of it")
    assert not outputs.ended(JOB, 0, 1)
    digest = await outputs.seal(JOB, 0, 1)
    assert digest == hashlib.sha256(b"all of it").hexdigest()
    assert outputs.ended(JOB, 0, 1)
    assert await outputs.append(JOB, 0, 1, 9, b"late") == 13  # the sender may forget it
    assert await outputs.seal(JOB, 0, 1) == digest
    assert await whole(outputs) == b"all of it"
    again = Outputs(tmp_path / "outputs")
    assert again.ended(JOB, 0, 1)
    assert await again.append(JOB, 0, 1, 9, b"late") == 13
    assert await whole(again) == b"all of it"
    await again.close()


@pytest.mark.parametrize("payload", [10, 100, 500])
async def test_too_much_is_cut_at_a_frame_with_a_mark(tmp_path: Path, payload: int) -> None:
    outputs = Outputs(tmp_path, bytes_max=2000)
    data = b"".join(frame(STDOUT, n, bytes([n % 256]) * payload) for n in range(3000 // payload))
    at = 0
    for start in range(0, len(data), 70):
        at = await outputs.append(JOB, 0, 1, start, data[start : start + 70])
        assert at == min(start + 70, len(data))
    assert outputs.size(JOB, 0, 1) <= 2000
    assert outputs.ended(JOB, 0, 1)
    found = list(frames(await whole(outputs)))
    assert found[-1][3] == outputs.size(JOB, 0, 1)
    assert (found[-1][0], found[-1][1]) == (MARK, found[-2][1] if len(found) > 1 else 0)
    assert b"limit of 2000 bytes" in found[-1][2]
    assert [part for _, _, part, _ in found[:-1]] == [bytes([n % 256]) * payload for n in range(len(found) - 1)]
    again = Outputs(tmp_path, bytes_max=2000)
    assert await again.append(JOB, 0, 1, at, b"more") == at + 4
    assert await again.seal(JOB, 0, 1) == hashlib.sha256(await whole(again)).hexdigest()
    await outputs.close()
    await again.close()


async def test_bytes_that_are_no_frames_are_cut_too(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, bytes_max=1000)
    assert await outputs.append(JOB, 0, 1, 0, b"\xff" * 5000) == 5000
    assert [kind for kind, _, _, _ in frames(await whole(outputs))] == [MARK]
    await outputs.close()


async def test_a_failed_write_leaves_what_was_safe(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    await outputs.append(JOB, 0, 1, 0, b"safe")

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(output_files.os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            await outputs.append(JOB, 0, 1, 4, b" lost")
    assert await whole(outputs) == b"safe"
    assert await outputs.append(JOB, 0, 1, 4, b" again") == 10
    assert await whole(outputs) == b"safe again"


async def test_a_follower_wakes_when_bytes_arrive(outputs: Outputs) -> None:
    async with asyncio.timeout(WAIT_S):
        waiting = [asyncio.create_task(outputs.wait_grown(JOB, 0, 1, offset, WAIT_S)) for offset in (0, 0, 3)]
        await asyncio.sleep(0)
        await outputs.append(JOB, 0, 1, 0, b"abc")
        assert await waiting[0]
        assert await waiting[1]
        assert not waiting[2].done()
        await outputs.append(JOB, 0, 1, 3, b"d")
        assert await waiting[2]
        assert await outputs.wait_grown(JOB, 0, 1, 0, 0)


async def test_a_follower_is_told_of_the_end_and_of_time(outputs: Outputs) -> None:
    async with asyncio.timeout(WAIT_S):
        await outputs.append(JOB, 0, 1, 0, b"abc")
        impatient = outputs.wait_grown(JOB, 0, 1, 3, 0.01)
        patient = asyncio.create_task(outputs.wait_grown(JOB, 0, 1, 3, WAIT_S))
        assert not await impatient
        await outputs.seal(JOB, 0, 1)
        assert not await patient
        assert not outputs._grown


@pytest.mark.parametrize(("job", "index"), [("../x", 0), ("", 0), ("a/b", 0), ("J1", 0), ("j1", -1), ("j" * 65, 0)])
async def test_names_are_ids(outputs: Outputs, job: str, index: int) -> None:
    with pytest.raises(BadOutputName):
        await outputs.append(job, index, 1, 0, b"x")
    with pytest.raises(BadOutputName):
        await outputs.read(job, index, 1, 0, 1)


async def test_closed_to_others(outputs: Outputs, tmp_path: Path) -> None:
    await outputs.append(JOB, 0, 1, 0, b"x")
    await outputs.seal(JOB, 0, 1)
    for path in (tmp_path / "outputs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12)), max_size=5), max_size=12)
)
async def test_any_pieces_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int, int]]]
) -> None:
    """Whatever is sent, each file is a prefix of what its attempt printed, and answers are its length."""
    printed = bytes(range(64))
    outputs = Outputs(tmp_path_factory.mktemp("outputs"))
    sizes = [0, 0, 0]
    calls: list[list[Piece]] = []
    wanted: list[list[int]] = []
    for batch in batches:
        calls.append([Piece(1, JOB, index, offset, printed[offset : offset + size]) for index, offset, size in batch])
        answers: list[int] = []
        for index, offset, size in batch:
            if offset <= sizes[index]:
                sizes[index] = max(sizes[index], offset + size)
            answers.append(sizes[index])
        wanted.append(answers)
    assert await asyncio.gather(*(outputs.append_many(call) for call in calls)) == wanted
    for index in range(3):
        assert await whole(outputs, index) == printed[: sizes[index]]
    await outputs.close()


def test_a_header_is_what_the_protocol_says() -> None:
    assert HEADER.size == 13
