"""Whole hives under faults, in virtual time. `HIVE_TEST_SEED` repeats a run; the seed is in each test's name."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from events import catalog
from tests.simulation.clock import run
from tests.simulation.world import live

LOGS_SHOWN = 40
FIXED = (1, 2, 3, 4, 5)
DRAWN = int(os.environ.get("HIVE_SIMULATIONS") or 15)
"""How many more, with seeds that follow the run's own."""


def simulate(seed: int, folder: Path) -> list[str]:
    """One run: what the log says, without what is random by intention."""
    folder.mkdir()
    with capture_logs() as logs:
        try:
            world = run(live(seed, folder))
        except BaseException:
            print(f"HIVE simulation seed {seed}", *logs[-LOGS_SHOWN:], sep="\n")
            raise
    messages = [catalog.decode(entry.data) for entry in world.auditor.log.entries]
    return [f"{one.at} {one.writer} {one.decisions}" for one in messages]


@pytest.mark.parametrize("seed", FIXED)
def test_all_work_ends_once(seed: int, tmp_path: Path) -> None:
    assert len(simulate(seed, tmp_path / "a")) > 2


@pytest.mark.parametrize("nth", range(DRAWN))
def test_all_work_ends_once_with_the_seed_of_this_run(nth: int, seed: int, tmp_path: Path) -> None:
    assert len(simulate(seed * 1000 + nth, tmp_path / "a")) > 2


def test_a_seed_repeats_its_run(tmp_path: Path) -> None:
    assert simulate(7, tmp_path / "a") == simulate(7, tmp_path / "b")
