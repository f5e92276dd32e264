"""The worker's spool of unreported ends: what is on disk comes back, what was recorded does not."""

from pathlib import Path

import pytest

from events.protocol import Ended
from events.task import Detail
from worker import spool as module
from worker.spool import Spool


def ends(index: int) -> list[Ended]:
    return [Ended(1, "j1", [index, index], "exit", 3, "why", [Detail(wall_ms=index)])]


def again(spool: Spool, folder: Path) -> Spool:
    """The spool as the next agent finds it."""
    spool.close()
    return Spool(folder)


def test_what_was_saved_comes_back_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for batch in (1, 2, 3):
        spool.save(batch, ends(batch))
    assert again(spool, tmp_path).unreported == {1: ends(1), 2: ends(2), 3: ends(3)}


def test_what_is_recorded_does_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for batch in (1, 2, 3):
        spool.save(batch, ends(batch))
    spool.forget([1, 2, 99])
    assert again(spool, tmp_path).unreported == {3: ends(3)}


def test_nothing_is_kept_once_all_is_recorded(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.save(1, ends(1))
    spool.forget([1])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    assert again(spool, tmp_path).unreported == {}


def test_a_torn_record_is_ignored(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.save(1, ends(1))
    spool.save(2, ends(2))
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-3])
    assert again(spool, tmp_path).unreported == {1: ends(1)}


def test_a_flipped_bit_ends_the_reading(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.save(1, ends(1))
    spool.save(2, ends(2))
    (segment,) = tmp_path.iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2 + 20] ^= 1
    segment.write_bytes(data)
    assert again(spool, tmp_path).unreported == {1: ends(1)}


def test_old_segments_go_while_new_ones_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES_MAX", 200)
    spool = Spool(tmp_path)
    for batch in range(1, 101):
        spool.save(batch, ends(batch))
        spool.forget([batch - 1])
    assert len(list(tmp_path.iterdir())) <= 3
    assert again(spool, tmp_path).unreported == {100: ends(100)}


def test_it_survives_many_lives(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for life in range(1, 6):
        spool.save(life, ends(life))
        spool = again(spool, tmp_path)
    assert list(spool.unreported) == [1, 2, 3, 4, 5]
    spool.forget([1, 2, 3, 4, 5])
    assert again(spool, tmp_path).unreported == {}
