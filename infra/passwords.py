"""Passwords: argon2id hashes, and the refusal of those that somebody would guess.

A hash costs HASH_KIB of memory and some 70 ms of a processor, so only HASHES_MAX are made at once, in threads, and
at most WAITING_MAX wait. What is guessed early (the commonest passwords, their usual changes, repetitions, rows of
keys, dates, the user's own name) is found by zxcvbn, which knows about 30,000 of them by how common they are.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

CHARS_MIN = 10
BYTES_MAX = 1024
GUESSES_LOG10_MIN = 6.0
"""A password that falls within a million guesses is refused."""
JUDGED_CHARS_MAX = 64
"""The first characters decide: judging takes time that grows faster than the length."""
HASH_KIB = 46 * 1024
HASH_ROUNDS = 2
HASHES_MAX = 2
WAITING_MAX = 64

T = TypeVar("T")


class WeakPassword(Exception):
    """It may not be used; the text says why and what would do."""


class PasswordsBusy(Exception):
    """Too many passwords are being hashed; try again in a moment."""


class Passwords:
    """Hashes, compares and judges. `close` ends its threads."""

    def __init__(self, kib: int = HASH_KIB, rounds: int = HASH_ROUNDS) -> None:
        self._hasher = PasswordHasher(time_cost=rounds, memory_cost=kib, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(HASHES_MAX, "hive-passwords")
        self._waiting = 0
        self._nobodys = ""

    async def hash(self, password: str) -> str:
        """A new hash, with its parameters and a random salt in it. Raises PasswordsBusy."""
        return await self._run(lambda: self._hasher.hash(password.encode()))

    async def verify(self, hashed: str, password: str) -> bool:
        """Whether `hashed` is of `password`. "" (nobody's) takes as long as any, and is of none. Raises PasswordsBusy."""
        return await self._run(lambda: self._verify(hashed, password))

    def outdated(self, hashed: str) -> bool:
        """Whether it was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(hashed)

    async def check(self, password: str, known: Sequence[str] = ()) -> None:
        """Raise WeakPassword unless it may be used by somebody of whom `known` is known, such as the name."""
        check_form(password, known)
        log10: float = await self._run(lambda: _guesses_log10(password, known))
        if log10 < GUESSES_LOG10_MIN:
            raise WeakPassword("is too easy to guess; use a few unrelated words, or what a password manager makes")

    def close(self) -> None:
        """End the threads, after what they are at."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _verify(self, hashed: str, password: str) -> bool:
        if not hashed and not self._nobodys:
            self._nobodys = self._hasher.hash(b"nobody's")
        try:
            return self._hasher.verify(hashed or self._nobodys, password.encode()[: BYTES_MAX + 1]) and bool(hashed)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise PasswordsBusy("too many passwords are being checked")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def check_form(password: str, known: Sequence[str] = ()) -> None:
    """Raise WeakPassword for what shows without guessing: its length, and a name in it."""
    if len(password) < CHARS_MIN:
        raise WeakPassword(f"has {len(password)} characters; use {CHARS_MIN} or more")
    if len(password.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise WeakPassword(f"is longer than {BYTES_MAX} bytes")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise WeakPassword("holds what is no character") from None
    plain = password.casefold()
    if any(len(one) > 2 and one.casefold() in plain for one in known):
        raise WeakPassword("holds your name; leave it out")


def _guesses_log10(password: str, known: Sequence[str]) -> float:
    from zxcvbn import zxcvbn  # noqa: PLC0415 - its lists take 15 MiB and a tenth of a second  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    judged: Any = zxcvbn(password[:JUDGED_CHARS_MAX], user_inputs=[*known, "hive", "hivectl"])
    return float(judged["guesses_log10"])
