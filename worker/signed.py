"""Requests that a worker signs with its own key: each says when it was made, by the platform's clock, and is good once.

What counts is the platform's time, which every answer tells: the worker's own clock may be off by years.
"""

import secrets
import time
from collections.abc import Callable

import msgspec

from infra.renewal import STALE
from worker.api import Api

NONCE_BYTES = 16
OK = 200


class AskRefused(Exception):
    """The platform answered with a problem of kind `code`; the text says why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class _Problem(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    title: str = ""
    detail: str = ""
    now: int = 0


_problem_of = msgspec.json.Decoder(_Problem).decode


class SignedAsk:
    """Asks through `api`, by the platform's clock as far as it is known."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ahead_ms = 0
        """How far the platform's clock is ahead of ours."""

    async def ask(self, path: str, body: Callable[[int, str], bytes]) -> bytes:
        """The answer to what `body(at, nonce)` makes and signs. Raises AskRefused, worker.api.Unavailable."""
        status, answer = await self._once(path, body)
        problem = _problem(status, answer)
        if problem is not None and problem.type.endswith(f":{STALE}") and problem.now:
            self.is_now(problem.now)
            status, answer = await self._once(path, body)
            problem = _problem(status, answer)
        if problem is not None:
            code = problem.type.rpartition(":")[2]
            raise AskRefused(code, f"{status} {problem.detail or problem.title}")
        return answer

    def is_now(self, at: int) -> None:
        """The platform says that it is `at` (unix ms)."""
        self._ahead_ms = at - now()

    async def _once(self, path: str, body: Callable[[int, str], bytes]) -> tuple[int, bytes]:
        return await self._api.post(path, body(now() + self._ahead_ms, secrets.token_urlsafe(NONCE_BYTES)))


def _problem(status: int, body: bytes) -> _Problem | None:
    """What is wrong, when it is not an answer."""
    if status == OK:
        return None
    try:
        return _problem_of(body)
    except msgspec.DecodeError:
        return _Problem(title="no problem document")


def now() -> int:
    """Our own clock's time in unix ms."""
    return time.time_ns() // 1_000_000
