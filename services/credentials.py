"""Hands workers their NATS JWTs, and has them be known by other keys: whoever proves to have the key of a worker that is
known.

A request is good once and for ten minutes at most (see `infra.renewal`). What is remembered against replays is bounded:
only what a known worker signed counts, and of each only so much within that time.
"""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable

from events.base import WorkerId
from infra import nats_jwt
from infra.nkey import BadKey, verify
from infra.renewal import (
    KEY_TAKEN,
    NOT_ENROLLED,
    REPLAYED,
    SKEW_MS_MAX,
    STALE,
    TOO_MANY,
    CredentialAnswer,
    CredentialBody,
    RekeyAnswer,
    RekeyBody,
    rekey_text,
    signed_text,
)
from infra.signing_key import Link

ASKED_MAX = 20
"""How often one worker may ask within the window."""
WINDOW_MS = 2 * SKEW_MS_MAX
"""For so long a request can be sent again before it is stale."""
SWEEP_MS = 60_000


class CredentialRefused(Exception):
    """No JWT, or no other key, for this request. `code`: one of `infra.renewal`'s; `now`: the platform's time in unix ms."""

    def __init__(self, code: str, detail: str, now: int, remedy: str) -> None:
        super().__init__(detail)
        self.code, self.detail, self.now, self.remedy = code, detail, now, remedy


class KeyTaken(Exception):
    """The new key cannot be a worker's; the text says why."""


class CredentialDesk:
    """Answers requests. `mint(worker, public_key)` gives a JWT, "" when no worker of this id has this key or it may not
    connect. `rekey(worker, public_key, new_key)` has it be known by the new key and says whether it is, False when it has
    neither of the two; it may raise KeyTaken. `signing`: the platform's own keys, told with each JWT. `clock`: unix ms.
    """

    def __init__(
        self,
        mint: Callable[[WorkerId, str], Awaitable[str]],
        rekey: Callable[[WorkerId, str, str], Awaitable[bool]],
        signing: tuple[Link, ...],
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._mint, self._rekey, self._signing, self._clock = mint, rekey, signing, clock
        self._seen: dict[WorkerId, dict[str, int]] = {}
        self._swept = 0

    async def issue(self, asked: CredentialBody) -> CredentialAnswer:
        """A new JWT. Raises CredentialRefused."""
        now = self._clock()
        if not _is_signed(asked.public_key, signed_text(asked.worker, asked.at, asked.nonce), asked.signature):
            raise CredentialRefused(
                NOT_ENROLLED, "the signature is not that of this public key over this request", now,
                "sign `hive.credential.<worker>.<at>.<nonce>` with the worker's nkey",
            )  # fmt: skip
        self._check_new(asked, now)
        jwt = await self._mint(asked.worker, asked.public_key)
        if not jwt:
            raise _not_enrolled(asked, now)
        self._remember(asked, now)
        return CredentialAnswer(jwt, nats_jwt.read_user(jwt).exp * 1000, now, self._signing)

    async def rekey(self, asked: RekeyBody) -> RekeyAnswer:
        """Have a worker be known by another key. Raises CredentialRefused, asking.Unavailable."""
        now = self._clock()
        text = rekey_text(asked.worker, asked.public_key, asked.new_key, asked.at, asked.nonce)
        proofs = ((asked.public_key, asked.signature), (asked.new_key, asked.new_signature))
        if asked.public_key == asked.new_key or not all(_is_signed(key, text, proof) for key, proof in proofs):
            raise CredentialRefused(
                NOT_ENROLLED, "the signatures are not those of two keys over this request", now,
                "sign `hive.rekey.<worker>.<public key>.<new key>.<at>.<nonce>` with each of the two nkeys",
            )  # fmt: skip
        self._check_new(asked, now)
        try:
            known = await self._rekey(asked.worker, asked.public_key, asked.new_key)
        except KeyTaken as error:
            raise CredentialRefused(KEY_TAKEN, str(error), now, "make another key") from None
        if not known:
            raise _not_enrolled(asked, now)
        self._remember(asked, now)
        return RekeyAnswer(asked.new_key, now)

    def _check_new(self, asked: CredentialBody | RekeyBody, now: int) -> None:
        """Raise CredentialRefused for what was made at another time, or was answered before."""
        if abs(now - asked.at) > SKEW_MS_MAX:
            detail = f"the request says it was made {abs(now - asked.at) / 1000:.0f} s from now"
            raise CredentialRefused(STALE, detail, now, "make it again, with the time that this answer tells")
        if asked.nonce in self._seen.get(asked.worker, ()):
            raise CredentialRefused(REPLAYED, "this request was answered before", now, "make another, with a new nonce")

    def _remember(self, asked: CredentialBody | RekeyBody, now: int) -> None:
        """Take the request's nonce out of use. Raises CredentialRefused when its worker asked too often."""
        if now - self._swept > SWEEP_MS:
            self._swept = now
            self._seen = {worker: kept for worker, seen in self._seen.items() if (kept := _fresh(seen, now))}
        seen = self._seen.setdefault(asked.worker, {})
        if len(seen) >= ASKED_MAX:
            seen = self._seen[asked.worker] = _fresh(seen, now)
        if len(seen) >= ASKED_MAX:
            detail = f"{asked.worker} asked {ASKED_MAX} times within {WINDOW_MS // 60_000} minutes"
            raise CredentialRefused(TOO_MANY, detail, now, "use the JWT that was given, or wait")
        if asked.nonce in seen:  # the same one, twice at once
            raise CredentialRefused(REPLAYED, "this request was answered before", now, "make another, with a new nonce")
        seen[asked.nonce] = now


def _fresh(seen: dict[str, int], now: int) -> dict[str, int]:
    return {nonce: at for nonce, at in seen.items() if now - at <= WINDOW_MS}


def _not_enrolled(asked: CredentialBody | RekeyBody, now: int) -> CredentialRefused:
    return CredentialRefused(
        NOT_ENROLLED, f"no worker {asked.worker} with this key may connect here", now,
        "enrol it (`hivectl worker run`), or ask who runs this hive",
    )  # fmt: skip


def _is_signed(public_key: str, text: bytes, proof: str) -> bool:
    try:
        return verify(public_key, text, base64.b64decode(proof, validate=True))
    except (BadKey, binascii.Error, ValueError):
        return False
