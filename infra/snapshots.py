"""Snapshots of a fold, as files: a cache of what the log folds to. Deleting them is always safe.

A file is named `<name>-v<version>-<position>.snap` and holds the SHA-256 of what follows it: zstd over the body. One
of another version, or damaged, is as good as none.
"""

import hashlib
import os
import re
from pathlib import Path

import zstandard

KEEP = 2
LEVEL = 3


class SnapshotFiles:
    """The snapshots of one fold, in one folder."""

    def __init__(self, folder: Path, name: str, version: int) -> None:
        self._folder, self._name, self._version = folder, name, version

    def save(self, position: int, body: bytes) -> None:
        """Keep `body` as the state at `position`; older ones but the latest are removed."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(body)
        path = self._folder / f"{self._name}-v{self._version}-{position}.snap"
        part = path.with_suffix(f".part{os.getpid()}")
        with part.open("wb") as file:
            file.write(hashlib.sha256(packed).digest() + packed)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        for _, old in self._found()[KEEP:]:
            old.unlink(missing_ok=True)

    def latest(self, last: int) -> tuple[int, bytes] | None:
        """The newest sound snapshot that is not beyond `last`: its position and body."""
        for position, path in self._found():
            if position > last:
                continue
            try:
                data = path.read_bytes()
                if hashlib.sha256(data[32:]).digest() == data[:32]:
                    return position, zstandard.ZstdDecompressor().decompress(data[32:])
            except (OSError, zstandard.ZstdError):
                continue
        return None

    def _found(self) -> list[tuple[int, Path]]:
        pattern = re.compile(rf"{re.escape(self._name)}-v{self._version}-(\d+)\.snap\Z")
        found = [(int(m[1]), path) for path in self._folder.glob("*.snap") if (m := pattern.match(path.name))]
        return sorted(found, reverse=True)
