"""How a worker asks for its NATS JWT, and to be known by another key: as both ends of `POST /v1/worker/credential` and
`POST /v1/worker/rekey` know it.

There is no key to send: the request is signed with the worker's nkey, and says when it was made, by the platform's clock
as far as the worker knows it. Every answer, a refusal for the time too, tells the platform's time in unix milliseconds.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from events.base import WorkerId
from infra.nkey import Signer
from infra.signing_key import Link

PATH = "/v1/worker/credential"
REKEY_PATH = "/v1/worker/rekey"
SKEW_MS_MAX = 5 * 60 * 1000
"""A request made longer ago than this, or later than this from now, is refused."""
NONCE_CHARS_MIN, NONCE_CHARS_MAX = 16, 64
STALE = "stale"
REPLAYED = "replayed"
NOT_ENROLLED = "not-enrolled"
TOO_MANY = "too-many-requests"
KEY_TAKEN = "exists"
"""The new key is, or was, in use."""

_Nonce = Annotated[str, Meta(min_length=NONCE_CHARS_MIN, max_length=NONCE_CHARS_MAX, pattern="^[A-Za-z0-9_-]+$")]


class CredentialBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Who asks, when (`at`, unix ms) and with what proof: the nkey's base64 ed25519 `signature` over `signed_text`. No
    `nonce` is taken twice.
    """

    worker: Annotated[str, Meta(max_length=64)]
    public_key: Annotated[str, Meta(max_length=64)]
    at: Annotated[int, Meta(ge=0)]
    nonce: _Nonce
    signature: Annotated[str, Meta(max_length=100)]


class CredentialAnswer(msgspec.Struct, frozen=True, gc=False):
    """The JWT, until when it is good, and what time it is (both unix ms, by the platform's clock). `signing`: the keys with
    which the platform signs what it says to workers, the present one last (see `infra.signing_key`).
    """

    jwt: str
    expires_at: int
    now: int
    signing: tuple[Link, ...] = ()


def signed_text(worker: WorkerId, at: int, nonce: str) -> bytes:
    """What is signed."""
    return f"hive.credential.{worker}.{at}.{nonce}".encode()


def sign(worker: WorkerId, signer: Signer, at: int, nonce: str) -> bytes:
    """The signature over it."""
    return signer.sign(signed_text(worker, at, nonce))


class RekeyBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Who asks to be known by `new_key` instead of `public_key`, when, and with what proof: the base64 signatures of both
    keys over `rekey_text`. Asked again, with another nonce, it is done once.
    """

    worker: Annotated[str, Meta(max_length=64)]
    public_key: Annotated[str, Meta(max_length=64)]
    new_key: Annotated[str, Meta(max_length=64)]
    at: Annotated[int, Meta(ge=0)]
    nonce: _Nonce
    signature: Annotated[str, Meta(max_length=100)]
    new_signature: Annotated[str, Meta(max_length=100)]


class RekeyAnswer(msgspec.Struct, frozen=True, gc=False):
    """The worker is known by `public_key` from now on; what time it is (unix ms, by the platform's clock)."""

    public_key: str
    now: int


def rekey_text(worker: WorkerId, public_key: str, new_key: str, at: int, nonce: str) -> bytes:
    """What both keys sign."""
    return f"hive.rekey.{worker}.{public_key}.{new_key}.{at}.{nonce}".encode()
