"""Blocking calls in threads whose files may be closed afterwards."""

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
Result = TypeVar("Result")


async def in_thread(call: Callable[[*Ts], Result], *args: *Ts) -> Result:
    """`call(*args)` in a thread. When the caller is cancelled, this still waits for the thread before it raises.

    A thread cannot be stopped: with asyncio.to_thread, a cancelled caller would close files that are in use.
    """
    running = asyncio.get_running_loop().run_in_executor(None, call, *args)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        raise
