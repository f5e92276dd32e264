"""What a task tells of itself while it runs: lines of JSON that it adds to the file that HIVE_EMIT names.

    {"progress": 40, "text": "epoch 4 of 10"}      how far it is, in percent, and in its own words
    {"name": "metrics", "json": {"acc": 0.93}}     a structured result
    {"artifact": "model.pt"}                       keep this file as a result, too

A file needs nothing in the task's language, works in containers, costs a task that does not use it nothing, never makes
one wait, and is still there when the agent starts again. Lines go into the attempt's output as a stream of their own;
progress at most once a second. Nothing of it is on the log but the last percentage.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from events.inputs import BadSpec, check_path
from events.protocol import PROGRESS_TEXT_CHARS_MAX, Run
from worker.results import NotWritten, open_inside
from worker.state import Key

EMIT_FILE = ".hive-emit"
EMIT_STREAM = 3
EMIT_BYTES_MAX = 1024 * 1024
"""Of what one attempt emits; the rest is not looked at, and a mark says so."""
LINE_BYTES_MAX = 64 * 1024
ARTIFACTS_MAX = 1000
MARKS_MAX = 10
PROGRESS_EACH_S = 1.0
LOOK_S = 0.1
MARK_STREAM = 0


class Emit(msgspec.Struct, frozen=True):
    """A line."""

    progress: float | None = None
    text: str = ""
    name: str = ""
    json: msgspec.Raw = msgspec.Raw()
    artifact: str = ""


_emit_of = msgspec.json.Decoder(Emit).decode
_encode = msgspec.json.Encoder().encode


class Told:
    """What the lines of one attempt say, taken in one after the other."""

    __slots__ = ("artifacts", "line", "percent", "records", "text")

    def __init__(self) -> None:
        self.line = 0
        self.percent = -1
        self.text = ""
        self.records: list[bytes] = []
        self.artifacts: dict[str, None] = {}

    def take(self, line: bytes) -> tuple[bool, str]:
        """Take in a line: whether it is more than progress, and what is wrong with it ("": nothing)."""
        self.line += 1
        if not line.strip():
            return False, ""
        try:
            emit = _emit_of(line)
            if emit.artifact:
                check_path("artifact", emit.artifact)
        except (msgspec.DecodeError, UnicodeDecodeError, BadSpec) as error:
            return False, f"line {self.line} of HIVE_EMIT cannot be used: {error}"
        if emit.artifact and len(self.artifacts) < ARTIFACTS_MAX:
            self.artifacts[emit.artifact] = None
        has_json = bool(bytes(emit.json))
        if has_json:
            self.records.append(_encode({"name": emit.name, "json": emit.json}))
        if emit.progress is not None:
            self.percent = round(min(max(emit.progress, 0.0), 100.0))
        self.text = emit.text[:PROGRESS_TEXT_CHARS_MAX] or self.text
        return has_json or bool(emit.artifact), ""

    def document(self) -> bytes:
        """The structured results as a JSON list; b"" when there is none."""
        return b"[" + b",".join(self.records) + b"]" if self.records else b""


def emitted(folder: str) -> Told:
    """All that the attempt in this folder emitted, once it has ended. Blocking."""
    told = Told()
    data = _read(folder, 0)
    for line in data.split(b"\n"):
        if len(line) <= LINE_BYTES_MAX:
            told.take(line)
    return told


def emits(folder: str) -> bool:
    """Whether the task in this folder emitted anything."""
    return os.path.lexists(f"{folder}/{EMIT_FILE}")


def _read(folder: str, offset: int) -> bytes:
    """What was emitted from `offset` on, up to the bound."""
    try:
        fd = open_inside(folder, EMIT_FILE, "")
    except (NotWritten, OSError):
        return b""
    try:
        return os.pread(fd, max(EMIT_BYTES_MAX - offset, 0), offset)
    except OSError:
        return b""
    finally:
        os.close(fd)


class _Watched:
    """How far the lines of one running attempt were passed on."""

    __slots__ = ("marks", "offset", "over", "rest", "said_at", "told", "waiting")

    def __init__(self) -> None:
        self.told = Told()
        self.offset = self.marks = 0
        self.rest = b""
        self.over = False
        """Whether it emitted more than it may."""
        self.waiting = False
        """Whether there is progress that was not told yet."""
        self.said_at = float("-inf")


class Emits:
    """Passes on what running attempts emit. `on_line(order, index, stream, data)` for each line, and for marks;
    `on_progress(order, index, percent, text)` beside it.
    """

    def __init__(
        self,
        on_line: Callable[[Run, int, int, bytes], None],
        on_progress: Callable[[Run, int, int, str], None],
    ) -> None:
        self._on_line, self._on_progress = on_line, on_progress
        self._watched: dict[Key, _Watched] = {}
        self._looked = float("-inf")

    def look_at_all(self, running: Iterable[tuple[Run, int, str]], now: float) -> None:
        """Look at the attempts that run, each with its folder, unless that was just now."""
        if now - self._looked >= LOOK_S:
            self._looked = now
            for order, index, folder in running:
                self.look(order, index, folder, now)

    def look(self, order: Run, index: int, folder: str, now: float, last: bool = False) -> None:
        """Pass on what is new; `last`: it has ended, and is forgotten."""
        key = (order.number, index)
        try:
            size = os.lstat(f"{folder}/{EMIT_FILE}").st_size
        except OSError:
            return
        watched = self._watched.get(key) or self._watched.setdefault(key, _Watched())
        if size > watched.offset and not watched.over:
            self._take(watched, order, index, _read(folder, watched.offset))
        if last and watched.rest:
            rest, watched.rest = watched.rest, b""
            self._line(watched, order, index, rest)
        if watched.waiting and (last or now - watched.said_at >= PROGRESS_EACH_S):
            watched.waiting, watched.said_at = False, now
            said: dict[str, Any] = {"progress": watched.told.percent} if watched.told.percent >= 0 else {}
            said |= {"text": watched.told.text} if watched.told.text else {}
            self._on_line(order, index, EMIT_STREAM, _encode(said) + b"\n")
            self._on_progress(order, index, watched.told.percent, watched.told.text)
        if last:
            del self._watched[key]

    def _take(self, watched: _Watched, order: Run, index: int, data: bytes) -> None:
        watched.offset += len(data)
        *lines, watched.rest = (watched.rest + data).split(b"\n")
        long = len(watched.rest) > LINE_BYTES_MAX
        for line in lines:
            if len(line) > LINE_BYTES_MAX:
                long = True
            else:
                self._line(watched, order, index, line)
        if long or watched.offset >= EMIT_BYTES_MAX:
            watched.over = watched.offset >= EMIT_BYTES_MAX
            watched.rest = b"" if len(watched.rest) > LINE_BYTES_MAX else watched.rest
            limit = f"{EMIT_BYTES_MAX} bytes, {LINE_BYTES_MAX} a line"
            self._mark(watched, order, index, f"more was emitted than is kept ({limit}); some is left out")

    def _line(self, watched: _Watched, order: Run, index: int, line: bytes) -> None:
        before = (watched.told.percent, watched.told.text)
        more, wrong = watched.told.take(line)
        if wrong:
            self._mark(watched, order, index, wrong)
        if more:
            self._on_line(order, index, EMIT_STREAM, line + b"\n")
        watched.waiting = watched.waiting or (watched.told.percent, watched.told.text) != before

    def _mark(self, watched: _Watched, order: Run, index: int, text: str) -> None:
        watched.marks += 1
        if watched.marks <= MARKS_MAX:
            self._on_line(order, index, MARK_STREAM, f"[{text}]\n".encode())
