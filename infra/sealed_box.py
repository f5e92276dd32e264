"""Sealed to one worker: whoever has its public nkey can seal, and only the machine with the seed can open (PyNaCl's
SealedBox; the ed25519 key is taken as the curve25519 key that belongs to it).
"""

import base64

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from infra.nkey import CHECKSUM_BYTES, SEED_BYTES, BadKey, check_public

PREFIX_BYTES = 2
"""Of a seed's decoded text: what kind of key it is."""


class NotForUs(Exception):
    """It was sealed to another key, or changed."""


def seal_to(public_key: str, data: bytes) -> bytes:
    """`data`, which only the owner of the user's public key opens. Raises BadKey."""
    raw = base64.b32decode(check_public(public_key))[1:-CHECKSUM_BYTES]
    try:
        key = VerifyKey(raw).to_curve25519_public_key()
    except RuntimeError:  # libsodium refuses points that would make anybody's secret the same
        raise BadKey(f"the public key {public_key} is no key that can be sealed to") from None
    return bytes(SealedBox(key).encrypt(data))


def open_with(seed: str, sealed: bytes) -> bytes:
    """What was sealed to the owner of the seed. Raises NotForUs."""
    text = seed.strip()
    raw = base64.b32decode(text + "=" * (-len(text) % 8))[PREFIX_BYTES : PREFIX_BYTES + SEED_BYTES]
    try:
        return bytes(SealedBox(SigningKey(raw).to_curve25519_private_key()).decrypt(sealed))
    except CryptoError as error:
        raise NotForUs("it was sealed to another key, or changed") from error
