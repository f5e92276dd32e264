"""Writing files so that they are there after a power cut: the file's bytes, its name, and the folder that holds it."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path, above: Path) -> None:
    """Make `folder` and its missing parents below `above`, mode 0700, each durable in its own parent."""
    if folder.is_dir() or folder == above:
        return
    make_folder(folder.parent, above)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a single pwrite may stop early."""
    view = memoryview(data)
    while view:
        wrote = os.pwrite(fd, view, offset)
        view, offset = view[wrote:], offset + wrote
