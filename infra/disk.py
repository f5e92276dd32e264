"""How much room a disk has, and what that allows: a warning long before, new submissions stopped well before the end."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from events.units import size_text

DiskState: TypeAlias = Literal["ok", "low", "full"]

WARN_BYTES = 4 * 1024**3
STOP_BYTES = 1 * 1024**3
LOOK_S = 1.0
"""How long one look at the disk is believed."""
WATCH_S = 5.0


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write on the disk of `path`, or of its nearest existing parent."""
    here = path.absolute()
    while True:
        try:
            found = os.statvfs(here)
        except FileNotFoundError:
            if here == here.parent:
                raise
            here = here.parent
        else:
            return found.f_bavail * found.f_frsize


def state_of(free: int, warn_bytes: int, stop_bytes: int) -> DiskState:
    """What `free` bytes allow: below `stop_bytes` nothing new, below `warn_bytes` everything with a warning."""
    if free < stop_bytes:
        return "full"
    return "low" if free < warn_bytes else "ok"


class DiskGuard:
    """Watches the disk of one path; cheap enough to ask on every request."""

    def __init__(self, path: Path, warn_bytes: int = WARN_BYTES, stop_bytes: int = STOP_BYTES) -> None:
        if stop_bytes > warn_bytes:
            raise ValueError(f"stop_bytes ({stop_bytes}) must not exceed warn_bytes ({warn_bytes})")
        self._path, self._warn, self._stop = path, warn_bytes, stop_bytes
        self._free, self._seen = 0, -LOOK_S

    @property
    def free(self) -> int:
        """Free bytes, at most LOOK_S old."""
        now = time.monotonic()
        if now - self._seen >= LOOK_S:
            self._free, self._seen = free_bytes(self._path), now
        return self._free

    @property
    def state(self) -> DiskState:
        """ok, low (warn) or full (take nothing new; what runs is still recorded)."""
        return state_of(self.free, self._warn, self._stop)

    def why(self) -> str:
        """One sentence for people about a disk that is low or full; empty when it is ok."""
        free, state = self.free, self.state
        if state == "ok":
            return ""
        limit = self._stop if state == "full" else self._warn
        does = "new work is refused" if state == "full" else f"new work is refused below {size_text(self._stop)}"
        return f"{size_text(free)} free on the disk of {self._path}, below {size_text(limit)}: {does}; free some space there"


async def watch(guard: Callable[[], DiskGuard], say: Callable[[str], None]) -> None:
    """Tell people, for ever, when the disk becomes low, full, or ok again."""
    before: DiskState = "ok"
    while True:
        now = guard()
        if (state := now.state) != before:
            say(now.why() or f"the disk has room again: {size_text(now.free)} free")
            before = state
        await asyncio.sleep(WATCH_S)
