"""What tasks print, on its way to the platform: offsets, bounds, and what happens when some of it cannot be kept."""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from events import protocol
from events.protocol import OUTPUT_PIECE_BYTES_MAX, OUTPUT_PIECES_MAX, Denied, Output, Run, Stored
from events.spec import TaskText
from infra import signing
from infra.link import LinkTimeout, Reply
from tests.signing_support import HIVE, signer_of
from worker.backlog import FRAME
from worker.output import MESSAGE_BYTES_MAX, OutputDesk
from worker.state import Key
from worker.voice import Voice

VOICE = Voice("p", "w1", lambda: signer_of("w1"), lambda: HIVE.public_key, lambda: None)

WRITE_BYTES = 64 * 1024
"""What is read from a pipe at once."""


def order(lease: int) -> Run:
    return Run(lease, "j1", [0, 9], 1, "process", 10, TaskText())


class Far:
    """The platform, as far as output goes."""

    def __init__(self) -> None:
        self.have: dict[Key, bytearray] = {}
        self.failures = 0
        self.down = False
        self.answer: Callable[[Output], list[int] | Denied] = self.store
        self.messages: list[Output] = []

    def store(self, output: Output) -> list[int]:
        safe: list[int] = []
        for piece in output.pieces:
            have = self.have.setdefault((piece.lease, piece.index), bytearray())
            assert piece.offset == len(have), "a gap or an overlap"
            have += piece.data
            safe.append(len(have))
        return safe

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        output = protocol.output_of(data)
        self.messages.append(output)
        if self.failures or self.down:
            self.failures -= not self.down
            raise LinkTimeout("lost")
        answer = self.answer(output)
        body = protocol.pack(answer if isinstance(answer, Denied) else Stored(answer))
        return Reply(signing.answered(HIVE, "output", "p", "w1", output.session, output.sequence, body), None)


class Bench:
    """A desk with its platform, and what it said of ended attempts."""

    def __init__(self, folder: Path, **bounds: int) -> None:
        self.far = Far()
        self.settled: dict[Key, tuple[str, int, str]] = {}
        self._changed = asyncio.Event()
        self.desk = OutputDesk(folder, self._on_settled, lambda: None, **bounds)
        link: Any = self.far
        self.task = asyncio.get_running_loop().create_task(self.desk.run(link, "out", "s", VOICE))

    def _on_settled(self, key: Key, digest: str, size: int, lost: str) -> None:
        assert key not in self.settled
        self.settled[key] = (digest, size, lost)
        self._changed.set()

    async def until_settled(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.settled) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncGenerator[Bench]:
    bench = Bench(tmp_path / "out")
    yield bench
    bench.task.cancel()
    bench.desk.close()
    assert not any((tmp_path / "out").iterdir())


def framed(stream: int, data: bytes, at: bytearray) -> bool:
    number, length, _ = FRAME.unpack_from(at)
    return (number, length) == (stream, len(data)) and bytes(at[FRAME.size : FRAME.size + length]) == data


async def test_little_output_never_touches_the_disk(bench: Bench, tmp_path: Path) -> None:
    bench.desk.write(order(1), 0, 1, b"hello\n")
    assert not any((tmp_path / "out").iterdir())
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    have = bench.far.have[1, 0]
    assert framed(1, b"hello\n", have)
    assert bench.settled[1, 0] == (hashlib.sha256(have).hexdigest(), len(have), "")
    assert bench.far.messages[-1].pieces[0].final


async def test_much_is_sent_in_bounded_pieces_and_arrives_whole(bench: Bench) -> None:
    for _ in range(40):
        bench.desk.write(order(1), 0, 1, b"x" * WRITE_BYTES)
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert len(bench.far.have[1, 0]) == 40 * (WRITE_BYTES + FRAME.size)
    for message in bench.far.messages:
        assert sum(len(piece.data) for piece in message.pieces) <= MESSAGE_BYTES_MAX
        assert all(len(piece.data) <= OUTPUT_PIECE_BYTES_MAX for piece in message.pieces)


async def test_many_attempts_share_messages(bench: Bench) -> None:
    for index in range(OUTPUT_PIECES_MAX * 2):
        bench.desk.write(order(1), index, 2, b"line\n")
        bench.desk.end((1, index))
    await bench.until_settled(OUTPUT_PIECES_MAX * 2)
    assert max(len(message.pieces) for message in bench.far.messages) <= OUTPUT_PIECES_MAX
    assert len(bench.far.messages) <= 4


async def test_a_lost_answer_sends_it_again(bench: Bench) -> None:
    bench.far.failures = 2
    bench.desk.write(order(1), 0, 1, b"hello\n")
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert framed(1, b"hello\n", bench.far.have[1, 0])


async def test_a_platform_that_took_only_some_gets_the_rest(bench: Bench) -> None:
    whole = bytearray()

    def some(output: Output) -> list[int]:
        (piece,) = output.pieces
        assert piece.offset == len(whole)
        whole.extend(piece.data[:3])
        return [len(whole)]

    bench.far.answer = some
    bench.desk.write(order(1), 0, 1, b"hello\n")
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert framed(1, b"hello\n", whole)


async def test_what_nobody_wants_is_dropped_at_once(bench: Bench) -> None:
    bench.far.answer = lambda output: [-1 for _ in output.pieces]
    bench.desk.write(order(1), 0, 1, b"hello\n")
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert bench.settled[1, 0] == ("", 0, "")


async def test_so_is_what_is_refused(bench: Bench) -> None:
    bench.far.answer = lambda output: Denied("malformed", "no")
    bench.desk.write(order(1), 0, 1, b"hello\n")
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert bench.settled[1, 0] == ("", 0, "")


async def test_a_platform_that_lost_what_it_had_makes_it_lost(bench: Bench) -> None:
    bench.desk.write(order(1), 0, 1, b"first\n")
    async with asyncio.timeout(20):
        while (1, 0) not in bench.far.have:
            await asyncio.sleep(0.005)
    bench.far.answer = lambda output: [1]
    bench.desk.write(order(1), 0, 1, b"second\n")
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    digest, size, lost = bench.settled[1, 0]
    assert (digest, size) == ("", 0)
    assert "1 bytes" in lost


def texts(have: bytes | bytearray) -> list[tuple[int, bytes]]:
    """Stream and bytes of each frame."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(have):
        number, length, _ = FRAME.unpack_from(have, at)
        found.append((number, bytes(have[at + FRAME.size : at + FRAME.size + length])))
        at += FRAME.size + length
    return found


async def test_an_attempt_beyond_its_bound_is_cut_and_its_end_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", attempt_bytes_max=10_000)
    for number in range(10_000):
        bench.desk.write(order(1), 0, 1, b"%099d" % number)
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    found = texts(bench.far.have[1, 0])
    assert [stream for stream, _ in found].count(0) == 2
    cut, left_out = (text for stream, text in found if stream == 0)
    assert b"output cut" in cut
    numbers = [int(text) for stream, text in found if stream == 1]
    head = next(at for at, number in enumerate(numbers) if number != at)
    assert numbers[head:] == list(range(numbers[head], 10_000)), "the end is whole"
    assert (numbers[head] - head) * (99 + FRAME.size) == int(left_out.split()[2])
    assert 64_000 < len(bench.far.have[1, 0]) < 200_000
    assert bench.settled[1, 0][0] == hashlib.sha256(bench.far.have[1, 0]).hexdigest()
    bench.task.cancel()


async def test_while_the_link_is_down_the_oldest_of_the_middle_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.backlog.SEGMENT_BYTES", 10_000)
    monkeypatch.setattr("worker.output.MEMORY_BYTES_MAX", 30_000)
    bench = Bench(tmp_path / "out", spool_bytes_max=100_000)
    bench.far.down = True
    for number in range(10_000):
        bench.desk.write(order(1), 0, 1, b"%099d" % number)
    bench.desk.write(order(2), 0, 1, b"small\n")
    bench.desk.end((2, 0))
    assert bench.desk._in_memory + bench.desk._in_files < 120_000
    bench.far.down = False
    bench.desk.end((1, 0))
    await bench.until_settled(2)
    found = texts(bench.far.have[1, 0])
    (mark,) = (text for stream, text in found if stream == 0)
    assert b"left out here" in mark
    numbers = [int(text) for stream, text in found if stream == 1]
    head = next(at for at, number in enumerate(numbers) if number != at)
    assert head >= 80, "the beginning is there"
    assert numbers[head:] == list(range(numbers[head], 10_000)), "so is the end"
    assert int(mark.split(b"here: ")[1].split()[0]) == (numbers[head] - head) * (99 + FRAME.size)
    assert bench.settled[1, 0][:2] == (hashlib.sha256(bench.far.have[1, 0]).hexdigest(), len(bench.far.have[1, 0]))
    assert texts(bench.far.have[2, 0]) == [(1, b"small\n")]
    assert (bench.desk._in_memory, bench.desk._in_files) == (0, 0)
    bench.task.cancel()


async def test_a_full_disk_leaves_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.output.MEMORY_BYTES_MAX", 1000)

    def full(fd: int, data: bytes, at: int) -> None:
        raise OSError(28, "No space left on device")

    bench = Bench(tmp_path / "out")
    bench.far.down = True
    with monkeypatch.context() as disk:
        disk.setattr("worker.backlog._write", full)
        for number in range(100):
            bench.desk.write(order(1), 0, 1, b"%099d" % number)
    bench.desk.write(order(1), 0, 2, b"after\n")
    bench.far.down = False
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    found = texts(bench.far.have[1, 0])
    assert found[0] == (1, b"%099d" % 0)
    assert sum(b"left out here" in text for stream, text in found if stream == 0) == 1
    assert found[-1] == (2, b"after\n")
    assert bench.settled[1, 0][0] == hashlib.sha256(bench.far.have[1, 0]).hexdigest()
    bench.task.cancel()


async def test_who_runs_next_goes_on_where_it_was(bench: Bench) -> None:
    bench.far.down = True
    bench.desk.write(order(1), 0, 1, b"x" * 1_000_000)
    async with asyncio.timeout(20):
        while not bench.far.messages:
            await asyncio.sleep(0.005)
    bench.task.cancel()
    await asyncio.gather(bench.task, return_exceptions=True)
    bench.far.down = False
    bench.desk.end((1, 0))
    link: Any = bench.far
    bench.task = asyncio.get_running_loop().create_task(bench.desk.run(link, "out", "s2", VOICE))
    await bench.until_settled(1)
    assert texts(bench.far.have[1, 0]) == [(1, b"x" * 1_000_000)]


async def test_progress_travels_with_what_was_printed(bench: Bench) -> None:
    bench.far.failures = 1
    bench.desk.write(order(1), 3, 3, b'{"progress":1}\n')
    bench.desk.progress(order(1), 3, 1, "one")
    bench.desk.progress(order(1), 3, 40, "two")
    bench.desk.end((1, 3))
    await bench.until_settled(1)
    told = bench.far.messages[-1].progress
    assert [(one.lease, one.job, one.index, one.percent, one.text) for one in told] == [(1, "j1", 3, 40, "two")]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_gets_lost_arrives_once_and_in_order(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr("worker.backlog.SEGMENT_BYTES", 5000)
    monkeypatch.setattr("worker.output.MEMORY_BYTES_MAX", 9000)
    monkeypatch.setattr("worker.output.OUTPUT_PIECE_BYTES_MAX", 1000)
    monkeypatch.setattr("worker.output.MESSAGE_BYTES_MAX", 2500)
    monkeypatch.setattr("worker.output.RETRY_S_MIN", 0.001)
    bench = Bench(tmp_path / "out")

    def some(output: Output) -> list[int]:
        """As the platform does: takes what follows on what it has, maybe not all, and says where to go on."""
        safe: list[int] = []
        for piece in output.pieces:
            have = bench.far.have.setdefault((piece.lease, piece.index), bytearray())
            if piece.offset <= len(have):
                new = piece.data[len(have) - piece.offset :]
                have += new[: draw.randint(0, len(new))] if draw.random() < 0.2 else new
            safe.append(len(have))
        if draw.random() < 0.3:
            raise LinkTimeout("its answer was lost")
        return safe

    bench.far.answer = some
    written: dict[int, bytes] = dict.fromkeys(range(4), b"")
    for _ in range(200):
        index, data = draw.randrange(4), draw.randbytes(draw.randint(1, 700))
        written[index] += data
        bench.desk.write(order(1), index, 1, data)
        if draw.random() < 0.2:
            await asyncio.sleep(0)
    for index in range(4):
        bench.desk.end((1, index))
    await bench.until_settled(4)
    for index in range(4):
        have = bench.far.have[1, index]
        assert b"".join(text for _, text in texts(have)) == written[index]
        assert bench.settled[1, index] == (hashlib.sha256(have).hexdigest(), len(have), "")
    bench.task.cancel()


async def test_what_an_earlier_agent_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.0.out").write_bytes(b"x")
    Bench(tmp_path / "out").task.cancel()
    assert not any((tmp_path / "out").iterdir())
