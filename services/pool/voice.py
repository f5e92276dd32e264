"""What the pool says is signed with the platform's key; what makes facts, hellos and reports, only counts with the
signature of its worker's key (see `infra.signing`).
"""

from collections import Counter
from collections.abc import Callable

import structlog

from events import protocol
from events.base import WorkerId
from events.protocol import Asked, Denied, Said, Verb
from infra import signing
from infra.nkey import BadKey, Signer, verify
from infra.signing import Signed, Spoken

UNVERIFIED = Denied(
    "unverified",
    "the signature is not that of this worker's key over this very message; a worker that was given another key signs with "
    "that one, and one that is banned or was let go is not heard any more",
)
UNSIGNED = Denied(
    "malformed",
    "it is not signed: this worker's agent is older than signed reports. Upgrade it to the version that the hive has",
)
NAMED_MAX = 10_000
"""Workers of which refused messages are counted one by one."""

_log = structlog.get_logger()


class Voice:
    """Signs for one pool, and checks. `key_of(worker)`: its public key, "" for one that nobody knows or that is banned.

    `refused` counts the messages whose signature was not good, by worker.
    """

    def __init__(self, pool: str, signer: Signer, key_of: Callable[[WorkerId], str]) -> None:
        self._pool, self._signer, self.key_of = pool, signer, key_of
        self.key = signer.public_key
        self.refused: Counter[WorkerId] = Counter()

    def say(self, verb: Verb, worker: WorkerId, asked: Asked, answer: Said) -> bytes:
        """The signed answer to what a worker asked."""
        body = protocol.pack(answer)
        return signing.answered(self._signer, verb, self._pool, worker, asked.session, asked.sequence, body)

    def signer_of(self, worker: WorkerId, what: Spoken, signed: Signed) -> str:
        """The worker's public key, when that signed this; "" when not, which is counted."""
        key, text = self.key_of(worker), signing.spoken_text(what, self._pool, worker, signed.digest)
        try:
            if key and verify(key, text, signed.signature):
                return key
        except BadKey:
            pass  # of a fact that an earlier version wrote unchecked
        if worker in self.refused or len(self.refused) < NAMED_MAX:
            self.refused[worker] += 1
        count = self.refused[worker]
        if count & (count - 1) == 0:  # the first, the second, the fourth, ...
            _log.warning("pool.unverified", worker=worker, what=what, count=count, known=bool(key))
        return ""
