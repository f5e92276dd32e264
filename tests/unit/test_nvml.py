"""NVML's façade: what it tells, what it does without, and recordings of it."""

from pathlib import Path

import pytest

from events.hardware import UNKNOWN
from infra.nvml import Nvml, NvmlAbsent, Process
from infra.nvml_recording import Recorded, Recorder
from tests.nvml_support import GIB, GPU_IS_LOST, NOT_SUPPORTED, Driver, FakeCard, desktop, divided, recorded, server


def test_a_card_tells_what_it_is_and_does() -> None:
    driver = Driver(FakeCard("GPU-1", used=GIB, processes={11: GIB // 2}, drawing={11: GIB // 2, 12: None}))
    nvml = Nvml.over(driver)
    (card,) = nvml.cards()
    assert (card.uuid, card.name) == ("GPU-1", "NVIDIA A100-SXM4-80GB")
    assert (card.memory_total, card.memory_used) == (80 * GIB, GIB)
    assert (card.utilisation, card.temperature, card.power_mw, card.power_limit_mw) == (7, 34, 62_345, 400_000)
    assert (card.ecc_corrected, card.ecc_errors) == (3, 0)
    assert card.processes == [Process(11, GIB // 2), Process(12, UNKNOWN)]
    assert nvml.versions() == ("550.54.15", "12.4")


def test_what_a_card_does_not_tell_is_unknown_and_hides_nothing_else() -> None:
    (card,) = Nvml.over(Driver(desktop())).cards()
    assert (card.ecc_corrected, card.ecc_errors, card.temperature) == (UNKNOWN, UNKNOWN, 34)
    everything = dict.fromkeys(
        [
            "nvmlDeviceGetName", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage",
            "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetMigMode",
            "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses",
        ],
        NOT_SUPPORTED,
    )  # fmt: skip
    (card,) = Nvml.over(Driver(FakeCard("GPU-1", errors=everything))).cards()
    assert (card.name, card.memory_total, card.utilisation, card.processes) == ("NVIDIA GPU", 80 * GIB, UNKNOWN, [])


def test_of_a_divided_card_the_slices_are_told() -> None:
    cards = Nvml.over(Driver(divided(), *server(1))).cards()
    assert [(card.uuid[:3], card.part, card.memory_total // GIB) for card in cards] == [
        ("MIG", True, 40), ("MIG", True, 40), ("GPU", False, 80),
    ]  # fmt: skip
    assert [card.utilisation for card in cards] == [UNKNOWN, UNKNOWN, 7]


def test_a_card_that_falls_off_the_bus_is_told_as_lost_and_comes_back() -> None:
    one, two = server(2)
    nvml = Nvml.over(Driver(one, two))
    nvml.cards()
    one.errors["*"] = GPU_IS_LOST
    assert {card.uuid: card.lost for card in nvml.cards()} == {one.uuid: True, two.uuid: False}
    one.errors.clear()
    assert not any(card.lost for card in nvml.cards())


def test_a_driver_that_goes_and_returns() -> None:
    driver = Driver(*server(1))
    nvml = Nvml.over(driver)
    driver.fails = GPU_IS_LOST
    for _ in range(2):
        with pytest.raises(NvmlAbsent, match="does not answer"):
            nvml.cards()
    driver.fails = 0
    assert len(nvml.cards()) == 1
    nvml.close()
    assert driver.opened == 0


def test_without_a_driver_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.nvml.DRIVER_FILES", ("/nonexistent",))
    monkeypatch.setattr("infra.nvml.library", lambda: pytest.fail("loaded"))
    with pytest.raises(NvmlAbsent, match="no NVIDIA driver"):
        Nvml.find()


def test_a_recording_answers_as_the_driver_did(tmp_path: Path) -> None:
    cards = [*server(2), desktop(), divided()]
    expected = Nvml.over(Driver(*cards)).cards()
    again = Nvml.over(Recorded.load(recorded(tmp_path / "nvml.json", *cards)))
    assert again.cards() == expected
    assert again.versions() == ("550.54.15", "12.4")


def test_a_recording_goes_on_frame_by_frame_and_stays_at_the_last(tmp_path: Path) -> None:
    (card,) = server(1)
    recorder = Recorder(Driver(card))
    nvml = Nvml.over(recorder)
    nvml.cards()
    card.used = 9 * GIB
    nvml.cards()
    recorder.save(tmp_path / "nvml.json")
    again = Nvml.over(Recorded.load(tmp_path / "nvml.json"))
    assert [again.cards()[0].memory_used for _ in range(3)] == [GIB // 2, 9 * GIB, 9 * GIB]


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "truncated"), ('{"frames": []}', "not a recording"), ('{"frames": [{}], "format": 99}', "not a recording")],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "nvml.json").write_text(text)
    with pytest.raises(ValueError, match=why):
        Recorded.load(tmp_path / "nvml.json")
