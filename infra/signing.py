"""Signed messages between a worker and the platform: what is signed, and what it looks like on the wire.

A signed message is `MARK`, the 64 bytes of an ed25519 signature, and the body as sent. The signature is over one line of
text: what kind of message it is, the pool, the worker, what it answers, and the SHA-256 of the body. So it is good for
nothing else: not in another pool, for another worker, as another kind of message, or as the answer to another question.

  hive.hello.1 <pool> <worker> <digest>                                        by the worker: a poll with a Hello
  hive.report.1 <pool> <worker> <digest>                                       by the worker
  hive.answer.1 <verb> <pool> <worker> <session> <sequence> <digest>           by the platform

Session and sequence of a hello and of a report stand in the body. MARK begins no msgpack, so whoever gets a message knows
whether it is signed.
"""

import hashlib
from typing import Literal, NamedTuple, TypeAlias

from events.base import Digest, WorkerId
from infra.nkey import Signer

MARK = b"\xc1\x01"
SIGNATURE_BYTES = 64
_BODY = len(MARK) + SIGNATURE_BYTES

Spoken: TypeAlias = Literal["hello", "report"]
"""What a worker signs."""


class Signed(NamedTuple):
    """A message taken apart; its signature was not looked at. `digest`: SHA-256 of the body."""

    signature: bytes
    body: bytes
    digest: Digest


def split(data: bytes) -> Signed | None:
    """A signed message's parts; None when it is not signed."""
    if not data.startswith(MARK) or len(data) < _BODY:
        return None
    body = data[_BODY:]
    return Signed(data[len(MARK) : _BODY], body, digest_of(body))


def digest_of(body: bytes) -> Digest:
    """SHA-256 of a body."""
    return hashlib.sha256(body).hexdigest()


def spoken_text(what: Spoken, pool: str, worker: WorkerId, digest: Digest) -> bytes:
    """What a worker signs of a message with this digest."""
    return f"hive.{what}.1 {pool} {worker} {digest}".encode()


def answer_text(verb: str, pool: str, worker: WorkerId, session: str, sequence: int, digest: Digest) -> bytes:
    """What the platform signs of an answer with this digest. `session` and `sequence`: of what is answered."""
    return f"hive.answer.1 {verb} {pool} {worker} {session} {sequence} {digest}".encode()


def joined(signature: bytes, body: bytes) -> bytes:
    """The message as it is sent."""
    return MARK + signature + body


def spoken(signer: Signer, what: Spoken, pool: str, worker: WorkerId, body: bytes) -> bytes:
    """A worker's signed message."""
    return joined(signer.sign(spoken_text(what, pool, worker, digest_of(body))), body)


def answered(signer: Signer, verb: str, pool: str, worker: WorkerId, session: str, sequence: int, body: bytes) -> bytes:
    """The platform's signed answer."""
    return joined(signer.sign(answer_text(verb, pool, worker, session, sequence, digest_of(body))), body)
