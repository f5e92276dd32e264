"""The manifest of an array: the blob that `JobSpec.each` names, a JSON list of `spec.Each`, one a task.

It is read once, when a job with it is submitted, or when a worker's ticket rests on it; which blobs it names is kept.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import msgspec

from events.base import Digest
from events.inputs import check_params
from events.spec import EACH_INPUTS_MAX, BadSpec, Each, check_inputs
from infra.blobs import BlobMismatch, BlobMissing, Blobs
from infra.threads import in_thread
from web.problems import Failed, bad_field, of_decoding

MANIFEST_BYTES_MAX = 256 * 1024**2
KEPT_DIGESTS_MAX = 500_000
"""Over all manifests that are kept: about 50 MB."""

Unseen: TypeAlias = Callable[[Iterable[Digest]], Awaitable[list[Digest]]]
"""Which of these blobs are not here, as far as the caller may know: a digest is no permission."""

_each_of = msgspec.json.Decoder(list[Each]).decode


class Manifest(msgspec.Struct, frozen=True, gc=False):
    """How many tasks it is for, and the blobs it names, as the 32 bytes of their digests."""

    count: int
    names: frozenset[bytes]


class Manifests:
    """Manifests among `blobs`."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[Digest, Manifest] = OrderedDict()
        self._digests = 0

    async def check(self, field: str, digest: Digest, count: int, unseen: Unseen) -> None:
        """Raise a problem about `field` unless the blob is a manifest for `count` tasks whose blobs all are the caller's
        to read.
        """
        manifest = await self._load(field, digest)
        if manifest.count != count:
            detail = f"{field}: the manifest has {manifest.count} entries, but the job has {count} tasks"
            raise bad_field(field, detail, "make both the same")
        missing = await unseen(sorted(name.hex() for name in manifest.names))
        if missing:
            detail = f"{field}: {len(missing)} blobs that the manifest names are not here, the first is {missing[0]}"
            raise bad_field(field, detail, "upload them first, with PUT /v1/blobs/<digest>")

    async def names(self, digest: Digest, blob: Digest) -> bool:
        """Whether `digest` is a manifest that names `blob`."""
        try:
            return bytes.fromhex(blob) in (await self._load("each", digest)).names
        except (Failed, BlobMissing, BlobMismatch):
            return False

    async def all_of(self, digest: Digest) -> frozenset[bytes]:
        """The blobs that the manifest `digest` names, as the 32 bytes of their digests; none when it is not here."""
        try:
            return (await self._load("each", digest)).names
        except (Failed, BlobMissing, BlobMismatch):
            return frozenset()

    async def _load(self, field: str, digest: Digest) -> Manifest:
        if (kept := self._kept.get(digest)) is not None:
            self._kept.move_to_end(digest)
            return kept
        size = self._blobs.size(digest)
        if size is None:
            raise bad_field(field, f"{field}: there is no blob {digest}", "upload the manifest first")
        if size > MANIFEST_BYTES_MAX:
            detail = f"{field}: the manifest has {size} bytes; the limit is {MANIFEST_BYTES_MAX}"
            raise Failed(413, "too-large", detail, field=field, remedy="split the array into several jobs")
        manifest = await in_thread(_parse, field, await self._blobs.read(digest))
        self._keep(digest, manifest)
        return manifest

    def _keep(self, digest: Digest, manifest: Manifest) -> None:
        if digest not in self._kept:
            self._digests += len(manifest.names)
        self._kept[digest] = manifest
        while self._digests > KEPT_DIGESTS_MAX and len(self._kept) > 1:
            self._digests -= len(self._kept.popitem(last=False)[1].names)


def _parse(field: str, data: bytes) -> Manifest:
    try:
        entries = _each_of(data)
    except msgspec.DecodeError as error:
        raise of_decoding(error, f"{field}:") from None
    names: set[bytes] = set()
    for number, entry in enumerate(entries):
        here = f"{field}:[{number}]"
        if entry.inputs:
            check_inputs(f"{here}.inputs", entry.inputs, EACH_INPUTS_MAX)
        if entry.params:
            check_params(f"{here}.params", entry.params)
        if any("\0" in text for text in entry.args):
            raise BadSpec(f"{here}.args", "must not contain a NUL character; remove it")
        if any(not name or "=" in name or "\0" in name + value for name, value in entry.env.items()):
            raise BadSpec(f"{here}.env", "names must be non-empty without '=', and nothing may hold a NUL character")
        for file in entry.inputs:
            if file.job or file.data is not None or file.form == "folder":
                remedy = "put folders, the results of other jobs and data into the job's own inputs"
                raise BadSpec(f"{here}.inputs", f"name files and archives by their digests only; {remedy}")
            if not file.url:
                names.add(bytes.fromhex(file.digest))
    return Manifest(len(entries), frozenset(names))
