"""The data folder: one owner, secrets made once, nothing open to others."""

import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infra.folder import RANDOM_KEYS, Folder, FolderInUse, WeakSecret, write_atomic

HOLD = """
import sys
from pathlib import Path
from infra.folder import Folder
claim = Folder(Path(sys.argv[1])).claim("up")
claim.set_url("http://127.0.0.1:1234")
print("held", flush=True)
sys.stdin.read()
"""
ROOT = Path(__file__).parents[2]


def hold(root: Path) -> "subprocess.Popen[str]":
    """A process that owns the folder until its input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_owner_is_told_who_the_first_is_and_what_to_do(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(FolderInUse) as caught:
            Folder(tmp_path).claim("serve")
        text = str(caught.value)
        assert str(tmp_path) in text
        assert f"process {holder.pid}" in text
        assert "up" in text
        assert "http://127.0.0.1:1234" in text
        assert f"kill {holder.pid}" in text
        assert "--data" in text
        holder.communicate("")
    Folder(tmp_path).claim("serve").release()


def test_the_owner_can_be_found_and_a_killed_one_leaves_the_folder_free(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.running() is None
    with hold(tmp_path) as holder:
        running = folder.running()
        assert running is not None
        assert (running.pid, running.what, running.url) == (holder.pid, "up", "http://127.0.0.1:1234")
        holder.kill()
        holder.communicate()
    assert folder.running() is None
    with folder.claim("up"):
        found = folder.running()
        assert found is not None
        assert (found.pid, found.url) == (os.getpid(), "")
    assert folder.running() is None


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    claim = Folder(tmp_path).claim("up")
    claim.release()
    with Folder(tmp_path).claim("up"):
        claim.release()
        assert Folder(tmp_path).running() is not None


def test_looking_makes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    assert folder.running() is None
    assert folder.path("a", "b") == tmp_path / "new" / "a" / "b"
    assert not (tmp_path / "new").exists()


def test_secrets_are_made_once_and_for_this_user_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    made = folder.secret("x", lambda: b"first")
    assert made == b"first"
    assert Folder(tmp_path / "data").secret("x", lambda: b"second") == b"first"
    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / "keys") == 0o700
    assert mode(tmp_path / "data" / "keys" / "x") == 0o600
    assert os.listdir(tmp_path / "data" / "keys") == ["x"]


def test_a_secret_that_was_opened_to_others_is_closed_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.secret("x", lambda: b"1")
    (tmp_path / "keys" / "x").chmod(0o644)
    folder.secret("x", lambda: b"2")
    assert mode(tmp_path / "keys" / "x") == 0o600


def _make(root: str) -> bytes:
    return Folder(Path(root)).secret("x", lambda: os.urandom(16))


def test_processes_that_race_get_the_same_secret(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_make, [str(tmp_path)] * 16))) == 1


def test_the_keys_have_the_promised_shapes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    key = folder.admin_key()
    assert key.startswith("hive_")
    assert len(key) == len("hive_") + 43
    assert key.isascii()
    assert folder.admin_key() == key
    assert len(folder.data_key()) == len(folder.ticket_key()) == 32
    assert folder.data_key() != folder.ticket_key()
    assert folder.data_key() == folder.data_key()


def test_find_prefers_what_is_explicit_then_the_environment_then_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Folder.find(environ={}).root == tmp_path / "home" / ".hive"
    (tmp_path / "project" / ".hive").mkdir()
    assert Folder.find(environ={}).root == tmp_path / "project" / ".hive"
    assert Folder.find(environ={"HIVE_DATA": "/named"}).root == Path("/named")
    assert Folder.find("here", environ={"HIVE_DATA": "/named"}).root == deep / "here"


def test_writing_replaces_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert os.listdir(path.parent) == ["file"]
    path.parent.joinpath("folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(path.parent / "folder", b"three")
    assert sorted(os.listdir(path.parent)) == ["file", "folder"]


def test_secrets_that_can_be_guessed_are_refused_and_those_of_the_hive_are_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.check_secrets()
    for _ in range(50):
        folder.path("keys", "data.key").unlink(missing_ok=True)
        assert len({folder.data_key(), folder.ticket_key(), folder.admin_key().encode()}) == 3
        folder.check_secrets()
    for name in ("admin.key", *RANDOM_KEYS):
        kept = folder.path("keys", name).read_bytes() if folder.path("keys", name).exists() else b""
        for weak in (b"", b"admin", b"hive_" + b"a" * 43, bytes(32), b"password" * 8):
            folder.path("keys", name).write_bytes(weak)
            with pytest.raises(WeakSecret, match=f"{name} is no random key"):
                folder.check_secrets()
        if kept:
            folder.path("keys", name).write_bytes(kept)
        else:
            folder.path("keys", name).unlink()
    folder.check_secrets()
