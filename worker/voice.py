"""What the agent says is signed with the worker's key, and the platform is believed when what it says is signed with its
own (see `infra.signing`).

An answer without that is never obeyed. It may come from whoever got between, or from a hive that was given another key,
or is older than this agent: the same question is asked again, and the credential is renewed, which tells the hive's key.
"""

import time
from collections.abc import Callable

import msgspec
import structlog

from events.base import WorkerId
from events.protocol import Asked, Denied, Verb
from infra import signing
from infra.nkey import Signer, verify
from infra.signing import Spoken

SAID_EACH_S = 60.0
"""How often the same is said of answers that are not the hive's."""
HINTS = ("slow_down",)
"""What is answered unsigned to what was not even looked at. It is waited for anyway."""

_log = structlog.get_logger()
_denied_of = msgspec.msgpack.Decoder(Denied).decode


class Voice:
    """One worker's. `signer()`: with its present key; `hive()`: the platform's public key, "" while it is not known;
    `doubted()` is called when an answer was not signed with that.
    """

    def __init__(
        self,
        pool: str,
        worker: WorkerId,
        signer: Callable[[], Signer],
        hive: Callable[[], str],
        doubted: Callable[[], None],
    ) -> None:
        self._pool, self._worker, self._signer, self._hive, self._doubted = pool, worker, signer, hive, doubted
        self._said: dict[str, float] = {}
        self.doubts = 0

    def sign(self, what: Spoken, body: bytes) -> bytes:
        """The signed message."""
        return signing.spoken(self._signer(), what, self._pool, self._worker, body)

    def believed(self, verb: Verb, asked: Asked, data: bytes) -> bytes | None:
        """The body of the platform's answer to what was asked; None when it is not that."""
        signed, hive = signing.split(data), self._hive()
        if signed is None:
            self._unsigned(data)
            return None
        text = signing.answer_text(verb, self._pool, self._worker, asked.session, asked.sequence, signed.digest)
        if hive and verify(hive, text, signed.signature, "server"):
            return signed.body
        self._doubt("" if hive else "the hive's key is not known yet")
        return None

    def _unsigned(self, data: bytes) -> None:
        try:
            hint = _denied_of(data)
        except msgspec.DecodeError:
            self._doubt("it is not signed")
            return
        if hint.code not in HINTS:
            self._doubt(f"it is not signed, and says: {hint.code}: {hint.detail}")

    def _doubt(self, why: str) -> None:
        self.doubts += 1
        self._doubted()
        now = time.monotonic()
        if now - self._said.get(why, -SAID_EACH_S) >= SAID_EACH_S:
            self._said = {why: now}
            then = "it is not obeyed, and asked again"
            _log.warning(
                "worker.not_the_hive", worker=self._worker, why=why or "the signature is not the hive's", then=then
            )
