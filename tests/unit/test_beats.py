"""What the API remembers of machines' heartbeats: the latest, ten minutes of them, and never more than its bounds."""

import pytest

from events.hardware import GpuUse, Inventory, Usage
from events.protocol import Heartbeat
from services.beats import HISTORY_S, Beats
from web.usage_schema import points, usage_view

S = 1000


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


def beat(at: int, inventory: Inventory | None = None, usage: Usage | None = None) -> Heartbeat:
    return Heartbeat("s1", at, 12.5, 1, 2, 3, 4, 5, usage, inventory)


def test_the_latest_and_the_inventory_are_kept() -> None:
    clock = Clock()
    beats = Beats(clock)
    beats.take("w1", beat(clock.now, Inventory(cpu="a CPU", cores=8)))
    beats.take("w1", beat(clock.now + S))
    heard = beats.of("w1")
    assert heard is not None and heard.inventory is not None
    assert (heard.inventory.cores, heard.beats[-1].at, len(heard.beats)) == (8, clock.now + S, 2)
    assert beats.of("w2") is None


def test_ten_minutes_are_kept_and_a_silent_machine_is_forgotten() -> None:
    clock = Clock()
    beats = Beats(clock)
    for _ in range(HISTORY_S // 5 + 50):
        beats.take("w1", beat(clock.now))
        clock.now += 5 * S
    heard = beats.of("w1")
    assert heard is not None and len(heard.beats) == HISTORY_S // 5 + 1
    clock.now += (HISTORY_S + 1) * S
    assert beats.of("w1") is None


def test_it_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.beats.BEATS_MAX", 10)
    monkeypatch.setattr("services.beats.WORKERS_MAX", 4)
    clock = Clock()
    beats = Beats(clock)
    for at in range(30):
        clock.now += S
        beats.take(f"w{at % 3}", beat(clock.now))
    kept = [heard for name in ("w0", "w1", "w2") if (heard := beats.of(name))]
    assert len(kept) == 3 and sum(len(heard.beats) for heard in kept) == 10
    for at in range(10):
        beats.take(f"x{at}", beat(clock.now))
    assert sum(beats.of(name) is not None for name in [f"x{at}" for at in range(10)]) == 4


def test_what_a_machine_does_not_tell_is_null() -> None:
    gpu = GpuUse("GPU-1", 80, 8, 4, 1, 2, temperature=40)
    view = usage_view(beat(1, usage=Usage(gpus=[gpu])))
    assert (view.gpus[0].temperature, view.gpus[0].power, view.gpus[0].ecc_errors) == (40, None, None)
    assert usage_view(beat(1)).gpus == []
    assert points(None) == []
