"""What tasks print, from their pipes to the platform: framed, kept until it is safe there, sent by offset.

A frame is `FRAME` (stream 1 stdout, 2 stderr, 0 a mark of ours; length; when, in ms) and its bytes. What is not yet
safe stays in memory while it is little and in a file when it is more; a task is never made to wait.
"""

import asyncio
import hashlib
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from events import protocol
from events.base import JobId
from events.protocol import OUTPUT_PIECE_BYTES_MAX, OUTPUT_PIECES_MAX, Denied, Output, Piece
from events.protocol import Run as RunOrder
from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from worker.state import Key
from worker.voice import Voice

FRAME = struct.Struct(">BIQ")
MARK_STREAM = 0
NOT_WANTED = -1
ATTEMPT_BYTES_MAX = 1024**3
"""Of one attempt's framed output; the rest is cut, and a mark says so."""
SPOOL_BYTES_MAX = 8 * 1024**3
"""Of all output that waits, on disk."""
MEMORY_BYTES_MAX = 64 * 1024
"""Of one attempt in memory."""
MEMORY_TOTAL_MAX = 32 * 1024 * 1024
MESSAGE_BYTES_MAX = 768 * 1024
"""Of the pieces in one message; NATS carries 1 MiB."""
COLLECT_S = 0.02
"""How long output is collected before it is sent, unless a task has ended."""
ANSWER_S = 1.5
RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0
CUT = b"[output cut: this attempt printed more than %d bytes that could be kept]\n"

_log = structlog.get_logger()


class Stream:
    """The output of one attempt. Its bytes from `base` on are in memory, or in the file."""

    __slots__ = ("base", "cut", "ended", "file", "hash", "index", "job", "key", "lost", "memory", "safe", "size")

    def __init__(self, job: JobId, key: Key) -> None:
        self.job, self.key = job, key
        self.index = key[1]
        self.memory = bytearray()
        self.file = -1
        self.base = self.safe = self.size = 0
        self.hash = hashlib.sha256()
        self.cut = self.ended = False
        self.lost = ""
        """Why it cannot be delivered any more."""


class OutputDesk:
    """Takes in output and delivers it. `on_settled(key, digest, size, lost)` once an ended attempt's is safe (or not
    wanted: then the digest is empty; `lost` says so when some of it is lost); `on_round()` after each answer.
    """

    def __init__(
        self,
        folder: Path,
        on_settled: Callable[[Key, str, int, str], None],
        on_round: Callable[[], None],
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        attempt_bytes_max: int = ATTEMPT_BYTES_MAX,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()  # of attempts that ended with an earlier agent: nobody asks for them again
        self._folder, self._on_settled, self._on_round = folder, on_settled, on_round
        self._spool_max, self._attempt_max = spool_bytes_max, attempt_bytes_max
        self._streams: dict[Key, Stream] = {}
        self._pending: dict[Key, Stream] = {}
        self._in_memory = self._sent = 0
        self._spooled = 0
        self._urgent = False
        self._wake = asyncio.Event()
        self._now = asyncio.Event()

    # From the tasks

    def write(self, order: RunOrder, index: int, stream: int, data: bytes) -> None:
        """Keep what a task wrote, to be delivered."""
        key = (order.number, index)
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = Stream(order.job, key)
        if found.cut or found.lost:
            return
        header = FRAME.pack(stream, len(data), time.time_ns() // 1_000_000)
        over_attempt = found.size + len(header) + len(data) > self._attempt_max
        if over_attempt or self._spooled + self._in_memory + len(data) > self._spool_max:
            found.cut = True
            data = CUT % (self._attempt_max if over_attempt else found.size)
            header = FRAME.pack(MARK_STREAM, len(data), time.time_ns() // 1_000_000)
        self._append(found, header + data)
        self._pending[key] = found
        self._wake.set()
        if len(self._pending) >= OUTPUT_PIECES_MAX:
            self._now.set()

    def _append(self, stream: Stream, data: bytes) -> None:
        stream.hash.update(data)
        if stream.file < 0 and (
            len(stream.memory) + len(data) > MEMORY_BYTES_MAX or self._in_memory + len(data) > MEMORY_TOTAL_MAX
        ):
            self._spill(stream)
        if stream.file < 0:
            stream.memory += data
            self._in_memory += len(data)
        else:
            self._to_file(stream, data)
        stream.size += len(data)

    def _spill(self, stream: Stream) -> None:
        path = self._path(stream)
        stream.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        held, stream.memory = stream.memory, bytearray()
        self._in_memory -= len(held)
        self._to_file(stream, held)

    def _to_file(self, stream: Stream, data: bytes | bytearray) -> None:
        at = os.lseek(stream.file, 0, os.SEEK_END)
        view = memoryview(data)
        try:
            while view:
                view = view[os.pwrite(stream.file, view, at + len(data) - len(view)) :]
        except OSError as error:
            # A full disk must not stop the task; its output can no longer be whole.
            stream.lost = f"its output could not be kept on this machine: {error.strerror}"
        self._spooled += len(data)

    def _path(self, stream: Stream) -> Path:
        return self._folder / f"{stream.key[0]}.{stream.key[1]}.out"

    def has(self, key: Key) -> bool:
        """Whether the attempt wrote anything."""
        return key in self._streams

    def end(self, key: Key) -> None:
        """The attempt, which has output, writes no more: `on_settled` follows, maybe at once."""
        stream = self._streams[key]
        stream.ended = True
        if stream.lost or stream.safe >= stream.size:
            self._settle(stream)
        else:
            self._wake.set()
            self._now.set()

    def drop(self, key: Key) -> None:
        """Nobody wants this attempt's output any more."""
        stream = self._streams.get(key)
        if stream is not None and not stream.lost:
            stream.lost = "-"
            self._pending.pop(key, None)
            if stream.ended:
                self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        self._release(stream)
        del self._streams[stream.key]
        self._pending.pop(stream.key, None)
        if stream.lost:
            self._on_settled(stream.key, "", 0, "" if stream.lost == "-" else stream.lost)
        else:
            self._on_settled(stream.key, stream.hash.hexdigest(), stream.size, "")

    def _release(self, stream: Stream) -> None:
        self._in_memory -= len(stream.memory)
        stream.memory = bytearray()
        if stream.file >= 0:
            self._spooled -= stream.size - stream.base
            os.close(stream.file)
            self._path(stream).unlink(missing_ok=True)
            stream.file = -1

    # To the platform

    async def run(self, link: Link, subject: str, session: str, voice: Voice) -> None:
        """Deliver, one message after the other, until cancelled."""
        pause = RETRY_S_MIN
        while True:
            await self._wake.wait()
            await self._collect()
            pieces = self._gather()
            if not pieces:
                self._wake.clear()
                continue
            self._sent += 1
            output = Output(session, pieces, sequence=self._sent)
            try:
                said = (await link.request(subject, protocol.pack(output), ANSWER_S)).data
            except (LinkDown, LinkTimeout, NoResponders):
                body = None
            else:
                body = voice.believed("output", output, said)
            answer = protocol.output_answer_of(body) if body is not None else None
            if answer is None or (isinstance(answer, Denied) and answer.code != "malformed"):
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(RETRY_S_MAX, pause * 2)
                continue
            pause = RETRY_S_MIN
            if isinstance(answer, Denied):
                _log.error("worker.output_refused", why=answer.detail, pieces=len(pieces))
            self._take(pieces, [NOT_WANTED] * len(pieces) if isinstance(answer, Denied) else answer.safe)
            self._on_round()

    async def _collect(self) -> None:
        """Wait a little for more, unless someone waits for this."""
        if not self._now.is_set():
            try:
                async with asyncio.timeout(COLLECT_S):
                    await self._now.wait()
            except TimeoutError:
                pass
        self._now.clear()

    def _gather(self) -> list[Piece]:
        pieces: list[Piece] = []
        room = MESSAGE_BYTES_MAX
        for stream in list(self._pending.values()):
            if stream.lost:
                del self._pending[stream.key]
                continue
            if len(pieces) >= OUTPUT_PIECES_MAX or room <= 0:
                break
            data = self._read(stream, min(OUTPUT_PIECE_BYTES_MAX, room))
            room -= len(data)
            final = stream.ended and stream.safe + len(data) == stream.size
            pieces.append(Piece(stream.key[0], stream.job, stream.index, stream.safe, data, final))
        return pieces

    @staticmethod
    def _read(stream: Stream, most: int) -> bytes:
        at = stream.safe - stream.base
        if stream.file < 0:
            return bytes(stream.memory[at : at + most])
        return os.pread(stream.file, most, at)

    def _take(self, pieces: list[Piece], safe: list[int]) -> None:
        for piece, offset in zip(pieces, safe, strict=False):
            stream = self._streams.get((piece.lease, piece.index))
            if stream is None or stream.lost:
                continue
            if offset <= NOT_WANTED:
                self.drop(stream.key)
                continue
            if offset < stream.base or offset > stream.size:
                stream.lost = f"the platform has {offset} bytes of its output, which does not fit what was sent"
            stream.safe = offset
            self._pending.pop(stream.key, None)
            if stream.lost or stream.safe == stream.size:
                self._settle(stream) if stream.ended else self._delivered(stream)
            else:
                self._pending[stream.key] = stream  # behind the others
                self._now.set()
                self._wake.set()

    def _delivered(self, stream: Stream) -> None:
        """All so far is safe: keep none of it."""
        if stream.file >= 0:
            self._spooled -= stream.size - stream.base
            os.ftruncate(stream.file, 0)
        else:
            self._in_memory -= len(stream.memory)
            stream.memory = bytearray()
        stream.base = stream.size

    def close(self) -> None:
        """Let go of everything."""
        for stream in list(self._streams.values()):
            self._release(stream)
        self._streams.clear()
        self._pending.clear()
