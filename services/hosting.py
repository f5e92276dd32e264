"""What a writer is made of: the rules it hosts, the service around it, whose turn it is, and where it may start from."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from events.catalog import AnyEvent, Mark

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Refused(Exception):
    """The caller's fault: nothing was changed, and asking again would be refused again."""

    def __init__(self, code: str, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.code, self.field, self.detail = code, field, detail


class NewerFormat(Exception):
    """The log holds an event that this version does not know. A writer must not lead over it: upgrade."""


class Model(Protocol[S]):
    """The rules that a writer hosts."""

    subject: str
    refused: type[Exception]

    def initial(self) -> S: ...
    def decide(self, state: S, command: Any, now: int) -> Sequence[AnyEvent]: ...
    def evolve(self, state: S, event: Any, at: int) -> None: ...
    def led(self, writer: str) -> AnyEvent: ...

    def cursors(self, state: S) -> dict[str, Mark]:
        """How far other subjects were consumed: a part of the state that the writer changes, as messages say."""
        ...


class Item:
    """Commands handed to the writer together. `done` gets one outcome each (None: events, False: nothing to do, or the
    refusal) and the position that says so, once that is certain; it is never called when the writer is fenced.

    With `source`, another subject, they react to what happened there: when k of them are decided it is consumed up to
    `marks[k]` (see services.reaction).
    """

    __slots__ = ("at", "by", "cause", "commands", "done", "marks", "outcomes", "source", "trace")

    def __init__(
        self,
        commands: Sequence[Any],
        done: Callable[[list[Any], int], None] | None = None,
        by: str = "",
        cause: str = "",
        trace: str = "",
        source: str = "",
        marks: Sequence[Mark] = (),
    ) -> None:
        self.commands, self.done, self.by, self.cause, self.trace = commands, done, by, cause, trace
        self.source, self.marks = source, marks
        self.at, self.outcomes = 0, list[Any]()


class React(msgspec.Struct, frozen=True, gc=False):
    """The command to react to a fact (see services.reaction): what happened on `subject`, in the message at `position`,
    recorded at `at` (ms).
    """

    subject: str
    position: int
    at: int
    event: AnyEvent


class Host(Protocol):
    """What the service around a writer is told and asked."""

    def behind(self, last: int) -> int:
        """Up to which position the host's own index is fed, when the subject ends at `last`."""
        ...

    def prepare(self, item: Item) -> None:
        """Before an item is decided for the first time: add to its commands what the model may not look up itself."""

    def closing(self, now: int) -> Iterator[Item]:
        """Before a message closes: the service's own commands, each decided before the next is asked for."""
        ...

    def folded(self, event: AnyEvent, at: int) -> None:
        """An event was folded, not yet acknowledged when leading."""

    def committed(self, position: int) -> None:
        """Everything folded so far is in the log, up to `position`."""

    def leading(self) -> None:
        """This writer leads from now on."""

    def reset(self) -> None:
        """Everything folded since the last `committed` is void; the state is loaded again."""


class Turn(Protocol):
    """A hint at whose turn it is to lead. It saves work; the guard protects the data."""

    async def wait(self) -> None:
        """Returns when nobody seems to lead."""
        ...

    def take(self) -> None:
        """Say, from now on, that this one leads."""

    def leave(self) -> None:
        """Say that nobody leads."""


class Snapshots(Protocol[S_co]):
    """Where a start may begin instead of at the first message."""

    def latest(self, last: int) -> tuple[int, S_co] | None:
        """The newest snapshot that is not beyond `last`, the subject's end: its position and state."""
        ...
