"""What a store of blobs promises: whole or not at all, verified when read, the same bytes stored once."""

import asyncio
import contextlib
import hashlib
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.blobs import CHUNK_BYTES, INCOMING_AGE_S, BlobMismatch, BlobMissing, Blobs, BlobTooLarge

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 17]
NAMES_OF_NOTHING = ["", "x", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "/" * 64]


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunks(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def joined(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


def files_in(blobs: Path) -> list[str]:
    return sorted(path.name for path in blobs.rglob("*") if path.is_file())


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.mark.parametrize("size", SIZES)
async def test_comes_back_as_it_was(blobs: Blobs, size: int) -> None:
    data = os.urandom(size)
    blob = await blobs.put_stream(digest_of(data), chunks(data))
    assert (blob.digest, blob.size) == (digest_of(data), size)
    assert await blobs.put_stream(None, chunks(data)) == blob
    assert await blobs.put_bytes(data) == blob
    assert blobs.size(blob.digest) == size
    assert blobs.open(blob.digest).read_bytes() == data
    assert await blobs.read(blob.digest) == data
    assert await joined(blobs.stream(blob.digest)) == data


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (5, 5), (5, CHUNK_BYTES + 9), (CHUNK_BYTES, None), (1, 10**9), (10**9, None)]
)
async def test_ranges(blobs: Blobs, start: int, end: int | None) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 17)
    blob = await blobs.put_bytes(data)
    assert await joined(blobs.stream(blob.digest, start, end)) == data[start:end]


async def test_other_bytes_than_named_leave_nothing(blobs: Blobs, tmp_path: Path) -> None:
    wanted, sent = digest_of(b"wanted"), digest_of(b"sent")
    with pytest.raises(BlobMismatch) as caught:
        await blobs.put_stream(wanted, chunks(b"sent"))
    assert (caught.value.expected, caught.value.got) == (wanted, sent)
    assert files_in(tmp_path) == []


async def test_too_much_is_noticed_early_and_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 1000

    with pytest.raises(BlobTooLarge, match="10000"):
        await blobs.put_stream(None, endless(), size_max=10_000)
    assert asked == 11
    assert files_in(tmp_path) == []


async def test_a_sender_that_breaks_off_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2 * CHUNK_BYTES
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put_stream(None, broken())
    assert files_in(tmp_path) == []


async def test_a_cancelled_put_leaves_nothing_or_all(blobs: Blobs, tmp_path: Path) -> None:
    data = os.urandom(4 * CHUNK_BYTES)
    for steps in range(12):
        task = asyncio.create_task(blobs.put_stream(None, chunks(data)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert files_in(tmp_path) in ([], [digest_of(data)])


async def test_missing_lists_what_is_not_here_in_order(blobs: Blobs) -> None:
    here = (await blobs.put_bytes(b"here")).digest
    a, b = digest_of(b"a"), digest_of(b"b")
    assert await blobs.missing([b, here, a]) == [b, a]


@pytest.mark.parametrize("name", [digest_of(b"never"), *NAMES_OF_NOTHING])
async def test_what_is_not_here_is_named(blobs: Blobs, name: str) -> None:
    assert blobs.size(name) is None
    assert await blobs.missing([name]) == [name]
    with pytest.raises(BlobMissing):
        blobs.open(name)
    with pytest.raises(BlobMissing):
        await blobs.read(name)
    with pytest.raises(BlobMissing):
        await joined(blobs.stream(name))


async def test_wanting_a_blob_touches_it(blobs: Blobs) -> None:
    blob = await blobs.put_bytes(b"x")
    for want in (lambda: blobs.put_bytes(b"x"), lambda: blobs.missing([blob.digest])):
        os.utime(blobs.open(blob.digest), (1, 1))
        await want()
        assert blobs.open(blob.digest).stat().st_mtime > 1


@pytest.mark.parametrize("size", [1, 100, CHUNK_BYTES + 5])
@pytest.mark.parametrize("damage", ["bit", "cut", "emptied"])
async def test_changed_bytes_are_never_given_out_whole(blobs: Blobs, size: int, damage: str) -> None:
    data = os.urandom(size)
    for read in ("read", "stream", "part"):
        blob = await blobs.put_bytes(data)
        path = blobs.open(blob.digest)
        if damage == "bit":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        else:
            os.truncate(path, 0 if damage == "emptied" else size - 1)
        with pytest.raises(BlobMismatch):
            if read == "read":
                await blobs.read(blob.digest)
            else:
                await joined(blobs.stream(blob.digest, *((0, max(size - 2, 0)) if read == "part" else ())))
        assert blobs.size(blob.digest) is None  # set aside, so that it can be put again
        assert await blobs.put_bytes(data) == blob
        assert await blobs.read(blob.digest) == data


async def test_putting_again_mends_a_short_file(blobs: Blobs) -> None:
    blob = await blobs.put_bytes(b"some bytes")
    os.truncate(blobs.open(blob.digest), 3)
    await blobs.put_bytes(b"some bytes")
    assert await blobs.read(blob.digest) == b"some bytes"


async def test_many_at_once_and_the_same_at_once(blobs: Blobs, tmp_path: Path) -> None:
    bodies = [b"%d" % (n % 20) for n in range(100)]
    await asyncio.gather(*(blobs.put_stream(digest_of(body), chunks(body)) for body in bodies))
    assert files_in(tmp_path) == sorted(digest_of(b"%d" % n) for n in range(20))


async def test_a_reader_that_leaves_early_leaves_no_file_open(blobs: Blobs) -> None:
    blob = await blobs.put_bytes(os.urandom(3 * CHUNK_BYTES))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with contextlib.aclosing(blobs.stream(blob.digest)) as stream:
            async for _chunk in stream:
                break
    assert len(os.listdir("/proc/self/fd")) == before


def test_leftovers_of_a_crash_go_when_they_are_old(blobs: Blobs, tmp_path: Path) -> None:
    incoming = tmp_path / "blobs" / "incoming"
    old, young = incoming / "old", incoming / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    long_ago = time.time() - INCOMING_AGE_S - 60
    os.utime(old, (long_ago, long_ago))
    Blobs(tmp_path / "blobs")
    assert not old.exists()
    assert young.exists()


async def test_closed_to_others(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.put_bytes(b"x")
    for path in (tmp_path / "blobs").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
