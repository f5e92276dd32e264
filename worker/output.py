"""What tasks print, from their pipes to the platform: framed, kept until it is safe there, sent by offset.

A frame is `FRAME` (stream 1 stdout, 2 stderr, 3 what a task emits, 0 a mark of ours; length; when, in ms) and its bytes.
What is not yet safe stays in memory while it is little and in files when it is more; a task is never made to wait. When
there is no room the oldest of the middle is left out (`worker.backlog`), and what one attempt may print has a bound.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from events import protocol
from events.base import JobId
from events.protocol import OUTPUT_PIECE_BYTES_MAX, OUTPUT_PIECES_MAX, Asked, Denied, Output, Piece, Progress, Verb
from events.protocol import Run as RunOrder
from infra.link import LinkDown, LinkTimeout, NoResponders, Reply
from worker.backlog import MARK_STREAM, Backlog, Tail, frame
from worker.state import Key

NOT_WANTED = -1
ATTEMPT_BYTES_MAX = 1024**3 - 1024**2
"""Of one attempt's framed output; of the rest the end is kept, and marks say so. The platform takes 1 GiB."""
SPOOL_BYTES_MAX = 8 * 1024**3
"""Of all output that waits."""
MEMORY_BYTES_MAX = 4 * 1024 * 1024
"""Of one attempt in memory."""
MEMORY_TOTAL_MAX = 32 * 1024 * 1024
TAIL_BYTES = 64 * 1024
MESSAGE_BYTES_MAX = 768 * 1024
"""Of the pieces in one message; NATS carries 1 MiB."""
MESSAGES_MAX = 3
"""On their way at a time; more than one only for attempts that print more than a piece a round trip."""
COLLECT_S = 0.02
"""How long output is collected before it is sent, unless a task has ended."""
ANSWER_S = 1.5
RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0
CUT = "[output cut: this attempt printed more than %d bytes; the last of it follows when it has ended]\n"
END = "[output cut: %d bytes are left out here; the last of it follows]\n"

_log = structlog.get_logger()


class Stream:
    """The output of one attempt. `next`: from where to send on; `safe`: up to where the platform has it."""

    __slots__ = ("backlog", "ended", "flying", "index", "job", "key", "lost", "next", "safe", "tail")

    def __init__(self, job: JobId, key: Key, backlog: Backlog) -> None:
        self.job, self.key, self.backlog = job, key, backlog
        self.index = key[1]
        self.next = self.safe = 0
        self.flying = 0
        """Pieces of it on their way."""
        self.tail: Tail | None = None
        """What comes after the cut."""
        self.ended = False
        self.lost = ""
        """Why it cannot be delivered any more."""

    def done(self) -> bool:
        """Whether all of it is safe."""
        return self.safe >= self.backlog.size


class Requests(Protocol):
    """A link to the platform, as far as output needs one."""

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        """As `infra.link.Link.request`."""
        ...


class Believes(Protocol):
    """Tells the platform's answers from others'."""

    def believed(self, verb: Verb, asked: Asked, data: bytes) -> bytes | None:
        """As `worker.voice.Voice.believed`."""
        ...


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
        self._progress: dict[Key, Progress] = {}
        self._in_memory = self._in_files = self._said = 0
        self._wake = asyncio.Event()
        self._now = asyncio.Event()

    # From the tasks

    def write(self, order: RunOrder, index: int, stream: int, data: bytes) -> None:
        """Keep what a task wrote, to be delivered."""
        key = (order.number, index)
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = Stream(order.job, key, Backlog(lambda n: self._path(key, n)))
        if found.lost:
            return
        framed = frame(stream, data)
        if found.tail is None and found.backlog.size + len(framed) > self._attempt_max:
            found.tail = Tail(TAIL_BYTES)
            self._append(found, frame(MARK_STREAM, (CUT % self._attempt_max).encode()))
        if found.tail is not None:
            found.tail.add(framed)
            return
        self._append(found, framed)

    def progress(self, order: RunOrder, index: int, percent: int, text: str) -> None:
        """Tell how far an attempt has come, with what it wrote."""
        self._progress[order.number, index] = Progress(order.number, order.job, index, percent, text)

    def _append(self, stream: Stream, framed: bytes) -> None:
        backlog = stream.backlog
        before = (backlog.in_memory, backlog.in_files)
        memory = (
            backlog.in_memory + len(framed) <= MEMORY_BYTES_MAX
            and self._in_memory + len(framed) <= MEMORY_TOTAL_MAX
            and not backlog.in_files
        )
        if self._in_memory + self._in_files + len(framed) > self._spool_max and not self._make_room():
            backlog.leave_out(len(framed))
        else:
            before = (backlog.in_memory, backlog.in_files)
            try:
                backlog.append(framed, memory)
            except OSError as error:
                # A full disk must not stop the task.
                _log.warning("worker.output_not_kept", why=error.strerror, bytes=len(framed))
                backlog.leave_out(len(framed))
        self._count(backlog, before)
        self._pending[stream.key] = stream
        self._wake.set()
        if len(self._pending) >= OUTPUT_PIECES_MAX or backlog.size - stream.next >= OUTPUT_PIECE_BYTES_MAX:
            self._now.set()

    def _make_room(self) -> bool:
        """Leave out the oldest of the middle of what waits most; whether there was anything."""
        most = max(self._streams.values(), key=lambda stream: stream.backlog.size - stream.safe)
        before = (most.backlog.in_memory, most.backlog.in_files)
        dropped = most.backlog.drop_middle()
        self._count(most.backlog, before)
        return dropped > 0

    def _count(self, backlog: Backlog, before: tuple[int, int]) -> None:
        self._in_memory += backlog.in_memory - before[0]
        self._in_files += backlog.in_files - before[1]

    def _path(self, key: Key, number: int) -> str:
        return f"{self._folder}/{key[0]}.{key[1]}.{number}.out"

    def has(self, key: Key) -> bool:
        """Whether the attempt wrote anything."""
        return key in self._streams

    def end(self, key: Key) -> None:
        """The attempt, which has output, writes no more: `on_settled` follows, maybe at once."""
        stream = self._streams[key]
        stream.ended = True
        if stream.tail is not None and not stream.lost:
            if stream.tail.left_out:
                self._append(stream, frame(MARK_STREAM, (END % stream.tail.left_out).encode()))
            for framed in stream.tail.frames():
                self._append(stream, framed)
        if stream.backlog.left_out and not stream.lost:
            self._append(stream, frame(MARK_STREAM, b""))  # the mark of what is left out goes before it
        if stream.lost or (stream.done() and not stream.flying):
            self._settle(stream)
        else:
            self._pending[key] = stream
            self._wake.set()
            self._now.set()

    def drop(self, key: Key) -> None:
        """Nobody wants this attempt's output any more."""
        stream = self._streams.get(key)
        if stream is not None and not stream.lost:
            self._lose(stream, "-")

    def _lose(self, stream: Stream, why: str) -> None:
        stream.lost = why
        self._pending.pop(stream.key, None)
        self._release(stream)
        if stream.ended:
            self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        self._release(stream)
        del self._streams[stream.key]
        self._pending.pop(stream.key, None)
        self._progress.pop(stream.key, None)
        if stream.lost:
            self._on_settled(stream.key, "", 0, "" if stream.lost == "-" else stream.lost)
        else:
            self._on_settled(stream.key, stream.backlog.digest(), stream.backlog.size, "")

    def _release(self, stream: Stream) -> None:
        before = (stream.backlog.in_memory, stream.backlog.in_files)
        stream.backlog.close()
        self._count(stream.backlog, before)

    # To the platform

    async def run(self, link: Requests, subject: str, session: str, voice: Believes) -> None:
        """Deliver until cancelled. What is on its way then is sent again by the next to run."""
        senders = [asyncio.ensure_future(self._send(link, subject, session, voice)) for _ in range(MESSAGES_MAX)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    async def _send(self, link: Requests, subject: str, session: str, voice: Believes) -> None:
        """Deliver, one message after the other."""
        pause = RETRY_S_MIN
        while True:
            await self._wake.wait()
            await self._collect()
            pieces = self._gather()
            if not pieces:
                self._wake.clear()
                continue
            told = [self._progress.pop(key) for key in list(self._progress)[:OUTPUT_PIECES_MAX]]
            self._said += 1
            output = Output(session, pieces, told, self._said)
            answer = None
            try:
                said = (await link.request(subject, protocol.pack(output), ANSWER_S)).data
                if (body := voice.believed("output", output, said)) is not None:
                    answer = protocol.output_answer_of(body)
            except (LinkDown, LinkTimeout, NoResponders):
                pass
            finally:
                self._landed(pieces, again=answer is None or not isinstance(answer, protocol.Stored))
            if answer is None or (isinstance(answer, Denied) and answer.code != "malformed"):
                for one in told:
                    self._progress.setdefault((one.lease, one.index), one)
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
            if len(pieces) >= OUTPUT_PIECES_MAX or room <= 0:
                break
            waits = stream.backlog.size - stream.next
            if stream.flying and waits < OUTPUT_PIECE_BYTES_MAX:
                continue  # its answer is on its way: then there will be more to send at once
            while room > 0 and len(pieces) < OUTPUT_PIECES_MAX:
                data = stream.backlog.read(stream.next, min(OUTPUT_PIECE_BYTES_MAX, room))
                if not data:
                    break
                room -= len(data)
                final = stream.ended and stream.next + len(data) == stream.backlog.size
                pieces.append(Piece(stream.key[0], stream.job, stream.index, stream.next, data, final))
                stream.next += len(data)
                stream.flying += 1
            # Behind the others, if there is more.
            del self._pending[stream.key]
            if stream.next < stream.backlog.size:
                self._pending[stream.key] = stream
        if self._pending and pieces:
            self._wake.set()
            if any(stream.backlog.size - stream.next >= OUTPUT_PIECE_BYTES_MAX for stream in self._pending.values()):
                self._now.set()
        return pieces

    def _landed(self, pieces: list[Piece], again: bool) -> None:
        """The message with these is not on its way any more; send them `again`, or see what the answer says."""
        for piece in pieces:
            stream = self._streams.get((piece.lease, piece.index))
            if stream is None:
                continue
            stream.flying -= 1
            if again and not stream.lost:
                stream.next = min(stream.next, max(piece.offset, stream.safe))
                self._pending[stream.key] = stream
                self._wake.set()

    def _take(self, pieces: list[Piece], safe: list[int]) -> None:
        for piece, offset in zip(pieces, safe, strict=False):
            stream = self._streams.get((piece.lease, piece.index))
            if stream is None or stream.lost:
                continue
            if offset <= NOT_WANTED:
                self.drop(stream.key)
                continue
            if offset < stream.backlog.base or offset > stream.backlog.sent:
                why = f"the platform has {offset} bytes of its output, which does not fit what was sent"
                self._lose(stream, why)
                continue
            if offset < piece.offset + len(piece.data):
                stream.next = min(stream.next, max(offset, stream.safe))  # it did not take all
            if offset > stream.safe:
                stream.safe = offset
                stream.next = max(stream.next, offset)
                before = (stream.backlog.in_memory, stream.backlog.in_files)
                stream.backlog.advance(offset)
                self._count(stream.backlog, before)
            if stream.done() and stream.ended and not stream.flying:
                self._settle(stream)
            elif stream.next < stream.backlog.size:
                self._pending[stream.key] = stream
                self._wake.set()
                if stream.ended:
                    self._now.set()

    def close(self) -> None:
        """Let go of everything."""
        for stream in list(self._streams.values()):
            self._release(stream)
        self._streams.clear()
        self._pending.clear()
