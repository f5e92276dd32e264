"""Asking a service's one writer, and being asked: commands in one message, an outcome for each in the answer.

Every control plane hears the question; only the one that leads answers, once the log says what the answer rests on.
Commands are idempotent, so whoever got no answer asks again.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

from infra.link import Link, LinkDown, LinkTimeout, NoResponders, Subscription
from services.hosting import Item, Refused
from services.writer import Writer

COMMANDS_PER_ASK_MAX = 1000
TRY_S_MAX = 2.0
PAUSE_S_MIN, PAUSE_S_MAX = 0.02, 0.5
HELD_MAX = 200
HELD_S = TRY_S_MAX
"""For so long whoever asked still waits for this answer."""

C = TypeVar("C")


class Accepted(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="accepted"):
    """Done, and on disk. `existing`: it had been done before, or there was nothing to do. `balance`: what who pays has
    at the position of the answer, µCPT, where money moves.
    """

    existing: bool = False
    balance: int | None = None


class RefusedAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="refused"):
    """Refused: see `Refused`."""

    code: str
    field: str
    detail: str


Outcome: TypeAlias = Accepted | RefusedAnswer


class Ask(msgspec.Struct, Generic[C], frozen=True, gc=False, omit_defaults=True):
    """A question on `command_subject(service)`: commands, decided in order, each for itself."""

    commands: list[C]
    by: str
    cause: str = ""
    trace: str = ""


class Answer(msgspec.Struct, frozen=True, gc=False, tag="answer"):
    """One outcome a command, and the position up to which the log says so."""

    position: int
    outcomes: list[Outcome]


class Busy(msgspec.Struct, frozen=True, gc=False, tag="busy"):
    """Nothing was looked at; try again after a while."""

    code: Literal["queue_full", "malformed"]
    detail: str


AskAnswer: TypeAlias = Answer | Busy
pack = msgspec.msgpack.Encoder().encode
answer_of = msgspec.msgpack.Decoder(AskAnswer).decode
FULL = Busy("queue_full", "too many commands wait; try again in a moment")


def command_subject(service: str) -> str:
    """Where a service's writer listens, such as `cmd.pool.default`."""
    return f"cmd.{service}"


def _outcome(outcome: Any, balance: int | None = None) -> Outcome:
    if isinstance(outcome, Refused):
        return RefusedAnswer(outcome.code, outcome.field, outcome.detail)
    return Accepted(outcome is False, balance)


class Unavailable(Exception):
    """Nobody who may decide answered in time. The commands may or may not have been done; asking again is safe."""


class AskDesk(Generic[C]):
    """Takes questions for a writer and answers them. `ask_of` reads one; `keep` says what may be decided late, after
    this control plane took the place of another. `balance_of` says what an accepted command's payer has; it is asked
    when the state is what the log says up to the answer's position.
    """

    def __init__(
        self,
        link: Link,
        service: str,
        writer: Writer[Any],
        ask_of: Callable[[bytes], Ask[C]],
        keep: Callable[[C], bool] = lambda command: True,
        monotonic: Callable[[], float] = time.monotonic,
        balance_of: Callable[[C], int | None] | None = None,
    ) -> None:
        self._link, self._service, self._writer = link, service, writer
        self._ask_of, self._keep, self._balance_of, self._monotonic = ask_of, keep, balance_of, monotonic
        self._held: deque[tuple[float, Item]] = deque(maxlen=HELD_MAX)
        self._near: set[asyncio.Future[AskAnswer]] = set()

    async def listen(self) -> Subscription:
        """Take questions from now on, until the subscription is closed."""
        return await self._link.subscribe(command_subject(self._service), self._asked)

    def _asked(self, subject: str, reply: str, data: bytes) -> None:
        try:
            ask = self._ask_of(data)
        except msgspec.DecodeError as error:
            self._send(reply, Busy("malformed", str(error)))
            return
        if len(ask.commands) > COMMANDS_PER_ASK_MAX:
            self._send(reply, Busy("malformed", f"{len(ask.commands)} commands; at most {COMMANDS_PER_ASK_MAX}"))
            return
        item = Item(ask.commands, partial(self._answer, reply, ask), ask.by, ask.cause, ask.trace)
        if not self._writer.leads:
            # Whoever leads answers it. If that is nobody, it is decided here as soon as this one leads; asked twice,
            # it does nothing twice.
            if all(self._keep(command) for command in ask.commands):
                self._held.append((self._monotonic(), item))
        elif not self._writer.offer(item):
            self._send(reply, FULL)

    def _answer(self, reply: str, ask: Ask[C], outcomes: list[Any], position: int) -> None:
        self._send(reply, self._answer_to(ask, outcomes, position))

    def _answer_to(self, ask: Ask[C], outcomes: list[Any], position: int) -> Answer:
        balance_of = self._balance_of
        if balance_of is None:
            return Answer(position, [_outcome(outcome) for outcome in outcomes])
        pairs = zip(ask.commands, outcomes, strict=True)
        return Answer(position, [_outcome(outcome, balance_of(command)) for command, outcome in pairs])

    def _send(self, reply: str, answer: AskAnswer) -> None:
        if not reply:
            return
        try:
            self._link.send(reply, pack(answer))
        except LinkDown:
            return  # whoever asked asks again

    def near(self, ask: Ask[C]) -> "asyncio.Future[AskAnswer] | None":
        """Asked by a part of the same process, without the way over NATS. None unless this one leads; the answer is
        LinkDown when it does not any more.
        """
        if not self._writer.leads:
            return None
        answer: asyncio.Future[AskAnswer] = asyncio.get_running_loop().create_future()

        def done(outcomes: list[Any], position: int) -> None:
            if not answer.done():
                answer.set_result(self._answer_to(ask, outcomes, position))

        if not self._writer.offer(Item(ask.commands, done, ask.by, ask.cause, ask.trace)):
            answer.set_result(FULL)
            return answer
        self._near.add(answer)
        answer.add_done_callback(self._near.discard)
        return answer

    def leading(self) -> None:
        """The writer leads from now on: decide what was asked meanwhile and is still waited for."""
        since = self._monotonic() - HELD_S
        for asked, item in self._held:
            if asked >= since:
                self._writer.offer(item)
        self._held.clear()

    def reset(self) -> None:
        """The writer lost its place: whoever asked here asks again."""
        for answer in [*self._near]:
            if not answer.done():
                answer.set_exception(LinkDown("another control plane leads"))


Near: TypeAlias = "Callable[[Ask[C]], asyncio.Future[AskAnswer] | None]"


class AskClient(Generic[C]):
    """Asks the writer of one service. `near` asks the one in this process, and gives None unless that one leads."""

    def __init__(self, link: Link, service: str, near: "Near[C] | None" = None) -> None:
        self._link, self._service, self._near = link, service, near

    async def ask(
        self, commands: Sequence[C], by: str, cause: str = "", trace: str = "", timeout_s: float = 30.0
    ) -> Answer:
        """The outcomes of `commands` (at most 1000), in order. Raises Unavailable.

        Asks again until `timeout_s`: commands are idempotent, so a lost answer does no harm.
        """
        if len(commands) > COMMANDS_PER_ASK_MAX:
            raise ValueError(f"{len(commands)} commands; at most {COMMANDS_PER_ASK_MAX} can be asked at once")
        ask = Ask([*commands], by, cause, trace)
        clock = asyncio.get_running_loop().time
        give_up = clock() + timeout_s
        why, pause = "", PAUSE_S_MIN
        while (left := give_up - clock()) > 0:
            try:
                answer = await self._once(ask, min(left, TRY_S_MAX))
            except (LinkDown, LinkTimeout, NoResponders, TimeoutError) as error:
                why = f"{type(error).__name__}"
            else:
                if isinstance(answer, Answer):
                    return answer
                why = answer.detail
                if answer.code == "malformed":
                    break
            await asyncio.sleep(min(random.uniform(0.5, 1.0) * pause, max(0.0, give_up - clock())))
            pause = min(pause * 2, PAUSE_S_MAX)
        raise Unavailable(f"the writer of {self._service} gave no answer within {timeout_s:g} s ({why})")

    async def _once(self, ask: Ask[C], timeout_s: float) -> AskAnswer:
        answer = self._near(ask) if self._near else None
        if answer is not None:
            async with asyncio.timeout(timeout_s):
                return await answer
        return answer_of((await self._link.request(command_subject(self._service), pack(ask), timeout_s)).data)
