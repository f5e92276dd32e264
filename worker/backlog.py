"""What one attempt printed and the platform does not have yet: frames in order, in memory while they are few, else in files.

Offsets count the bytes as they are delivered. When there is no room, frames in the middle are left out, the oldest first:
what comes first says how it began, what comes last how it stands. A mark stands in their place. What was sent once stays
as it is, since it may have arrived.
"""

import hashlib
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator

FRAME = struct.Struct(">BIQ")
MARK_STREAM = 0
SEGMENT_BYTES = 4 * 1024 * 1024
"""Of one segment: what is kept, sent and left out together."""
_GAP = "[output left out here: %d bytes that there was no room to keep until the hive could be reached]"
_GAP_CHARS = 120


def frame(stream: int, data: bytes) -> bytes:
    """One frame, of now."""
    return FRAME.pack(stream, len(data), time.time_ns() // 1_000_000) + data


class _Segment:
    """Some frames. `gap`: bytes that were left out before them; `mark`: what says so, once it was sent."""

    __slots__ = ("data", "file", "gap", "mark", "size")

    def __init__(self, gap: int) -> None:
        self.data = bytearray()
        self.file = -1
        self.size = 0
        self.gap = gap
        self.mark = b""

    def length(self) -> int:
        """With the mark."""
        return self.size + (FRAME.size + _GAP_CHARS + 1 if self.gap else 0)

    def head(self) -> bytes:
        """The mark before it, which stays as it is from now on."""
        if self.gap and not self.mark:
            self.mark = frame(MARK_STREAM, (_GAP % self.gap).ljust(_GAP_CHARS).encode() + b"\n")
        return self.mark


class Backlog:
    """The frames of one attempt from `base` on; `size` is where they end. `path(n)` names the n-th file."""

    def __init__(self, path: Callable[[int], str]) -> None:
        self._path = path
        self._segments: deque[_Segment] = deque()
        self._files = 0
        self._gap = 0
        self.base = self.size = self.sent = 0
        """`sent`: up to where anything was ever sent."""
        self.in_memory = self.in_files = 0
        self._hash = hashlib.sha256()

    @property
    def left_out(self) -> bool:
        """Whether something was left out after all that is here."""
        return bool(self._gap)

    def append(self, data: bytes, memory: bool) -> None:
        """Keep a frame, in memory or else in a file. Raises OSError, and keeps nothing of it then."""
        last = self._segments[-1] if self._segments else None
        if last is None or last.size + len(data) > SEGMENT_BYTES or self._gap:
            last = _Segment(self._gap)
            if not memory:
                self._open(last)
            self._segments.append(last)
            self._gap = 0
            self.size += last.length()
        elif last.file < 0 and not memory:
            self._open(last)
        if last.file < 0:
            last.data += data
            self.in_memory += len(data)
        else:
            _write(last.file, data, last.size)
            self.in_files += len(data)
        last.size += len(data)
        self.size += len(data)

    def _open(self, segment: _Segment) -> None:
        """Move a segment into a file."""
        self._files += 1
        path = self._path(self._files)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.unlink(path)  # nobody else reads it, and so nothing stays of it, whatever happens
        try:
            _write(fd, segment.data, 0)
        except OSError:
            os.close(fd)
            raise
        self.in_memory -= len(segment.data)
        self.in_files += len(segment.data)
        segment.file, segment.data = fd, bytearray()

    def leave_out(self, count: int) -> None:
        """These bytes, which come next, are not kept."""
        self._gap += count

    def drop_middle(self) -> int:
        """Leave out the oldest frames that were never sent, but for the first and the last ones; how many bytes."""
        start = self.base
        for at, segment in enumerate(self._segments):
            if 0 < at < len(self._segments) - 1 and start >= self.sent:
                following = self._segments[at + 1]
                before = segment.length() + following.length()
                following.gap += segment.gap + segment.size
                self.size += following.length() - before
                self._release(segment)
                del self._segments[at]
                return segment.size
            start += segment.length()
        return 0

    def read(self, offset: int, most: int) -> bytes:
        """At most so many bytes from `offset` on, as they are to be sent; b"" at the end."""
        start = self.base
        for segment in self._segments:
            if offset < start + segment.length():
                data = self._of(segment, offset - start, most)
                if offset + len(data) > self.sent:
                    self._hash.update(data[self.sent - offset :] if self.sent > offset else data)
                    self.sent = offset + len(data)
                return data
            start += segment.length()
        return b""

    @staticmethod
    def _of(segment: _Segment, at: int, most: int) -> bytes:
        head = segment.head()
        if at < len(head):
            return head[at : at + most]
        at -= len(head)
        if segment.file < 0:
            return bytes(segment.data[at : at + most])
        return os.pread(segment.file, min(most, segment.size - at), at)

    def advance(self, offset: int) -> None:
        """All before `offset` is safe: let go of it."""
        while self._segments and self.base + self._segments[0].length() <= offset:
            segment = self._segments.popleft()
            self.base += segment.length()
            self._release(segment)

    def digest(self) -> str:
        """Of all that was sent, once all was."""
        return self._hash.hexdigest()

    def _release(self, segment: _Segment) -> None:
        if segment.file >= 0:
            os.close(segment.file)
            self.in_files -= segment.size
        else:
            self.in_memory -= segment.size
        segment.file, segment.data = -1, bytearray()

    def close(self) -> None:
        """Let go of everything."""
        for segment in self._segments:
            self._release(segment)
        self._segments.clear()


def _write(fd: int, data: bytes | bytearray, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


class Tail:
    """The last frames of what came after the cut, so that how an attempt ended can be read."""

    def __init__(self, bytes_max: int) -> None:
        self._max = bytes_max
        self._frames: deque[bytes] = deque()
        self._held = 0
        self.left_out = 0

    def add(self, data: bytes) -> None:
        """Another frame."""
        self._frames.append(data)
        self._held += len(data)
        while self._held - len(self._frames[0]) >= self._max:
            gone = len(self._frames.popleft())
            self._held -= gone
            self.left_out += gone

    def frames(self) -> Iterator[bytes]:
        """Those that are kept."""
        return iter(self._frames)
