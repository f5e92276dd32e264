"""Reacting to what happened on another subject, exactly once.

A reaction follows another subject for a writer that leads, from the cursor in that writer's own state, and has commands
ready when the writer composes its next message: one `React` a fact that the service wants to know of, in order. The
message that carries what was decided says how far its writer had read (`Message.read`, and `Message.part` where it was
full in the middle of another's message), so output and cursor are one append under one guard:

- killed before the append, the successor starts at the old cursor and decides it all again, on the same state;
- killed after it, the successor starts behind it;
- fenced, everything not acknowledged is forgotten, the cursor too, and the new leader's messages say where it stands.

Facts that nobody wants move the cursor without a message of their own: it rides on the next one, or has one when it ran
`CURSOR_LAG_MAX` positions ahead. `decide` never refuses a `React`: what cannot be done about a fact is a fact, too.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing

import structlog

from events import catalog
from events.catalog import Mark, Unknown, position_text
from events.log import Entry, Log, LogUnavailable
from services.hosting import Item, NewerFormat, React
from services.writer import CURSOR_LAG_MAX

WAITING_MAX = 2000
"""So many facts wait at most for the writer to react to them; what comes after them is not read yet."""
RETRY_S = 0.5

_log = structlog.get_logger()


class Reaction:
    """Follows `subject` (a wildcard, it may be) and has a `React` for each event there whose type is in `wanted`. The service's host gives the
    writer `items()` in `closing`, and says `leading` and `reset`. `poke`: ask the writer for a round. `by` is written
    into what is decided; its cause is the message reacted to, its trace that message's.
    """

    def __init__(self, log: Log, subject: str, wanted: Collection[type], poke: Callable[[], None], by: str) -> None:
        self.subject = subject
        self._log, self._wanted, self._poke, self._by = log, frozenset(wanted), poke, by
        self._items: deque[Item] = deque()
        self._waiting = 0
        self._room = asyncio.Event()
        self._seen: Mark | None = None
        """Read up to here, beyond the last item, without a wanted fact."""
        self._poked = 0
        self._life = 0
        self._start: Mark | None = None
        self._changed = asyncio.Event()

    def leading(self, cursors: dict[str, Mark]) -> None:
        """Follow the subject from now on, from where `cursors` say."""
        self._begin(cursors.get(self.subject, Mark()))

    def reset(self) -> None:
        """Forget what was read, and read nothing until `leading`."""
        self._begin(None)

    def _begin(self, start: Mark | None) -> None:
        self._life += 1
        self._items.clear()
        self._waiting, self._seen, self._start = 0, None, start
        self._changed.set()

    def items(self) -> Iterator[Item]:
        """What to decide next; one that did not fit into a message goes on in the next."""
        while self._items:
            item = self._items[0]
            yield item
            self._items.popleft()
            self._waiting -= len(item.commands)
            self._room.set()
            for command, outcome in zip(item.commands, item.outcomes, strict=True):
                if isinstance(outcome, Exception):
                    _log.error("reaction.refused", subject=self.subject, fact=str(command), why=str(outcome))
        if self._seen is not None:
            seen, self._seen = self._seen, None
            yield Item((), source=self.subject, marks=(seen,))

    async def run(self) -> None:
        """Follow until cancelled. Raises NewerFormat for a fact that this version does not know."""
        while True:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            follow = asyncio.ensure_future(self._follow(self._start, self._life)) if self._start is not None else None
            try:
                await asyncio.wait((changed, follow) if follow else (changed,), return_when=asyncio.FIRST_COMPLETED)
                if follow is not None and follow.done():
                    follow.result()
            finally:
                for task in filter(None, (changed, follow)):
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, mark: Mark, life: int) -> None:
        self._poked = mark.position
        while True:
            try:
                async with aclosing(self._log.read(self.subject, mark.position + 1)) as batches:
                    async for entries in batches:
                        for entry in entries:
                            items = self._read(entry, mark)
                            while items and self._waiting >= WAITING_MAX:
                                self._room.clear()
                                await self._room.wait()
                            if life != self._life:
                                return
                            mark = Mark(entry.position)
                            self._take(items, mark)
            except LogUnavailable as error:
                _log.warning("reaction.log_unavailable", subject=self.subject, why=str(error))
                await asyncio.sleep(RETRY_S)

    def _read(self, entry: Entry, mark: Mark) -> list[Item]:
        """The items of a message, one a decision there, without the `part` that was consumed before."""
        message, items, number = catalog.decode(entry.data), list[Item](), 0
        for decision in message.decisions:
            commands, marks = list[React](), [Mark(mark.position, max(number, mark.part))]
            for event in decision.events:
                number += 1
                if type(event) in self._wanted and number > mark.part:
                    commands.append(React(entry.subject, entry.position, message.at, event))
                    marks.append(Mark(mark.position, number))
                elif isinstance(event, Unknown):
                    raise NewerFormat(f"{event.tag} on {self.subject} is not known to this version; upgrade")
            if commands:
                cause = position_text(entry.position)
                items.append(Item(commands, None, self._by, cause, decision.trace, self.subject, marks))
        return items

    def _take(self, items: list[Item], end: Mark) -> None:
        """Have these ready; behind them everything is consumed up to `end`."""
        if items:
            self._items.extend(items)
            self._waiting += sum(len(item.commands) for item in items)
        self._seen = end
        if items or end.position - self._poked >= CURSOR_LAG_MAX:
            self._poked = end.position
            self._poke()
