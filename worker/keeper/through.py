"""The keeper's link to the platform, which is its agent: it has the link's failures."""

import asyncio
from collections.abc import Callable

from events.protocol import Asked, Verb
from infra.link import LinkDown, LinkTimeout, Reply
from worker.keeper import wire

SPARE_S = 1.0
"""How much longer the agent is waited for than it waits for the platform."""


class Through:
    """Asks the platform through the agent, told by `tell`."""

    def __init__(self, tell: Callable[[wire.Word], None]) -> None:
        self._tell = tell
        self._number = 0
        self._waiting: dict[int, asyncio.Future[wire.Answer]] = {}

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        """As `infra.link.Link.request`, on the one subject that the agent named. Raises LinkDown and LinkTimeout."""
        self._number += 1
        number = self._number
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._tell(wire.Ask(number, data, round(timeout_s * 1000)))
        try:
            async with asyncio.timeout(timeout_s + SPARE_S):
                answer = await waiting
        except TimeoutError:
            raise LinkTimeout("the agent does not answer") from None
        finally:
            del self._waiting[number]
        if answer.failed:
            raise LinkTimeout("the platform does not answer")
        return Reply(answer.data, None)

    def believed(self, verb: Verb, asked: Asked, data: bytes) -> bytes | None:
        """The agent has checked it: it has the keys."""
        return data

    def answered(self, answer: wire.Answer) -> None:
        """The agent says what came of a request."""
        waiting = self._waiting.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def reset(self) -> None:
        """The agent has gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(LinkDown("no agent is here"))
