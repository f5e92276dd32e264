"""Folders: blobs that list the files of one (see `events.inputs.File`), among the inputs and the results of jobs."""

from collections import OrderedDict

import msgspec

from events.base import Digest
from events.inputs import LIST_BYTES_MAX, BadSpec, File, files_of
from infra.blobs import BlobMismatch, BlobMissing, Blobs
from infra.threads import in_thread
from web.manifests import Unseen
from web.problems import bad_field

KEPT_FILES_MAX = 200_000
"""Over all lists that are kept: about 80 MB."""


class Folder(msgspec.Struct, frozen=True, gc=False):
    """The files, by path, and their blobs as the 32 bytes of their digests."""

    files: list[File]
    names: frozenset[bytes]


class Folders:
    """Lists of files among `blobs`. The latest used are kept."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[Digest, Folder] = OrderedDict()
        self._files = 0

    async def check(self, field: str, digest: Digest, unseen: Unseen) -> None:
        """Raise a problem about `field` unless the blob is a list of files that all are the caller's to read."""
        try:
            folder = await self.load(digest)
        except BadSpec as error:
            raise BadSpec(f"{field}.digest:{error.field}", error.detail) from None
        missing = await unseen(sorted(name.hex() for name in folder.names))
        if missing:
            detail = f"{field}: {len(missing)} blobs that the folder names are not here, the first is {missing[0]}"
            raise bad_field(f"{field}.digest", detail, "upload them first, with PUT /v1/blobs/<digest>")

    async def holds(self, digest: Digest, blob: Digest) -> bool:
        """Whether `digest` is a folder that holds `blob`."""
        try:
            return bytes.fromhex(blob) in (await self.load(digest)).names
        except (BadSpec, BlobMissing, BlobMismatch, ValueError):
            return False

    async def load(self, digest: Digest) -> Folder:
        """The folder. Raises BadSpec, BlobMissing, BlobMismatch."""
        if (kept := self._kept.get(digest)) is not None:
            self._kept.move_to_end(digest)
            return kept
        size = self._blobs.size(digest)
        if size is None:
            raise BlobMissing(digest)
        if size > LIST_BYTES_MAX:
            raise BadSpec("", f"the list of files has {size} bytes; the limit is {LIST_BYTES_MAX}")
        folder = await in_thread(_parse, await self._blobs.read(digest))
        if digest not in self._kept:
            self._files += len(folder.files)
        self._kept[digest] = folder
        while self._files > KEPT_FILES_MAX and len(self._kept) > 1:
            self._files -= len(self._kept.popitem(last=False)[1].files)
        return folder


def _parse(data: bytes) -> Folder:
    files = sorted(files_of(data), key=lambda file: file.path)
    return Folder(files, frozenset(bytes.fromhex(file.digest) for file in files if file.digest))
