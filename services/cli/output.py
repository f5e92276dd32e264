"""The one module of hivectl that prints: as text, as JSON, or hardly at all.

Results go to standard output, everything said about them to standard error, so that results can be piped.
Colour and progress bars appear only on a terminal, and never when NO_COLOR is set or TERM is `dumb`; everything
reads the same without them.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol, Self, TextIO

import msgspec

from services.cli import format
from services.cli.failure import Failure

if TYPE_CHECKING:
    from rich.progress import TaskID

Mode = Literal["text", "json", "quiet"]

_COLOURS = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
_STATES = {
    "succeeded": "green",
    "ready": "green",
    "running": "cyan",
    "queued": "blue",
    "held": "yellow",
    "unreachable": "yellow",
    "drained": "yellow",
    "cancelling": "yellow",
    "cancelled": "yellow",
    "failed": "red",
    "lost": "red",
}
_NARROWEST = 40


class Output:
    """Where a command's results and remarks go."""

    def __init__(self, mode: Mode = "text", out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.mode: Mode = mode
        self._out: TextIO = out or sys.stdout
        self._err: TextIO = err or sys.stderr

    def colourful(self, stream: TextIO | None = None) -> bool:
        """Whether `stream` (standard output by default) is a terminal that shows colours."""
        shown = stream or self._out
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return shown.isatty()

    def paint(self, text: str, colour: str, stream: TextIO | None = None) -> str:
        """`text` in a colour or a state's colour, where colours show."""
        code = _COLOURS.get(_STATES.get(colour, colour), "")
        return f"\x1b[{code}m{text}\x1b[0m" if code and self.colourful(stream) else text

    def line(self, text: str = "") -> None:
        """One line of result."""
        self._write(self._out, text + "\n")

    def note(self, text: str = "") -> None:
        """A remark for people; not said in quiet mode."""
        if self.mode != "quiet":
            self._write(self._err, text + "\n")

    def document(self, value: object) -> None:
        """A result as one JSON document, indented."""
        data = msgspec.json.format(msgspec.json.encode(value, order=None), indent=2)
        self._write(self._out, data.decode() + "\n")

    def json_line(self, value: object) -> None:
        """A result as JSON on one line: one of many."""
        self._write(self._out, msgspec.json.encode(value).decode() + "\n")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], state: int = -1, empty: str = "") -> None:
        """Rows under heads, or the remark `empty` when there are none; column `state` shows states in their colours."""
        if empty and not rows:
            self.note(empty)
            return
        width = self.width() if self._out.isatty() else 0
        lines = format.table(heads, rows, width)
        self.line(self.paint(lines[0], "bold"))
        for row, text in zip(rows, lines[1:], strict=True):
            self.line(text.replace(row[state], self.paint(row[state], row[state]), 1) if state >= 0 else text)

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Names and values, one pair a line; empty values are left out."""
        wide = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            if value:
                shown = self.paint(value, value) if value in _STATES else format.plain(value)
                self.line(f"{self.paint(name.ljust(wide), 'dim')}  {shown}")

    def raw(self, data: bytes, stream: str = "stdout") -> None:
        """A task's own output, byte for byte, to the stream it was written to."""
        target = self._err if stream == "stderr" else self._out
        buffer: BinaryIO | None = getattr(target, "buffer", None)
        if buffer is None:
            self._write(target, data.decode(errors="replace"))
            return
        target.flush()
        buffer.write(data)
        buffer.flush()

    def failure(self, failure: Failure) -> None:
        """What went wrong and what to do: to standard error, in every mode."""
        head = self.paint("error:", "red", self._err)
        text = f"{head} {format.plain(failure.what)}\n"
        if failure.remedy:
            text += f"  {self.paint('try:', 'bold', self._err)} {format.plain(failure.remedy)}\n"
        self._write(self._err, text)

    def trace_back(self) -> None:
        """The exception being handled, in full."""
        import traceback

        self._write(self._err, traceback.format_exc())

    def progress(self, label: str, total: int, amount: Callable[[int], str] = str) -> "Progress":
        """A progress bar on standard error; without a terminal, a line at each tenth; nothing in quiet mode. `amount` says
        how a count is shown.
        """
        if self.mode == "quiet":
            return Silent()
        if self.colourful(self._err):
            return Bar(label, total, amount)
        return Lines(self, label, total, amount)

    def width(self) -> int:
        """Columns of the terminal."""
        return max(shutil.get_terminal_size((100, 24)).columns, _NARROWEST)

    def _write(self, stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
        stream.flush()


class Progress(AbstractContextManager["Progress"], Protocol):
    """How far something has come."""

    def update(self, done: int, text: str = "") -> None:
        """`done` of the total; `text` says more, such as rates."""
        ...

    def say(self, text: str) -> None:
        """A line above the bar."""
        ...


class Silent:
    """Progress that nobody sees."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, done: int, text: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Lines:
    """Progress without a terminal: a line at the start of each tenth."""

    def __init__(self, output: Output, label: str, total: int, amount: Callable[[int], str] = str) -> None:
        self._output, self._label, self._total, self._amount = output, label, max(total, 1), amount
        self._tenth = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, done: int, text: str = "") -> None:
        """Say it when another tenth is done."""
        tenth = done * 10 // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            self._output.note(f"  {self._label}  {self._amount(done)}/{self._amount(self._total)}  {text}".rstrip())

    def say(self, text: str) -> None:
        """A line."""
        self._output.note(text)


class Bar:
    """Progress on a terminal, drawn by rich."""

    def __init__(self, label: str, total: int, amount: Callable[[int], str] = str) -> None:
        from rich import progress
        from rich.console import Console

        self._bar: Any = progress.Progress(
            progress.TextColumn("  {task.description}"),
            progress.BarColumn(bar_width=30),
            progress.TextColumn("{task.fields[done]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True, highlight=False, soft_wrap=True),
            refresh_per_second=8,
        )
        self._total, self._amount = max(total, 1), amount
        self._task: TaskID = self._bar.add_task(label, total=self._total, text="", done=self._done(0))

    def _done(self, done: int) -> str:
        return f"{self._amount(done)}/{self._amount(self._total)}"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, text=text, done=self._done(done))

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)
