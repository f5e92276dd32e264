"""Fold a hive's log into the board, in a process of its own: `python -m tests.bench.refold DATA` prints events per second, and
the most memory (MiB) that this process had before and until the end.
"""

import json
import sys
import time
from pathlib import Path

import uvloop

from events import catalog
from infra.folder import Folder
from infra.link import Link
from infra.nats_log import JetStreamLog
from infra.nats_server import NatsServer
from projections.board import fold
from projections.board_state import Board


def _peak_mib() -> int:
    # Not getrusage: its maximum is, from the start, what the process had that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


async def main(data: Path) -> None:
    """Start the folder's nats-server, read EVENTS from the first message, fold, and say how fast."""
    folder = Folder(data)
    server = NatsServer(folder)
    await server.start()
    try:
        link = await Link.open(server.url, server.authority.platform, "hive bench refold")
        log = JetStreamLog(link)
        last, board, events = await log.last("evt.>"), Board(), 0
        before = _peak_mib()
        start = time.perf_counter()
        reader = log.read("evt.>", 1)
        async for batch in reader:
            for entry in batch:
                message = catalog.decode(entry.data)
                fold(board, message, entry.position)
                events += sum(len(decision.events) for decision in message.decisions)
            if batch and batch[-1].position >= last:
                break
        seconds = time.perf_counter() - start
        await reader.aclose()
        await link.close()
        figures = {"events": events, "messages": last, "events_per_s": round(events / seconds)}
        print(json.dumps({**figures, "before_mib": before, "peak_mib": _peak_mib()}))
    finally:
        await server.stop()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
