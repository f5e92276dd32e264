"""Inputs that came in the request itself: stored as blobs, so that from here on they are like any other."""

import msgspec

from events.base import Digest
from events.inputs import Input
from events.spec import JobSpec
from web.caller import Caller
from web.core import Core
from web.problems import Failed


async def stored(core: Core, caller: Caller, specs: list[JobSpec]) -> list[JobSpec]:
    """The specs, each input with data named by the digest of its blob, which is on disk. Raises Failed."""
    if not any(file.data is not None for spec in specs for file in spec.inputs):
        return specs
    most = core.limits_of(caller.user).upload_bytes
    kept: list[Digest] = []

    async def named(file: Input) -> Input:
        if file.data is None:
            return file
        if most and len(file.data) > most:
            detail = f"{file.path}: has {len(file.data)} bytes; you may upload files of {most}"
            raise Failed(413, "too-large", detail, field="inputs", remedy="split it")
        blob = await core.blobs.put_bytes(file.data)
        kept.append(blob.digest)
        return msgspec.structs.replace(file, digest=blob.digest, data=None)

    made = [
        msgspec.structs.replace(spec, inputs=[await named(file) for file in spec.inputs]) if spec.inputs else spec
        for spec in specs
    ]
    await core.references.add(caller.user, kept)
    return made
