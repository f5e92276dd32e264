"""What attempts print: one file an attempt, appended by offset, on the disk before it is acknowledged.

A file is a sequence of frames: stream (0 mark, 1 stdout, 2 stderr, 3 what a task emits), length, time in ms since 1970 as `>BIQ`, then the
bytes. Offsets count the file's bytes, headers included; a piece may begin and end anywhere. Files lie at
`<root>/<2 characters of the job>/<job>/<index // 1000>/<index>-<lease>.out`; beside one, `.end` says that nothing more
is taken: the digest of the whole (sealed), or `cut`, when the attempt printed more than it may; and `.now` how far it says
that it has come.

All batches that arrive while one is being written go to the disk together, in one thread, with one fsync a file.
"""

import asyncio
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from events.base import Digest, JobId
from events.protocol import Piece, Progress
from infra.output_files import Key, OutputFiles
from infra.threads import in_thread

OUTPUT_BYTES_MAX = 1024**3
"""Of one attempt, frame headers included."""
PENDING_BYTES_MAX = 64 * 1024**2
"""Given to `append_many` and not on the disk yet; more waits for its turn."""
READ_BYTES_MAX = 8 * 1024**2
"""Of one `read`."""

MARK, STDOUT, STDERR, EMIT = STREAMS = 0, 1, 2, 3
HEADER = struct.Struct(">BIQ")

_JOB = re.compile(r"[a-z0-9]{3,64}\Z")


def frame(stream: int, at_ms: int, payload: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(stream, len(payload), at_ms) + payload


def frames(data: bytes, offset: int = 0) -> Iterator[tuple[int, int, bytes, int]]:
    """(stream, at_ms, payload, next_offset) of each complete frame in `data`, which starts at `offset` of its file.

    Read on from the last next_offset. A frame larger than one read needs a larger read.
    """
    at, size, header = 0, len(data), HEADER.size
    while at + header <= size:
        stream, length, at_ms = HEADER.unpack_from(data, at)
        start = at + header
        at = start + length
        if at > size:
            return
        yield stream, at_ms, data[start:at], offset + at


def begins_frame(data: bytes) -> bool:
    """Whether `data`, read from an offset on, can be the beginning of a frame, or of one that is not whole yet."""
    if len(data) < HEADER.size:
        return not data or data[0] in STREAMS
    stream, length, _ = HEADER.unpack_from(data)
    return stream in STREAMS and length <= READ_BYTES_MAX


class BadOutputName(ValueError):
    """Not an id of ours, so no name of a file."""


class Outputs:
    """The outputs in the folder `root`, which is made if it is missing. Use it from one event loop."""

    def __init__(self, root: Path, bytes_max: int = OUTPUT_BYTES_MAX) -> None:
        self._files = OutputFiles(root.absolute(), bytes_max)
        self._pending: list[tuple[list[Piece], asyncio.Future[list[int]]]] = []
        self._pending_bytes = 0
        self._room = asyncio.Condition()
        self._writing: asyncio.Task[None] | None = None
        self._grown: dict[Key, asyncio.Event] = {}

    async def append(self, job: JobId, index: int, lease: int, offset: int, data: bytes) -> int:
        """Append one piece; see append_many."""
        return (await self.append_many([Piece(lease, job, index, offset, data)]))[0]

    async def append_many(self, pieces: list[Piece]) -> list[int]:
        """Append each piece; for each, the offset up to which that attempt's output is on the disk.

        A piece beyond the end is not taken (the answer says where to send from), of an overlapping one only what is
        new. Beyond the bound of an attempt pieces are dropped and answered as if they were safe. A `final` piece is
        like any other. Raises BadOutputName, or OSError when the disk refuses.
        """
        for piece in pieces:
            check_name(piece.job, piece.index, piece.lease)
        size = sum(len(piece.data) for piece in pieces)
        async with self._room:
            await self._room.wait_for(
                lambda: not self._pending_bytes or self._pending_bytes + size <= PENDING_BYTES_MAX
            )
            self._pending_bytes += size
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._pending.append((pieces, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        """Write what is pending until nothing is."""
        while self._pending:
            batch, self._pending = self._pending, []
            pieces = [piece for group, _ in batch for piece in group]
            try:
                safe = await in_thread(self._files.append, pieces)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                _fail([done for _, done in batch], error)
            else:
                at = 0
                for group, done in batch:
                    if not done.done():
                        done.set_result(safe[at : at + len(group)])
                    at += len(group)
                self._wake({(piece.job, piece.index, piece.lease) for piece in pieces})
            async with self._room:
                self._pending_bytes -= sum(len(piece.data) for piece in pieces)
                self._room.notify_all()
        self._writing = None

    def _wake(self, keys: set[Key]) -> None:
        if self._grown:
            for key in keys:
                if event := self._grown.pop(key, None):
                    event.set()

    def size(self, job: JobId, index: int, lease: int) -> int:
        """Bytes of this attempt's output; 0 when there is none."""
        return self._files.size(check_name(job, index, lease))

    def ended(self, job: JobId, index: int, lease: int) -> bool:
        """Whether nothing more will come: sealed, or cut at its bound."""
        return self._files.end_of(check_name(job, index, lease)) != ""

    async def read(self, job: JobId, index: int, lease: int, offset: int, limit: int) -> bytes:
        """At most `limit` (and READ_BYTES_MAX) bytes from `offset` on; empty at the end, or when there is no output."""
        key = check_name(job, index, lease)
        return await in_thread(self._files.read, key, max(offset, 0), min(limit, READ_BYTES_MAX))

    async def leases(self, job: JobId, index: int) -> list[int]:
        """The leases under which this task printed something, ascending."""
        check_name(job, index, 0)
        return await in_thread(self._files.leases, job, index)

    async def note(self, told: list[Progress]) -> None:
        """Keep how far these attempts have come. It may be lost, and nothing depends on it."""
        for one in told:
            check_name(one.job, one.index, one.lease)
        await in_thread(self._files.note, told)

    async def progress(self, attempts: list[Key]) -> dict[Key, Progress]:
        """How far those of the attempts have come that told of it."""
        return await in_thread(self._files.progress, [check_name(*key) for key in attempts])

    async def forget_all(self, kept: Callable[[JobId], bool], before: float, dry: bool) -> list[JobId]:
        """Delete all that the tasks of jobs printed that are not `kept`, and did not begin to print since `before` (s since
        1970), or only say (`dry`) which jobs those are.
        """
        return await in_thread(self._files.forget_all, kept, before, dry)

    async def seal(self, job: JobId, index: int, lease: int) -> Digest | None:
        """Take nothing more for this attempt; the digest of all its output, or None when there is none."""
        key = check_name(job, index, lease)
        digest = await in_thread(self._files.seal, key)
        self._wake({key})
        return digest

    async def wait_grown(self, job: JobId, index: int, lease: int, offset: int, timeout_s: float) -> bool:
        """Wait until there is output beyond `offset`; False when the time is up, or the output was sealed before that."""
        key = check_name(job, index, lease)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._files.size(key) <= offset and not self._files.end_of(key):
            event = self._grown.setdefault(key, asyncio.Event())
            try:
                async with asyncio.timeout_at(deadline):
                    await event.wait()
            except TimeoutError:
                break
            finally:
                # The last to leave tidies up; one that waits on goes round and makes its own.
                if self._grown.get(key) is event:
                    del self._grown[key]
                    event.set()
        return self._files.size(key) > offset

    async def close(self) -> None:
        """Finish what is being written and close the files."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        self._files.close()


def _fail(waiting: list["asyncio.Future[list[int]]"], error: Exception) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)


def check_name(job: JobId, index: int, lease: int) -> Key:
    """The key of an attempt's output. Raises BadOutputName for what is not made of ids."""
    if not _JOB.match(job) or index < 0 or lease < 0:
        raise BadOutputName(f"there is no output of job {job[:80]!r}, task {index}, lease {lease}")
    return job, index, lease
