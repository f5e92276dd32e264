"""What free space allows, and that looking at it is cheap and truthful."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.disk import DiskGuard, free_bytes, state_of


@pytest.mark.parametrize(
    ("free", "state"), [(0, "full"), (9, "full"), (10, "low"), (99, "low"), (100, "ok"), (10**15, "ok")]
)
def test_state_by_free_space(free: int, state: str) -> None:
    assert state_of(free, warn_bytes=100, stop_bytes=10) == state


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_more_room_never_allows_less(a: int, b: int) -> None:
    order = ["full", "low", "ok"]
    low, high = sorted((a, b))
    assert order.index(state_of(low, 500, 100)) <= order.index(state_of(high, 500, 100))


def test_says_what_the_file_system_says(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path / "not" / "yet") - found.f_bavail * found.f_frsize) < 1024**3


def test_names_place_limit_and_remedy(tmp_path: Path) -> None:
    guard = DiskGuard(tmp_path, warn_bytes=2**62, stop_bytes=2**61)
    assert guard.state == "full"
    assert str(tmp_path) in guard.why()
    assert "new work is refused" in guard.why()
    assert DiskGuard(tmp_path, warn_bytes=2**62, stop_bytes=0).state == "low"
    assert DiskGuard(tmp_path, 0, 0).why() == ""


def test_bounds_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop_bytes"):
        DiskGuard(tmp_path, warn_bytes=1, stop_bytes=2)
