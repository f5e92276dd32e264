"""API keys, invitations and enrolment tokens as text: random, told apart by how they begin, known by their digests."""

import hashlib
import secrets
from typing import Literal, TypeAlias

from events.base import Digest

Kind: TypeAlias = Literal["hive", "hivi", "hivw"]
"""`hive_...` is an API key, `hivi_...` an invitation, `hivw_...` lets workers in."""
SECRET_BYTES = 32
PREFIX_CHARS = 9
ID_CHARS = 16


def new_text(kind: Kind) -> str:
    """A new one: `<kind>_` and 43 characters that are safe in a URL."""
    return f"{kind}_{secrets.token_urlsafe(SECRET_BYTES)}"


def digest_of(text: str) -> Digest:
    """What it is known by: its secret part, which is random and long, so that a plain hash gives nothing away."""
    return hashlib.sha256(secret_of(text).encode("utf-8", "surrogateescape")).hexdigest()


def pinned(text: str, pin: str) -> str:
    """The enrolment token with the beginning of a fingerprint behind it: of the authority whose hive it is for."""
    return f"{text}.{pin}" if pin else text


def secret_of(text: str) -> str:
    """The part that opens something: without a fingerprint."""
    return text.partition(".")[0]


def pin_in(text: str) -> str:
    """The beginning of a fingerprint in an enrolment token; "" without one."""
    return text.partition(".")[2]


def prefix_of(text: str) -> str:
    """How it begins, for people to tell theirs apart."""
    return text[:PREFIX_CHARS]


def id_of(letter: str, digest: Digest) -> str:
    """The id of the thing with this digest: `letter` and 16 characters; the same for the same text."""
    return letter + hashlib.sha256(b"id" + digest.encode()).hexdigest()[:ID_CHARS]
