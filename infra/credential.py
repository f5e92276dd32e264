"""Who a connection to NATS is: the seed of a nkey, and, where the server is in operator mode, the JWT that goes with it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from infra.nkey import BadKey, public_of

_BLOCK = "-+BEGIN {}-+\\s+(\\S+)\\s+-+END {}-+"
_JWT = re.compile(_BLOCK.format("NATS USER JWT", "NATS USER JWT"))
_SEED = re.compile(_BLOCK.format("USER NKEY SEED", "USER NKEY SEED"))


class BadCredential(Exception):
    """A file has no credential; the text names it and says what belongs there."""


class Credential(NamedTuple):
    """A user's secret `seed`. `jwt` gives the newest JWT each time that a connection is made, "" while there is none;
    None: the server knows the key by itself.
    """

    seed: str
    jwt: Callable[[], str] | None = None

    def __repr__(self) -> str:
        # A seed must not get into a log by accident.
        return f"Credential({'JWT' if self.jwt else 'nkey'})"


def from_file(path: Path) -> Credential:
    """What is in `path`: a seed alone, or a .creds file, whose JWT is read again for each connection.

    Raises BadCredential.
    """
    text = _read(path)
    block = _SEED.search(text)
    seed = block[1] if block else text.strip()
    try:
        public_of(seed)
    except BadKey as error:
        raise BadCredential(f"{path} is neither a user's seed (SU...) nor a .creds file: {error}") from None
    if _JWT.search(text) is None:
        return Credential(seed)

    def newest() -> str:
        found = _JWT.search(_read(path))
        return found[1] if found else ""

    return Credential(seed, newest)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCredential(f"{path} cannot be read: {error}") from None
