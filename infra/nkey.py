"""NATS keys (ed25519), a typed façade over `nkeys`: a seed stays where it was made, a public key is the identity."""

import base64
import binascii
import hashlib
import os
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import nkeys  # pyright: ignore[reportMissingTypeStubs]
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

Kind: TypeAlias = Literal["operator", "account", "server", "user"]

_nkeys: Any = nkeys
SEED_BYTES = 32
USER_PREFIX = 20 << 3
"""First byte of a user's public key: it begins with `U`."""
PREFIXES: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "server": 13 << 3, "user": USER_PREFIX}
LETTERS: dict[Kind, str] = {"operator": "O", "account": "A", "server": "N", "user": "U"}
PUBLIC_KEY_CHARS = 56
KEYS_KEPT = 16_384
"""Public keys that are kept ready for checking signatures."""
CHECKSUM_BYTES = 2
WORKER_ID_CHARS = 12


class BadKey(ValueError):
    """Not a NATS key of the kind that is wanted; the text says why."""


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


def verify(public_key: str, data: bytes, signature: bytes, kind: Kind = "user") -> bool:
    """Whether who has this public key signed exactly `data`. Raises BadKey for what is no key of this kind."""
    try:
        _verifier(public_key, kind).verify(data, signature)
    except (BadSignatureError, ValueError) as error:  # also of the wrong length
        if isinstance(error, BadKey):
            raise
        return False
    return True


@lru_cache(KEYS_KEPT)
def _verifier(public_key: str, kind: Kind) -> VerifyKey:
    return VerifyKey(base64.b32decode(check_public(public_key, kind))[1:-CHECKSUM_BYTES])


def check_public(public_key: str, kind: Kind = "user") -> str:
    """The key itself when it is a well-formed public key of this kind. Raises BadKey."""
    letter, whose = LETTERS[kind], f"a NATS {kind}'s public key"
    remedy = f"{whose} is {letter} and {PUBLIC_KEY_CHARS - 1} of A-Z and 2-7, as it was printed"
    if len(public_key) != PUBLIC_KEY_CHARS or not public_key.startswith(letter):
        raise BadKey(f"not {whose}: {public_key[:PUBLIC_KEY_CHARS]!r}; {remedy}")
    try:
        raw = base64.b32decode(public_key)
    except (binascii.Error, ValueError):
        raise BadKey(f"not {whose}: {public_key!r}; {remedy}") from None
    checksum = binascii.crc_hqx(raw[:-CHECKSUM_BYTES], 0).to_bytes(CHECKSUM_BYTES, "little")
    if raw[0] != PREFIXES[kind] or raw[-CHECKSUM_BYTES:] != checksum:
        raise BadKey(f"the public key {public_key} is damaged; {remedy}")
    return public_key


def worker_id_of(public_key: str) -> str:
    """The id of the worker with this public key: `w` and 12 characters of its hash, in lower-case base 32."""
    digest = hashlib.sha256(check_public(public_key).encode()).digest()
    return "w" + base64.b32encode(digest).decode().lower()[:WORKER_ID_CHARS]
