"""What a machine measures: its GPUs with whose processes are on them, what others leave of them, ten minutes of it."""

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from infra.nvml import Nvml
from tests.nvml_support import GIB, GPU_IS_LOST, Driver, FakeCard, desktop, divided, server
from worker.options import AgentOptions
from worker.resources import (
    FOREIGN_WINDOW_S,
    HISTORY_S,
    INVENTORY_EACH,
    CannotOffer,
    Resources,
    chosen,
    margin,
    measuring,
)
from worker.whose import is_own

MIB = 1024 * 1024
OURS = 4242


def whose(pid: int, worker: str, containers: Collection[str]) -> bool:
    """Of these tests: one process is a task's."""
    return pid == OURS


def resources(folder: Path, driver: Driver | None, gpus: str = "auto") -> Resources:
    return Resources("w1", folder, Nvml.over(driver) if driver else None, gpus, whose=whose)


def test_a_machine_without_gpus_tells_of_the_rest(tmp_path: Path) -> None:
    here = resources(tmp_path, None)
    beat = here.sample("s1", 2, 3).beat
    assert here.offered == ()
    assert beat.usage is not None and beat.usage.gpus == []
    assert (beat.running, beat.waiting) == (2, 3)
    assert 0 < beat.memory_used < beat.memory_total
    assert beat.inventory is not None and beat.inventory.cores > 0 and beat.inventory.driver == ""


def test_the_inventory_rides_on_some_heartbeats(tmp_path: Path) -> None:
    here = resources(tmp_path, None)
    assert here.sample("s1", 0, 0).beat.inventory is not None, "that one could not be sent"
    told: list[bool] = []
    for _ in range(INVENTORY_EACH + 1):
        told.append(here.sample("s1", 0, 0).beat.inventory is not None)
        here.told()
    assert told == [True, *[False] * (INVENTORY_EACH - 1), True]


def test_gpus_are_offered_less_a_margin(tmp_path: Path) -> None:
    here = resources(tmp_path, Driver(*server(2), divided()))
    assert [(gpu.memory_bytes, gpu.part) for gpu in here.offered] == [
        (80 * GIB - margin(80 * GIB), False)] * 2 + [(40 * GIB - margin(40 * GIB), True)] * 2  # fmt: skip
    assert here.inventory.driver == "550.54.15"


def test_the_owner_says_which(tmp_path: Path) -> None:
    driver = Driver(*server(3))
    assert [gpu.uuid for gpu in resources(tmp_path, driver, "0,2").offered] == [
        driver.cards[0].uuid,
        driver.cards[2].uuid,
    ]
    assert [gpu.uuid for gpu in resources(tmp_path, driver, driver.cards[1].uuid).offered] == [driver.cards[1].uuid]
    assert resources(tmp_path, driver, "none").offered == ()
    with pytest.raises(CannotOffer, match="there is no GPU '7'; this machine has 3"):
        chosen(Nvml.over(driver).cards(), "7")


def test_a_recording_that_cannot_be_played_is_told(tmp_path: Path) -> None:
    (tmp_path / "nvml.json").write_text("no")
    options = AgentOptions(
        state=tmp_path, worker="w1", pool="p", nats_url="", api_url="", seed=b"", nvml_recording=tmp_path / "nvml.json"
    )
    with pytest.raises(CannotOffer, match="cannot be played"):
        measuring(options, tuple)


def test_a_gpu_tells_whose_processes_are_on_it(tmp_path: Path) -> None:
    card = FakeCard("GPU-1", used=9 * GIB, processes={OURS: 5 * GIB, 1: GIB, 2: None})
    beat = resources(tmp_path, Driver(card)).sample("s1", 0, 0).beat
    assert beat.usage is not None
    (gpu,) = beat.usage.gpus
    assert (gpu.memory_used, gpu.memory_own, gpu.own, gpu.foreign) == (9 * GIB, 5 * GIB, 1, 2)
    assert (gpu.power_w, gpu.power_limit_w) == (62, 400)


def test_what_others_use_is_not_there_for_tasks(tmp_path: Path) -> None:
    card = FakeCard("GPU-1", used=30 * GIB, processes={OURS: 10 * GIB, 1: 20 * GIB})
    here = resources(tmp_path, Driver(card))
    here.sample("s1", 0, 0)
    offered = here.offered[0].memory_bytes // MIB
    assert here.usable({"GPU-1": 10 * GIB}) == [offered - 20 * 1024]
    # What a task uses beyond what it asked for is nobody's to give either.
    assert here.usable({"GPU-1": 4 * GIB}) == [offered - 26 * 1024]
    assert here.usable({}) == [offered - 30 * 1024]


def test_what_others_used_a_moment_ago_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard("GPU-1", used=30 * GIB)
    here = resources(tmp_path, Driver(card))
    offered, seconds = here.offered[0].memory_bytes // MIB, [1000]
    monkeypatch.setattr("worker.resources.time.time_ns", lambda: seconds[0] * 1_000_000_000)
    here.sample("s1", 0, 0)
    card.used = 0
    seconds[0] += FOREIGN_WINDOW_S // 2
    here.sample("s1", 0, 0)
    assert here.usable({}) == [offered - 30 * 1024]
    seconds[0] += FOREIGN_WINDOW_S
    here.sample("s1", 0, 0)
    assert here.usable({}) == [offered]


def test_a_lost_gpu_has_nothing_for_tasks(tmp_path: Path) -> None:
    one, two = server(2)
    here = resources(tmp_path, Driver(one, two))
    one.errors["*"] = GPU_IS_LOST
    here.sample("s1", 0, 0)
    assert [bool(mib) for mib in here.usable({})] == [False, True]


def test_ten_minutes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, seconds = resources(tmp_path, None), [1000]
    monkeypatch.setattr("worker.resources.time.time_ns", lambda: seconds[0] * 1_000_000_000)
    for _ in range(HISTORY_S // 60 + 5):
        here.sample("s1", 0, 0)
        seconds[0] += 60
    assert len(here.history) == HISTORY_S // 60 + 1


def test_the_interval_stays_within_bounds(tmp_path: Path) -> None:
    here = resources(tmp_path, None)
    for asked, became in ((1, 0.5), (2500, 2.5), (99_999, 5.0)):
        here.adjust(asked)
        assert here.interval_s == became


def test_a_driver_that_goes_takes_nothing_else_with_it(tmp_path: Path) -> None:
    driver = Driver(desktop())
    here = resources(tmp_path, driver)
    driver.fails = GPU_IS_LOST
    beat = here.sample("s1", 0, 0).beat
    assert beat.usage is not None and beat.usage.gpus == [] and beat.memory_total
    assert here.usable({}) == [0]


def test_this_process_is_nobodys_task() -> None:
    assert not is_own(os.getpid(), "w1")
    assert not is_own(1, "w1", ["0123456789ab"])
    assert not is_own(2**22, "w1", ["0123456789ab"])
