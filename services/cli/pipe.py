"""Notices when whoever reads our output has left, also while there is nothing to write (`hivectl tail | head -1`)."""

import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import AsyncGenerator


@contextlib.asynccontextmanager
async def while_read() -> AsyncGenerator[None]:
    """Inside it, a reader that leaves ends the block: BrokenPipeError."""
    task, loop, left = asyncio.current_task(), asyncio.get_running_loop(), False
    assert task is not None

    def gone() -> None:
        # The write end of a pipe is never readable; it is reported when its other end was closed.
        nonlocal left
        left = True
        loop.remove_reader(number)
        task.cancel()

    try:
        number = sys.stdout.fileno()
        watched = stat.S_ISFIFO(os.fstat(number).st_mode)
    except (OSError, ValueError):
        number, watched = -1, False
    if watched:
        loop.add_reader(number, gone)
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise BrokenPipeError from None
    finally:
        if watched and not left:
            loop.remove_reader(number)
