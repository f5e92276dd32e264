"""Run by test_postgres.py as a process of its own: `postgres_as.py FOLDER [UID]` keeps a Postgres running until killed.

Prints its DSN and pid once it takes sessions. With UID it first becomes that user.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop

from infra.postgres import Postgres, PostgresError


async def keep(folder: Path) -> None:
    postgres = Postgres(folder)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await postgres.start()
    except PostgresError as error:
        print("error", error, flush=True)
        return
    print(postgres.dsn, postgres.pid, flush=True)
    await stop.wait()
    await postgres.stop()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        os.setgroups([])
        os.setgid(int(sys.argv[2]))
        os.setuid(int(sys.argv[2]))
    uvloop.run(keep(Path(sys.argv[1])))
