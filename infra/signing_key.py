"""The key with which the platform signs what it says to workers, and how workers come to trust another one.

`keys/signing.json` holds the seed and the chain: every public key that the platform signed with, the newest last, each
but the first signed by the one before it. A worker keeps ("pins") the newest key that it was shown, and takes another
only when the chain leads there from the one it keeps. What it is told over HTTP alone moves no pin.
"""

import base64
import binascii
from collections.abc import Sequence

import msgspec

from infra.folder import Folder, write_atomic
from infra.nkey import BadKey, Signer, check_public, new_seed, verify

NAME = "signing.json"
CHAIN_MAX = 32
"""Keys that are named. A worker that was away for longer joins again."""


class BadChain(ValueError):
    """Nothing leads from the key that is kept to the one that is shown; the text says what to do."""


class Link(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A public key (`N...`) of the platform. `proof`: the signature by the key before it over `link_text`, in base64."""

    key: str
    proof: str = ""


class _Kept(msgspec.Struct, frozen=True, gc=False):
    seed: str
    chain: tuple[Link, ...]


_kept_of = msgspec.json.Decoder(_Kept).decode
_encode = msgspec.json.Encoder().encode


def link_text(before: str, key: str) -> bytes:
    """What the key `before` signs to be followed by `key`."""
    return f"hive.signing-key.1 {before} {key}".encode()


class SigningKey:
    """The platform's key: `signer`, and the `chain` that ends with its public half."""

    def __init__(self, signer: Signer, chain: Sequence[Link]) -> None:
        self.signer, self.chain = signer, tuple(chain)

    @classmethod
    def new(cls) -> "SigningKey":
        """One that nobody knows yet."""
        return _opened(_made())

    @classmethod
    def of(cls, folder: Folder) -> "SigningKey":
        """That of a data folder, made the first time. Raises BadKey for a damaged file."""
        try:
            return _opened(_kept_of(folder.secret(NAME, lambda: _encode(_made()))))
        except (msgspec.DecodeError, BadKey) as error:
            where = folder.path("keys", NAME)
            remedy = "restore it, or delete it and have every worker join again"
            raise BadKey(f"{where} is damaged ({error}); {remedy}") from error


def _made() -> _Kept:
    seed = new_seed("server")
    return _Kept(seed, (Link(Signer(seed).public_key),))


def _opened(kept: _Kept) -> SigningKey:
    signer = Signer(kept.seed)
    if not kept.chain or kept.chain[-1].key != check_public(signer.public_key, "server"):
        raise BadKey("its chain does not end with its key")
    return SigningKey(signer, kept.chain)


def rotate(folder: Folder) -> str:
    """Give the data folder another signing key, which the present one vouches for; its public half. Taken at the next start of
    whoever signs. Raises BadKey.
    """
    before = SigningKey.of(folder)
    seed = new_seed("server")
    key = Signer(seed).public_key
    proof = base64.b64encode(before.signer.sign(link_text(before.signer.public_key, key))).decode()
    chain = (*before.chain, Link(key, proof))[-CHAIN_MAX:]
    write_atomic(folder.path("keys", NAME), _encode(_Kept(seed, chain)))
    return key


def follow(pinned: str, chain: Sequence[Link]) -> str:
    """The newest key of `chain`, to which it leads from `pinned` ("": nothing is kept yet). Raises BadChain."""
    if not chain:
        raise BadChain("this hive does not sign what it says: it is older than this agent; upgrade it")
    keys = [link.key for link in chain]
    if not pinned:
        return keys[-1]
    if pinned not in keys:
        raise BadChain(
            "this hive signs with a key that none which this worker knows has vouched for; if its operator says that this is "
            "so (`hivectl signing-key show`), have the worker join again"
        )
    for before, link in zip(keys[keys.index(pinned) :], chain[keys.index(pinned) + 1 :], strict=False):
        if not _vouched(before, link):
            raise BadChain(f"the key {link.key} of this hive is not signed by {before}, which came before it")
    return keys[-1]


def _vouched(before: str, link: Link) -> bool:
    try:
        return verify(before, link_text(before, link.key), base64.b64decode(link.proof, validate=True), "server")
    except (BadKey, binascii.Error, ValueError):
        return False
