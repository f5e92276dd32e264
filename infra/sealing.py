"""What users typed, encrypted before it reaches the log, so that destroying a key erases their text and nothing else.

XSalsa20-Poly1305 under a 32-byte key with a random nonce (PyNaCl's SecretBox): a changed byte is noticed on opening.
"""

from typing import Protocol

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from events.base import Sealed, UserId

KEY_BYTES = SecretBox.KEY_SIZE


class KeyDestroyed(Exception):
    """The text was sealed under a key that is not here any more; it cannot be read again."""


class KeyAway(Exception):
    """The key that the text was sealed under is not here yet; it is being asked for, so try again in a moment."""


class SealBroken(Exception):
    """The text does not open under its own key: it was changed after it was sealed."""


class Keys(Protocol):
    """Seals under the key of a user, and opens what was sealed under anybody's."""

    def seal(self, user: UserId, data: bytes) -> Sealed:
        """`data` under the user's key. Raises KeyDestroyed, KeyAway."""
        ...

    def open(self, sealed: Sealed) -> bytes:
        """What was sealed. Raises KeyDestroyed, KeyAway or SealBroken."""
        ...


class Sealer:
    """Seals under one key, of KEY_BYTES bytes, which sealed texts name as `key_id`."""

    def __init__(self, key: bytes, key_id: str = "k1") -> None:
        self._box, self.key_id = SecretBox(key), key_id

    def seal(self, data: bytes) -> Sealed:
        """`data` encrypted; a different result each time."""
        return Sealed(self.key_id, bytes(self._box.encrypt(data)))

    def open(self, sealed: Sealed) -> bytes:
        """What was sealed. Raises KeyDestroyed or SealBroken."""
        if sealed.key != self.key_id:
            raise KeyDestroyed(f"sealed under the key {sealed.key!r}, which is not here")
        return open_box(self._box, sealed)


def open_box(box: SecretBox, sealed: Sealed) -> bytes:
    """What was sealed under the key of `box`. Raises SealBroken."""
    try:
        return box.decrypt(sealed.data)
    except (CryptoError, ValueError) as error:
        raise SealBroken(f"text sealed under {sealed.key!r} was changed, or the key is another one") from error
