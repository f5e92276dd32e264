"""NATS keys (ed25519), a typed façade over `nkeys`: a seed stays where it was made, a public key is the identity."""

import base64
import binascii
import hashlib
import os
from typing import Any, Literal, TypeAlias

import nkeys  # pyright: ignore[reportMissingTypeStubs]
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

Kind: TypeAlias = Literal["operator", "account", "user"]

_nkeys: Any = nkeys
SEED_BYTES = 32
USER_PREFIX = 20 << 3
"""First byte of a user's public key: it begins with `U`."""
PREFIXES: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "user": USER_PREFIX}
PUBLIC_KEY_CHARS = 56
CHECKSUM_BYTES = 2
WORKER_ID_CHARS = 12


class BadKey(ValueError):
    """Not a NATS user's key; the text says why."""


def new_seed(kind: Kind) -> str:
    """A new secret seed (`SO...`, `SA...`, `SU...`)."""
    seed: bytes = _nkeys.encode_seed(os.urandom(SEED_BYTES), PREFIXES[kind])
    return seed.decode()


def new_user_seed() -> str:
    """A new user's secret seed (`SU...`)."""
    return new_seed("user")


class Signer:
    """Signs as the owner of a seed, whose public half is `public_key`. Raises BadKey for what is no seed."""

    def __init__(self, seed: str) -> None:
        try:
            self._pair: Any = _nkeys.from_seed(bytearray(seed.strip().encode()))
            self.public_key: str = self._pair.public_key.decode()
        except Exception as error:
            raise BadKey("not a NATS seed; it begins with S") from error

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the ed25519 signature over `data`."""
        return self._pair.sign(data)


def public_of(seed: str) -> str:
    """The public key (`U...`) of a user's seed. Raises BadKey."""
    try:
        public_key = Signer(seed).public_key
    except BadKey as error:
        raise BadKey("not a NATS user's seed; it begins with SU") from error
    return check_public(public_key)


def verify(public_key: str, data: bytes, signature: bytes) -> bool:
    """Whether the user with this public key signed exactly `data`. Raises BadKey for what is no user's key."""
    raw = base64.b32decode(check_public(public_key))[1:-CHECKSUM_BYTES]
    try:
        VerifyKey(raw).verify(data, signature)
    except (BadSignatureError, ValueError):  # also of the wrong length
        return False
    return True


def check_public(public_key: str) -> str:
    """The key itself when it is a well-formed user's public key. Raises BadKey."""
    remedy = f"a NATS user's public key is U and {PUBLIC_KEY_CHARS - 1} of A-Z and 2-7, as the worker printed it"
    if len(public_key) != PUBLIC_KEY_CHARS or not public_key.startswith("U"):
        raise BadKey(f"not a user's public key: {public_key[:PUBLIC_KEY_CHARS]!r}; {remedy}")
    try:
        raw = base64.b32decode(public_key)
    except (binascii.Error, ValueError):
        raise BadKey(f"not a user's public key: {public_key!r}; {remedy}") from None
    checksum = binascii.crc_hqx(raw[:-CHECKSUM_BYTES], 0).to_bytes(CHECKSUM_BYTES, "little")
    if raw[0] != USER_PREFIX or raw[-CHECKSUM_BYTES:] != checksum:
        raise BadKey(f"the public key {public_key} is damaged; {remedy}")
    return public_key


def worker_id_of(public_key: str) -> str:
    """The id of the worker with this public key: `w` and 12 characters of its hash, in lower-case base 32."""
    digest = hashlib.sha256(check_public(public_key).encode()).digest()
    return "w" + base64.b32encode(digest).decode().lower()[:WORKER_ID_CHARS]
