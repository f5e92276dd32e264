"""The worker's machine and its GPUs: a task waits for its own, and the platform hears when others take them."""

from pathlib import Path

import pytest

from events.hardware import Gpu
from events.protocol import Configure, Hello, Orders
from events.worker import Capacity
from infra.engine import About
from tests.machine_support import done, order, starts, told
from worker.confine import Confiner, Machine, Rules
from worker.executors.base import Box, Launch
from worker.executors.bubblewrap import Sandbox
from worker.executors.container_config import config_of
from worker.gpus import TOLD_MIB, environment
from worker.machine import step
from worker.messages import Adopted, GpusUsable, Measure, Ordered, Repoll, Save, Stop
from worker.state import State, next_poll, reserved

GPUS = (Gpu("GPU-0", "NVIDIA A100", 1000), Gpu("GPU-1", "NVIDIA A100", 1000))
HELLO = Hello("boot", Capacity(64_000, 1000, gpus=GPUS), "1", "nonce")


def machine() -> State:
    """A greeted machine with two GPUs."""
    state = State("s", HELLO)
    step(state, Ordered(Orders([]), 0, greeted=True))
    return state


def test_a_task_waits_for_its_own_gpu() -> None:
    state = machine()
    orders = [order(1, [0, 0], gpus=["GPU-0"], gpus_milli=1000), order(2, [1, 1], gpus=["GPU-0"], gpus_milli=1000)]
    assert starts(told(state, *orders)) == [(1, 0)]
    assert starts(done(state, 1, 0)) == [(2, 1)]
    done(state, 2, 1)
    assert not state.used_gpus


def test_shares_run_side_by_side() -> None:
    state = machine()
    assert starts(told(state, order(1, [0, 2], gpus=["GPU-1"], gpus_milli=333))) == [(1, 0), (1, 1), (1, 2)]
    assert starts(told(state, order(2, [3, 3], gpus=["GPU-1"], gpus_milli=333))) == []


def test_a_gpu_that_is_not_offered_is_no_place_to_run() -> None:
    (saved,) = told(machine(), order(1, [0, 0], gpus=["GPU-9"], gpus_milli=1000))
    assert isinstance(saved, Save)
    (ended,) = saved.items
    assert (ended.end, "not offered" in ended.reason) == ("rejected", True)


def test_what_running_tasks_asked_for_is_reserved() -> None:
    state = machine()
    told(state, order(1, [0, 1], gpus=["GPU-1"], gpus_milli=500, gpu_memory=100))
    assert reserved(state) == {"GPU-1": 200}


def test_the_platform_hears_what_others_use_and_when_that_changes() -> None:
    state = machine()
    assert step(state, GpusUsable([80_000, 80_000], 1)) == [Repoll()], "the poll that waits said nothing of it"
    assert next_poll(state, 2).gpus == [80_000, 80_000]
    assert step(state, GpusUsable([80_000 - TOLD_MIB + 1, 80_000], 3)) == []
    assert step(state, GpusUsable([80_000 - TOLD_MIB, 80_000], 4)) == [Repoll()]
    assert step(state, GpusUsable([80_000 - TOLD_MIB, 80_000], 5)) == [], "it is said once"
    assert step(state, GpusUsable([0, 80_000], 6)) == [Repoll()]


def test_one_that_stops_says_nothing_more_of_its_gpus() -> None:
    state = machine()
    step(state, Stop(1))
    assert Repoll() not in step(state, GpusUsable([80_000, 80_000], 2))


def test_a_task_sees_its_gpus_and_no_other() -> None:
    mine = order(1, [0, 0], gpus=["GPU-1", "GPU-0"], gpus_milli=2000)
    assert environment(HELLO.capacity, mine) == {
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0", "NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-0", "HIVE_GPUS": "2",
    }  # fmt: skip
    assert environment(HELLO.capacity, order(1, [0, 0])) == {
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    assert environment(Capacity(1000, 1000), order(1, [0, 0])) == {}


def test_only_a_task_with_gpus_finds_them_in_its_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("worker.executors.bubblewrap.gpu_devices", lambda: ["/dev/nvidia0", "/dev/nvidiactl"])
    confiner = Confiner("w1", Rules(), Machine(Sandbox("/usr/bin/bwrap", ())), 0)
    mine = confiner.box(order(1, [0, 0], gpus=["GPU-0"], gpus_milli=1000), str(tmp_path))
    others = confiner.box(order(1, [0, 0]), str(tmp_path))
    assert mine is not None and others is not None
    assert " ".join(mine.prefix).count("--dev-bind-try /dev/nvidia0 /dev/nvidia0 --dev-bind-try /dev/nvidiactl") == 1
    assert not any("nvidia" in word for word in others.prefix)


def test_how_often_to_measure_is_told_once_an_order() -> None:
    state = machine()
    assert told(state, Configure(3, 1000)) == [Measure(1000)]
    assert told(state, Configure(3, 1000)) == []


def test_an_adopted_task_keeps_its_gpu_and_gives_it_back() -> None:
    state = State("s2", HELLO)
    mine = order(1, [0, 0], gpus=["GPU-0"], gpus_milli=1000)
    step(state, Adopted([(mine, 0, 0)], 0))
    step(state, Ordered(Orders([]), 0, greeted=True))
    assert starts(told(state, order(2, [5, 5], gpus=["GPU-0"], gpus_milli=1000))) == []
    assert starts(done(state, 1, 0)) == [(2, 5)]
    done(state, 2, 5)
    assert not state.used_gpus


def test_a_container_is_given_its_devices_and_no_other() -> None:
    mine, none = order(1, [0, 0], kind="container", gpus=["GPU-1"], gpus_milli=1000), order(1, [0, 0], kind="container")
    box = Box("/work")
    asked = [
        config_of(Launch(one, 0, "/f", [], {}, box), box, "w1", About(), "1:1", "none")["HostConfig"]
        for one in (mine, none)
    ]
    devices = [{"Driver": "nvidia", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}]
    assert [one.get("DeviceRequests") for one in asked] == [devices, None]
