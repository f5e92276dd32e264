"""Asking a pool's writer. Every control plane hears the question; only the one that leads answers."""

import asyncio
import random
from collections.abc import Callable
from typing import TypeAlias

from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from services.pool.commands import (
    COMMANDS_PER_ASK_MAX,
    Answer,
    Ask,
    AskAnswer,
    Command,
    answer_of,
    command_subject,
    pack,
)

Near: TypeAlias = Callable[[Ask], "asyncio.Future[AskAnswer] | None"]
TRY_S_MAX = 2.0
PAUSE_S_MAX = 0.5


class PoolUnavailable(Exception):
    """Nobody who may decide answered in time. The commands may or may not have been done; asking again is safe."""


class PoolClient:
    """Asks the writer of one pool. `near` asks the one in this process, and gives None unless that one leads."""

    def __init__(self, link: Link, pool: str, near: Near | None = None) -> None:
        self._link, self._subject, self._near = link, command_subject(pool), near

    async def ask(
        self, commands: list[Command], by: str, cause: str = "", trace: str = "", timeout_s: float = 30.0
    ) -> Answer:
        """The outcomes of `commands` (at most 1000), in order. Raises PoolUnavailable.

        Asks again until `timeout_s`: commands are idempotent, so a lost answer does no harm.
        """
        if len(commands) > COMMANDS_PER_ASK_MAX:
            raise ValueError(f"{len(commands)} commands; at most {COMMANDS_PER_ASK_MAX} can be asked at once")
        ask = Ask(commands, by, cause, trace)
        clock = asyncio.get_running_loop().time
        give_up = clock() + timeout_s
        why, pause = "", 0.02
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
        raise PoolUnavailable(f"the pool's writer gave no answer within {timeout_s:g} s ({why})")

    async def _once(self, ask: Ask, timeout_s: float) -> AskAnswer:
        answer = self._near(ask) if self._near else None
        if answer is not None:
            async with asyncio.timeout(timeout_s):
                return await answer
        return answer_of((await self._link.request(self._subject, pack(ask), timeout_s)).data)
