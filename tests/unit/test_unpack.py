"""Archives that strangers made: what comes out, and what never does."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from worker import unpack as unpacking
from worker.unpack import BadArchive, unpack


def tar(*entries: tuple[str, bytes, dict[str, Any]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data, more in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def out_of(data: bytes, folder: Path) -> dict[str, bytes]:
    """The files that came out."""
    folder.mkdir(exist_ok=True)
    (folder / "archive").write_bytes(data)
    fd = os.open(folder / "archive", os.O_RDONLY)
    try:
        unpack(fd, str(folder / "out"))
    finally:
        os.close(fd)
    files = [path for path in (folder / "out").rglob("*") if not path.is_dir()]
    assert all(stat.S_ISREG(path.lstat().st_mode) for path in files)
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files}


GOOD = tar(
    ("a/b.txt", b"y" * 512, {}),
    ("./c", b"z" * 1000, {"mode": 0o755}),
    ("d" * 150, b"", {}),
    ("é/f", b"q" * 1_000_000, {}),
    ("g", b"", {"type": tarfile.DIRTYPE}),
)
HELD = {"a/b.txt": b"y" * 512, "c": b"z" * 1000, "d" * 150: b"", "é/f": b"q" * 1_000_000}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_tar_comes_out_whole_whatever_it_is_packed_with(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert out_of(pack(GOOD), tmp_path) == HELD
    assert os.access(tmp_path / "out" / "c", os.X_OK)
    assert not (tmp_path / "out" / "a" / "b.txt").stat().st_mode & 0o111
    assert (tmp_path / "out" / "g").is_dir()


def test_a_zip_comes_out_whole(tmp_path: Path) -> None:
    assert out_of(zipped(("a/b", b"x" * 100), ("c", b""), ("d/", b"")), tmp_path) == {"a/b": b"x" * 100, "c": b""}


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\x", "C:/x", "a/" * 70 + "b", "n" * 3000])
@pytest.mark.parametrize("make", [lambda name: tar((name, b"x", {})), lambda name: zipped((name, b"x"))])
def test_no_path_leads_out(name: str, make: Callable[[str], bytes], tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="entry 1 ") as caught:
        out_of(make(name), tmp_path / "in")
    assert name not in str(caught.value), "the archive's words are its user's"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_holds_no_links_and_no_devices(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="entry 2 is a link, or no file"):
        out_of(tar(("a", b"", {}), ("l", b"", {"type": kind, "linkname": "a"})), tmp_path)


def test_a_zip_holds_no_links(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("l")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(BadArchive, match="entry 1 is a link"):
        out_of(zipped((link, b"/etc/passwd")), tmp_path)


@pytest.mark.parametrize("second", ["a", "a/b"])
def test_nothing_is_in_it_twice(second: str, tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="entry 2 is"):
        out_of(tar(("a", b"1", {}), (second, b"2", {})), tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "RATIO_FREE_BYTES", 1_000_000)
    monkeypatch.setattr(unpacking, "ENTRIES_MAX", 100)
    monkeypatch.setattr(unpacking, "DIRECTORY_BYTES_MAX", 10_000)


BOMB = b"\0" * 20_000_000


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("data", [gzip.compress(tar(("a", BOMB, {}))), zipped(("a", BOMB))])
def test_a_bomb_is_noticed_while_it_unpacks(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="unpacks to more than"):
        out_of(data, tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 10_000_000


def test_a_zip_that_lies_about_sizes_gives_no_more(tmp_path: Path) -> None:
    data = bytearray(zipped(("a", b"\0" * 1_000_000)))
    place = data.rfind(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<L", 10)
    with pytest.raises(BadArchive):
        out_of(bytes(data), tmp_path)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(("a", random.Random(1).randbytes(5000)), ("b", random.Random(2).randbytes(5000))))
    first = data.find(b"PK\1\2")
    second = data.find(b"PK\1\2", first + 4)
    for place in (first, second):
        data[place + 20 : place + 24] = struct.pack("<L", 9000)
    with pytest.raises(BadArchive, match="overlap"):
        out_of(bytes(data), tmp_path)


@pytest.mark.usefixtures("small")
def test_too_many_entries_and_too_large_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="100 entries"):
        out_of(tar(*((f"f{n}", b"", {}) for n in range(101))), tmp_path / "1")
    with pytest.raises(BadArchive, match="101 entries; the limit is 100"):
        out_of(zipped(*((f"f{n}", b"") for n in range(101))), tmp_path / "2")
    with pytest.raises(BadArchive, match="directory"):
        out_of(zipped(*((f"{n}" * 500, b"") for n in range(50))), tmp_path / "3")


def test_what_it_says_of_one_entry_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="of one entry"):
        out_of(tar(("a", b"", {"pax_headers": {"comment": "c" * 3_000_000}})), tmp_path)
    with pytest.raises(BadArchive, match="of one entry"):
        out_of(tar(("n" * 3_000_000, b"", {}), form=tarfile.GNU_FORMAT), tmp_path)


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    with pytest.raises(BadArchive, match="cancelled"):
        unpack(fd, str(tmp_path / "out"), lambda: True)
    os.close(fd)


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_refused_in_so_many_words(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    small = tar(("a/b", b"x" * 700, {}), ("c", b"", {}))
    data = bytearray(
        draw.choice([small, gzip.compress(small), lzma.compress(small), zipped(("a/b", b"x"), ("c", b""))])
    )
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    try:
        out_of(bytes(data[: draw.randint(1, len(data))] if draw.random() < 0.3 else data), tmp_path / "in")
    except BadArchive:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
