"""The index: what lookups see at each moment, what survives, and that a damaged file only costs a replay."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import index as module
from infra.index import Index, IndexBroken, Known


def digest(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db")
    yield opened
    opened.close()


def test_notes_are_seen_before_and_after_their_commit(index: Index) -> None:
    index.note("j1", digest(1), "")
    assert index.lookup(["j1", "j2"]) == {"j1": Known(digest(1), "")}
    index.commit(7)
    assert index.position == 7
    assert index.lookup(["j1", "j2"]) == {"j1": Known(digest(1), "")}


def test_an_end_keeps_the_digest_wherever_it_lies(index: Index) -> None:
    index.note("j1", digest(1), "")
    index.note("j1", "", "failed")
    assert index.lookup(["j1"]) == {"j1": Known(digest(1), "failed")}
    index.commit(1)
    index.note("j1", "", "succeeded")
    assert index.lookup(["j1"]) == {"j1": Known(digest(1), "succeeded")}


def test_discard_goes_back_to_the_commit(index: Index) -> None:
    index.note("j1", digest(1), "")
    index.commit(1)
    index.note("j1", "", "succeeded")
    index.note("j2", digest(2), "")
    index.discard()
    assert index.lookup(["j1", "j2"]) == {"j1": Known(digest(1), "")}
    assert index.position == 1


def test_a_digest_that_is_none_comes_back_as_it_was(index: Index) -> None:
    odd = ["x", "a" * 32, "Z" * 64, "AB" * 32, " " + "a" * 63]
    for n, text in enumerate(odd):
        index.note(str(n), text, "")
    index.commit(1)
    assert [index.lookup([str(n)])[str(n)].digest for n in range(len(odd))] == odd


def test_survives_a_restart_and_an_end_without_close(tmp_path: Path) -> None:
    first = Index(tmp_path / "index.db")
    first.note("j1", digest(1), "succeeded")
    first.commit(5)
    first.note("j2", digest(2), "")
    for name in os.listdir(tmp_path):  # what the disk holds if the process ends here
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    first.close()
    (tmp_path / "again").mkdir()
    for path in tmp_path.glob("copy-*"):
        path.rename(tmp_path / "again" / path.name.removeprefix("copy-"))
    second = Index(tmp_path / "again" / "index.db")
    assert second.position == 5
    assert second.lookup(["j1", "j2"]) == {"j1": Known(digest(1), "succeeded")}
    second.close()


def test_clear_forgets_everything(index: Index) -> None:
    index.note("j1", digest(1), "")
    index.commit(3)
    index.note("j2", digest(2), "")
    index.clear()
    assert (index.position, index.lookup(["j1", "j2"])) == (0, {})
    index.note("j3", digest(3), "")
    index.commit(4)
    assert index.lookup(["j3"]) == {"j3": Known(digest(3), "")}


def test_files_are_private(tmp_path: Path) -> None:
    index = Index(tmp_path / "new" / "index.db")
    index.note("j1", digest(1), "")
    index.commit(1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    index.close()


@pytest.mark.parametrize("suffix", ["", "-recent"])
@pytest.mark.parametrize("damage", ["noise", "cut", "gone", "other"])
def test_a_damaged_file_starts_anew_at_zero(tmp_path: Path, suffix: str, damage: str) -> None:
    index = Index(tmp_path / "index.db")
    index.note("j1", digest(1), "")
    index.commit(9)
    index.close()
    path = tmp_path / f"index.db{suffix}"
    if damage == "noise":
        path.write_bytes(os.urandom(8192))
    elif damage == "cut":
        os.truncate(path, 5000)
    elif damage == "gone":
        path.unlink()
    else:
        Index(tmp_path / "other" / "index.db").close()
        shutil.copy(tmp_path / "other" / path.name, path)
    again = Index(tmp_path / "index.db")
    assert (again.position, again.lookup(["j1"])) == (0, {})
    again.note("j2", digest(2), "")
    again.commit(1)
    again.close()
    last = Index(tmp_path / "index.db")
    assert (last.position, set(last.lookup(["j1", "j2"]))) == (1, {"j2"})
    last.close()


def test_damage_while_open_is_told_and_the_next_open_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGE_ROWS", 500)
    monkeypatch.setattr(module, "CACHE_KIB", 16)
    index = Index(tmp_path / "index.db")
    for n in range(5000):
        index.note(f"j{n}", digest(n), "")
        if n % 100 == 99:
            index.commit(n)
            if index._thread:
                index._thread.join()
    index.commit(5000)
    size = (tmp_path / "index.db").stat().st_size
    assert size > 100_000
    with open(tmp_path / "index.db", "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(size - 8192))
    with pytest.raises(IndexBroken, match="put aside"):
        index.lookup([f"j{n}" for n in range(5000)])
    again = Index(tmp_path / "index.db")
    assert again.position == 0
    again.close()


def test_merges_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGE_ROWS", 300)
    monkeypatch.setattr(module, "RECENT_ROWS_MAX", 900)
    index = Index(tmp_path / "index.db")
    wanted: dict[str, Known] = {}
    for turn in range(60):
        for n in range(turn * 50, turn * 50 + 100):  # each id twice: its digest first, its end later
            known = wanted.get(f"j{n}")
            wanted[f"j{n}"] = Known(digest(n), "succeeded" if known else "")
            index.note(f"j{n}", "" if known else digest(n), wanted[f"j{n}"].state)
        index.commit(turn + 1)
        assert index.lookup(wanted) == wanted
        if turn % 20 == 19:
            index.close()
            index = Index(tmp_path / "index.db")
            assert index.position == turn + 1
            assert index.lookup(wanted) == wanted
    assert index._sorted.execute("SELECT count(*) FROM known").fetchone()[0] > 1000
    index.close()


IDS = st.sampled_from([f"j{n}" for n in range(6)])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("note"), IDS, st.sampled_from(["", digest(1), digest(2), "odd"]), st.sampled_from(["", "ended"])
        ),
        st.sampled_from([("commit",), ("commit",), ("discard",), ("reopen",), ("clear",)]),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(STEPS)
def test_does_what_two_dicts_do(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, ...]]) -> None:
    """Against the obvious model, with merges after every few rows."""
    path = tmp_path_factory.mktemp("index") / "index.db"
    stored: dict[str, Known] = {}
    seen: dict[str, Known] = {}
    position = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MERGE_ROWS", 3)
        index = Index(path)
        for at, step in enumerate(steps, 1):
            if step[0] == "note":
                _, id, body, state = step
                seen[id] = Known(body or (seen[id].digest if id in seen else ""), state)
                index.note(id, body, state)
            elif step[0] == "commit":
                index.commit(at)
                stored, position = dict(seen), at
            elif step[0] == "discard":
                index.discard()
                seen = dict(stored)
            elif step[0] == "reopen":
                index.close()
                index, seen = Index(path), dict(stored)
            else:
                index.clear()
                stored, seen, position = {}, {}, 0
            assert index.lookup([f"j{n}" for n in range(6)]) == seen
            assert index.position == position
        index.close()
