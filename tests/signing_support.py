"""Signed messages in tests: the platform's key, a key for each worker that needs none of its own, and both ends."""

import hashlib
from functools import lru_cache
from typing import Any

import msgspec
import nkeys  # pyright: ignore[reportMissingTypeStubs]

from events import protocol
from events.protocol import Asked, Output, Poll, Report, Verb
from infra import signing
from infra.nkey import PREFIXES, Signer
from infra.signing_key import Link, SigningKey
from services.pool.voice import Voice

ANSWERS: dict[Verb, Any] = {
    "next": protocol.poll_answer_of,
    "report": protocol.report_answer_of,
    "output": protocol.output_answer_of,
}


@lru_cache(1000)
def signer_of(worker: str) -> Signer:
    """The key of a worker that exists in a test only: always the same."""
    return _signer(worker, PREFIXES["user"])


def _signer(name: str, prefix: int) -> Signer:
    seed: bytes = nkeys.encode_seed(hashlib.sha256(name.encode()).digest(), prefix)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return Signer(seed.decode())


HIVE = _signer("the hive", PREFIXES["server"])
"""The platform's key where a test plays it."""
CHAIN = (Link(HIVE.public_key),)
KEY = SigningKey(HIVE, CHAIN)


def voice(pool: str) -> Voice:
    """Of a platform that knows every worker by the key of `signer_of`."""
    return Voice(pool, HIVE, lambda worker: signer_of(worker).public_key)


def said(pool: str, worker: str, asked: Asked, signer: Signer | None = None) -> bytes:
    """What the worker's agent sends: signed when it needs to be, with `signer` or the worker's own key."""
    if isinstance(asked, Poll):
        asked = msgspec.structs.replace(asked, speaks=protocol.SPEAKS)
        if asked.hello is None:
            return protocol.pack(asked)
    elif isinstance(asked, Output):
        return protocol.pack(asked)
    what = "hello" if isinstance(asked, Poll) else "report"
    return signing.spoken(signer or signer_of(worker), what, pool, worker, protocol.pack(asked))


def heard(pool: str, worker: str, asked: Asked, data: bytes, hive: str = HIVE.public_key) -> Any:
    """The platform's answer; it must be signed by `hive`, for this worker and this question."""
    from infra.nkey import verify

    verb: Verb = "next" if isinstance(asked, Poll) else "report" if isinstance(asked, Report) else "output"
    signed = signing.split(data)
    assert signed is not None, data
    text = signing.answer_text(verb, pool, worker, asked.session, asked.sequence, signed.digest)
    assert verify(hive, text, signed.signature, "server")
    return ANSWERS[verb](signed.body)


def opened(data: bytes) -> bytes:
    """The body of a message, signed or not; whose signature it is, is not looked at."""
    signed = signing.split(data)
    return data if signed is None else signed.body
