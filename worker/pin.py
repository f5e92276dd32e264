"""The hive's signing key as this worker knows it: kept in its state folder from the first credential on, and replaced only
by one that the hive's chain leads to (see `infra.signing_key`).
"""

from collections.abc import Sequence
from pathlib import Path

import structlog

from infra.folder import write_atomic
from infra.nkey import BadKey, check_public
from infra.signing_key import Link, follow

PIN_NAME = "hive.pub"

_log = structlog.get_logger()


class Pin:
    """`key`: the hive's public key, "" while none is known. Raises infra.nkey.BadKey for a damaged file."""

    def __init__(self, state: Path) -> None:
        self._file = state / "keys" / PIN_NAME
        self.key = ""
        try:
            text = self._file.read_text().strip()
        except FileNotFoundError:
            return
        try:
            self.key = check_public(text, "server")
        except BadKey as error:
            raise BadKey(f"{self._file} is damaged ({error}); delete it to take the key that the hive shows") from None

    def follow(self, chain: Sequence[Link]) -> None:
        """Keep the newest key of the chain. Raises BadChain, and keeps what there is; OSError."""
        key = follow(self.key, chain)
        if key == self.key:
            return
        write_atomic(self._file, key.encode())
        if self.key:
            _log.warning("worker.hive_has_another_key", key=key, before=self.key)
        self.key = key
