"""The accounts' service: hosts the one writer of who is who, and makes the first admin.

It is only rules and a writer: what follows from a fact elsewhere (a worker disconnected, text destroyed) is done by
those who follow the accounts' subject (see `services.access`), each again after a restart until it is done.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from events.account import AccountsLed
from events.catalog import ACCOUNTS_SUBJECT, AnyEvent, Mark
from events.log import Log
from infra.link import Link
from projections.access import Access, apply
from services.accounts import model
from services.accounts.commands import Command
from services.asking import Ask, AskClient, AskDesk
from services.hosting import Item, NewerFormat, Refused, Turn
from services.writer import Writer

ACCOUNTS = "accounts"
"""What the service is asked as, and what its beacon is called."""
ask_of = msgspec.msgpack.Decoder(Ask[Command]).decode
AccountsClient = AskClient[Command]


class AccountsModel:
    """The accounts' rules as the writer hosts them."""

    subject = ACCOUNTS_SUBJECT
    refused: type[Exception] = Refused

    def __init__(self, version: str) -> None:
        self._version = version

    def initial(self) -> Access:
        return Access()

    def decide(self, state: Access, command: Any, now: int) -> Sequence[AnyEvent]:
        return model.decide(state, command, now)

    def evolve(self, state: Access, event: Any, at: int) -> None:
        if not apply(state, event, at):
            raise NewerFormat(f"{event} is not known to this version; upgrade before it leads")

    def led(self, writer: str) -> AnyEvent:
        return AccountsLed("main", writer, self._version)

    def cursors(self, state: Access) -> dict[str, Mark]:
        return {}  # it reacts to nobody


class NoSnapshots:
    """The accounts are folded from the first message: thousands of them take a fraction of a second."""

    def latest(self, last: int) -> tuple[int, Access] | None:
        return None


class AccountsService:
    """Hosts the writer. `first` gives what is to be there whenever this one takes its place, such as the first admin."""

    def __init__(
        self,
        link: Link,
        log: Log,
        *,
        turn: Turn,
        name: str,
        version: str,
        first: Callable[[Access], list[Command]],
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.writer: Writer[Access] = Writer(log, AccountsModel(version), self, turn, NoSnapshots(), name, clock)
        self._desk: AskDesk[Command] = AskDesk(link, ACCOUNTS, self.writer, ask_of)
        self._first = first
        self.near = self._desk.near

    async def run(self) -> None:
        """Serve until cancelled. Raises NewerFormat when the log was written by a newer version."""
        subscription = await self._desk.listen()
        try:
            await self.writer.run()
        finally:
            subscription.close()

    # What the writer asks of its host

    def behind(self, last: int) -> int:
        return last

    def prepare(self, item: Item) -> None:
        """There is nothing that the state does not know."""

    def closing(self, now: int) -> Iterator[Item]:
        return iter(())

    def folded(self, event: AnyEvent, at: int) -> None:
        """Nothing is kept beside the state."""

    def committed(self, position: int) -> None:
        """Nothing follows from it here."""

    def leading(self) -> None:
        if commands := self._first(self.writer.state):
            self.writer.offer(Item(commands, lambda outcomes, position: None, by="hive"))
        self._desk.leading()

    def reset(self) -> None:
        self._desk.reset()
