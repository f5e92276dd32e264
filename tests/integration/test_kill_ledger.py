"""SIGKILL of the ledger's control plane, nats-server and client at random points, 50 rounds: every transfer that was
acknowledged is on the log once, and none is there twice.

The client is a process of its own that writes down, before it asks, what it will ask for, and, when it was told so, that
it is done; killed, its successor asks again for all that was not told to be done.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from events import catalog
from events.ledger import TransferPosted
from infra.settings import Settings
from services.ledger.state import MICRO
from tests.ledger_by_hand import by_hand
from tests.system import ROOT, System, system

ROUNDS = 50
TARGETS = {"client": 6, "nats": 3, "plane": 1}
"""How often each is killed: the more time its end costs, the more rarely."""
ROLES = ("--role", "api", "--role", "ledger", "--role", "accounts")
NO_POSTGRES = 'postgres_dsn = "postgresql:///hive?host=/nonexistent"\n'
"""The ledger needs none, and it takes long to start."""
AT_ONCE = 8

PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
import structlog
from infra.connect import open_platform
from infra.folder import Folder
from infra.settings import load
from services.asking import Accepted, AskClient, Unavailable
from services.ledger.service import LEDGER
from tests.ledger_support import transfer

async def main(data, book):
    lines = [line.split() for line in book.read_text().splitlines()]
    asked, done = ([line[1] for line in lines if len(line) > 1 and line[0] == what] for what in ("asked", "done"))
    todo, n = [*{*asked} - {*done}], len(asked)
    link = await open_platform(Folder(data), load(data, {}), "kill test")
    asks = AskClient(link, LEDGER)
    with book.open("a", buffering=1) as file:
        async def one_after_another():
            nonlocal n
            while True:
                if todo:
                    name = todo.pop()
                else:
                    name, n = f"t{n}", n + 1
                    file.write(f"asked {name}\\n")
                try:
                    answer = await asks.ask([transfer(name, "admin", (f"u{len(name)}", 1))], "user:admin")
                except Unavailable:
                    todo.append(name)
                    continue
                if isinstance(answer.outcomes[0], Accepted):
                    file.write(f"done {name} {answer.position}\\n")
        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
    else:
        asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
""".replace("AT_ONCE", str(AT_ONCE))
"""For each line that it reads it makes another client, a process of its own, and says its number."""


class Clients:
    """One client at a time, each the successor of the one before; they share a parent that has everything loaded."""

    def __init__(self, running: System, book: Path) -> None:
        with running.log.open("ab") as output:
            words = [sys.executable, "-c", PROGRAM, str(running.folder.root), str(book)]
            self._parent = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=ROOT, bufsize=0
            )
        self.start()

    def start(self) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(b"\n")
        self._client = int(self._parent.stdout.readline())

    def kill(self) -> None:
        os.kill(self._client, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        self._parent.kill()
        self._parent.wait()


def _done(book: Path) -> dict[str, int]:
    lines = [line.split() for line in book.read_text().splitlines() if line.startswith("done ")]
    return {line[1]: int(line[2]) for line in lines if len(line) == 3}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_killed_at_random_points(tmp_path: Path, seed: int) -> None:
    rng, book = random.Random(seed), tmp_path / "book"
    book.touch()
    async with system(tmp_path / "hive") as running:
        (running.folder.root / "hive.toml").write_text(NO_POSTGRES)
        await running.plane(*ROLES)
        clients = Clients(running, book)
        try:
            for number in range(ROUNDS):
                least = len(_done(book)) + rng.randrange(1, 40)

                async def went_on(least: int = least) -> bool:
                    return len(_done(book)) >= least

                await running.until(went_on, f"round {number}: transfers go on")
                what = rng.choices([*TARGETS], [*TARGETS.values()])[0]
                if what == "nats":
                    os.kill(running.nats_pid(), signal.SIGKILL)
                elif what == "plane":
                    running.planes[-1].kill()
                    running.planes[-1].wait()
                    await running.plane(*ROLES)
                else:
                    clients.kill()
                    clients.start()
        finally:
            clients.end()
        entries = await running.entries(catalog.LEDGER_SUBJECT)
    posted: dict[str, int] = {}
    for entry, message in entries:
        for event in message.events():
            if isinstance(event, TransferPosted):
                assert event.transfer not in posted, f"{event.transfer} is there twice"
                posted[event.transfer] = entry.position
    done = _done(book)
    assert done.keys() <= posted.keys(), "what was acknowledged is there"
    assert all(posted[name] <= position for name, position in done.items()), "an answer's position says it"
    hand = by_hand(entry.data for entry, _ in entries)
    paid = len([name for name in posted if not name.startswith("grant:")])
    assert hand.found()["user:admin"] == Settings().admin_grant_cpt * MICRO - paid
