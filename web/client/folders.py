"""Folders of this machine as inputs: a list of files by digest, and the files that the hive does not have yet."""

import os
from pathlib import Path

import msgspec

from events.base import Digest
from events.inputs import FILES_MAX, BadSpec, File, files_of, list_bytes
from infra.threads import in_thread
from web.client import files
from web.client.errors import Refused
from web.client.http import Http


class Stored(msgspec.Struct, frozen=True):
    """A folder that is stored: the digest of its list, how many files it has, and how many bytes they are together."""

    digest: Digest
    files: int
    size: int


async def upload(http: Http, folder: Path) -> Stored:
    """Store the folder. Raises Refused for what cannot be taken, such as links that lead out of it."""
    paths, empty = await in_thread(_walk, folder)
    stored = await files.upload(http, [folder / path for path in paths])
    listed = [File(path, blob.digest, blob.size) for path, blob in zip(paths, stored, strict=True)]
    data = list_bytes(listed + [File(path) for path in empty])
    try:
        files_of(data)
    except BadSpec as error:
        raise Refused(f"{folder}: {error.detail}", remedy="rename it, or pack the folder into an archive") from None
    (blob,) = await files.upload(http, [data])
    return Stored(blob.digest, len(paths), sum(blob.size for blob in stored))


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """The files below `folder`, and the folders with nothing in them, as paths in it."""
    found: list[str] = []
    empty: list[str] = []
    root = folder.resolve()
    for here, names, leaves in os.walk(folder, onerror=_unreadable):
        names.sort()
        below = Path(here).relative_to(folder)
        for name in names:
            if os.path.islink(f"{here}/{name}"):
                raise Refused(f"{here}/{name} is a link to a folder", remedy="put a copy in its place, or leave it out")
        for name in sorted(leaves):
            path = Path(here, name)
            if not path.is_file():
                raise Refused(f"{path} is no file", remedy="devices, pipes, sockets and dead links cannot be uploaded")
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise Refused(f"{path} is a link that leads out of {folder}", remedy="put a copy in its place")
            found.append((below / name).as_posix())
        if not names and not leaves and below.parts:
            empty.append(below.as_posix())
        if len(found) + len(empty) > FILES_MAX:
            remedy = "split it, or pack it into an archive and let it be unpacked"
            raise Refused(f"{folder} has more than {FILES_MAX} files", remedy=remedy)
    return found, empty


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename}: {error.strerror}", remedy="make it readable, or leave it out")
