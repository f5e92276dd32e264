"""Values as people read them. Pure."""

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime


def plain(text: str) -> str:
    """`text` with control characters shown as escapes, so that what users typed cannot steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cpus(milli: int) -> str:
    """Thousandths of a CPU as CPUs: 0.5, 2."""
    return f"{milli / 1000:g}"


def span(seconds: float) -> str:
    """A duration: 0.3s, 42s, 5m, 2h, 3d."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    for limit, unit, width in ((120, "s", 1), (7200, "m", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds // width)}{unit}"
    return f"{int(seconds // 86400)}d"


def ago(at_ms: int, now: float) -> str:
    """How long before `now` (seconds) a moment in milliseconds was; `-` when it never was."""
    return span(now - at_ms / 1000) if at_ms else "-"


def clock(at_ms: int) -> str:
    """A moment in milliseconds as UTC, to the millisecond."""
    if not at_ms:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 task`, `2 tasks`, `1,000 entries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def columns(text: str) -> int:
    """How many terminal columns `text` takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` columns, its end cut when it is longer."""
    if columns(text) <= limit:
        return text
    kept: list[str] = []
    used = 1
    for c in text:
        used += columns(c)
        if used > limit:
            break
        kept.append(c)
    return "".join(kept) + "…"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int = 0) -> list[str]:
    """Lines of a table with aligned columns; the last one is cut to `width` columns (0: never)."""
    cells = [[plain(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(columns(row[at]) for row in cells) for at in range(len(heads))]
    lines: list[str] = []
    for row in cells:
        parts = [cell + " " * (widths[at] - columns(cell)) for at, cell in enumerate(row)]
        line = "  ".join(parts).rstrip()
        lines.append(shorten(line, width) if width else line)
    return lines
