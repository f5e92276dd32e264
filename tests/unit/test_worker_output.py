"""What tasks print, on its way to the platform: offsets, bounds, and what happens when some of it cannot be kept."""

import asyncio
import hashlib
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
from worker.output import FRAME, MEMORY_BYTES_MAX, MESSAGE_BYTES_MAX, OutputDesk
from worker.state import Key
from worker.voice import Voice

VOICE = Voice("p", "w1", lambda: signer_of("w1"), lambda: HIVE.public_key, lambda: None)


def order(lease: int) -> Run:
    return Run(lease, "j1", [0, 9], 1, "process", 10, TaskText())


class Far:
    """The platform, as far as output goes."""

    def __init__(self) -> None:
        self.have: dict[Key, bytearray] = {}
        self.failures = 0
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
        if self.failures:
            self.failures -= 1
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
        bench.desk.write(order(1), 0, 1, b"x" * MEMORY_BYTES_MAX)
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    assert len(bench.far.have[1, 0]) == 40 * (MEMORY_BYTES_MAX + FRAME.size)
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


async def test_an_attempt_beyond_its_bound_is_cut_once_with_a_mark(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "out", attempt_bytes_max=1000)
    for _ in range(100):
        bench.desk.write(order(1), 0, 1, b"y" * 100)
    bench.desk.end((1, 0))
    await bench.until_settled(1)
    have = bench.far.have[1, 0]
    assert have.count(b"output cut") == 1
    assert len(have) < 1200
    assert bench.settled[1, 0][2] == ""
    bench.task.cancel()


async def test_what_an_earlier_agent_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.0.out").write_bytes(b"x")
    Bench(tmp_path / "out").task.cancel()
    assert not any((tmp_path / "out").iterdir())
