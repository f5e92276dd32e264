"""`python -m worker.keeper FOLDER WORKER VERSION SPOOL_BYTES SOCKET`: started by an agent, which hands in the socket."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from infra.logging import configure
from worker import leftovers
from worker.keeper import keeper

LOCK_S = 10.0
PAUSE_S = 0.05


def main(arguments: list[str]) -> int:
    """Keep tasks until told to leave; the exit code."""
    folder, worker, version = Path(arguments[0]), arguments[1], arguments[2]
    listening = socket.socket(fileno=int(arguments[4]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the agent, which says what is to be done
    configure(json=True, level="warning")
    deadline = time.monotonic() + LOCK_S
    while (held := keeper.lock(folder)) is None:
        if time.monotonic() > deadline:
            return 1  # the agent sees that nobody answers
        time.sleep(PAUSE_S)
    with contextlib.suppress(OSError):
        os.chdir("/")
    leftovers.end_all(folder / "spool", worker)
    serving = keeper.serve(folder, listening, worker, version, int(arguments[3]))
    try:
        import uvloop  # noqa: PLC0415 - it is a quarter faster, and nothing depends on it
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)
    os.close(held)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
