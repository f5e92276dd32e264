"""GPUs: whole ones and shares, memory, models, what others use of them, and what a machine that returns may keep."""

from typing import Any

import pytest

from events.base import expand
from events.hardware import is_model, slug
from events.job import JobHeld
from events.task import TasksLeased, TasksReclaimed, TasksRetried
from services.pool import model
from services.pool.gpus import GpuNeed
from services.pool.state import class_of, load, save
from tests.pool_support import GIB, Story, ended, gpus, greet, place, report, submit


def given_to(story: Story, worker: str = "w1", told: tuple[int, ...] = ()) -> list[tuple[str, list[int], list[str]]]:
    """Place: (job, its tasks, their GPUs) of each lease."""
    events = story.when(place(worker, told=told))
    return [(e.job, list(expand(e.tasks)), e.gpus) for e in events if isinstance(e, TasksLeased)]


def machine(count: int = 2, gib: int = 80, **more: Any) -> Story:
    """A pool with one machine that has GPUs."""
    return Story().worker(cpus=64, gpus=gpus(count, gib), **more)


def test_each_task_has_gpus_of_its_own() -> None:
    story = machine(4).job("j1", 9, gpus_milli=1000)
    assert given_to(story) == [("j1", [at], [f"GPU-{at}"]) for at in range(4)]
    assert given_to(story) == []


def test_some_need_several() -> None:
    story = machine(5).job("j1", 9, gpus_milli=2000)
    assert given_to(story) == [("j1", [0], ["GPU-0", "GPU-1"]), ("j1", [1], ["GPU-2", "GPU-3"])]


def test_several_share_one() -> None:
    story = machine(2).job("j1", 9, gpus_milli=250)
    assert given_to(story) == [("j1", [0, 1, 2, 3], ["GPU-0"]), ("j1", [4, 5, 6, 7], ["GPU-1"])]


def test_a_third_goes_three_times() -> None:
    story = machine(1).job("j1", 9, gpus_milli=333)
    assert given_to(story) == [("j1", [0, 1, 2], ["GPU-0"])]


def test_shares_go_together_so_that_whole_ones_stay_whole() -> None:
    story = machine(2).job("j1", 1, gpus_milli=500).job("j2", 1, gpus_milli=250).job("j3", 1, gpus_milli=1000)
    assert given_to(story) == [("j1", [0], ["GPU-0"]), ("j2", [0], ["GPU-0"]), ("j3", [0], ["GPU-1"])]


def test_their_memory_is_shared_too() -> None:
    story = machine(1, 80).job("j1", 9, gpus_milli=100, gpu_memory=30 * GIB)
    assert given_to(story) == [("j1", [0, 1], ["GPU-0"])]


def test_an_end_makes_room_on_its_own_gpu() -> None:
    story = machine(2).job("j1", 3, gpus_milli=1000)
    given_to(story)
    story.when(report(1, ended(2, "j1", [1, 1])))
    assert given_to(story) == [("j1", [2], ["GPU-1"])]


def test_nothing_is_given_ahead_of_a_free_gpu() -> None:
    story = machine(1).job("j1", 9, gpus_milli=1000)
    events = story.when(place(ahead=8))
    assert [event.tasks for event in events if isinstance(event, TasksLeased)] == [[0, 0]]


def test_a_task_without_gpus_gets_none_and_keeps_nobody_waiting() -> None:
    story = machine(1).job("j1", 1, gpus_milli=1000).job("j2", 1, gpus_milli=1000).job("j3", 1)
    assert given_to(story) == [("j1", [0], ["GPU-0"]), ("j3", [0], [])]


def test_the_model_is_a_part_of_the_name() -> None:
    story = machine(1).worker("w2", gpus=gpus(1, 24, "NVIDIA GeForce RTX 4090"))
    story.job("j1", 1, gpus_milli=1000, gpu_model="rtx-4090").job("j2", 1, gpus_milli=1000, gpu_model="a100")
    assert given_to(story, "w2") == [("j1", [0], ["GPU-0"])]
    assert given_to(story, "w1") == [("j2", [0], ["GPU-0"])]


def test_names_and_models() -> None:
    assert slug("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb"
    assert is_model("NVIDIA A100-SXM4-80GB", "a100")
    assert is_model("NVIDIA A100-SXM4-80GB", slug("A100 SXM4"))
    assert not is_model("NVIDIA A100-SXM4-80GB", "a10")
    assert not is_model("NVIDIA A10", "a100")


def test_a_slice_is_no_part_of_several() -> None:
    story = Story().worker(cpus=64, gpus=gpus(3, 10, part=True)).job("j1", 1, gpus_milli=1000)
    assert given_to(story) == [("j1", [0], ["GPU-0"])]
    (_, held) = story.when(submit("j2", 1, gpus_milli=2000))
    assert isinstance(held, JobHeld)


def test_what_others_use_can_only_lower_what_is_free() -> None:
    story = machine(2, 80).job("j1", 9, gpus_milli=1000, gpu_memory=40 * GIB)
    assert given_to(story, told=(30, 90)) == [("j1", [0], ["GPU-1"])]
    assert given_to(story, told=(40, 90)) == [("j1", [1], ["GPU-0"])]


def test_who_says_no_memory_gets_no_gpu_that_others_use() -> None:
    story = machine(2, 80).job("j1", 9, gpus_milli=1000)
    assert given_to(story, told=(59, 60)) == [("j1", [0], ["GPU-1"])]


@pytest.mark.parametrize(
    ("need", "why"),
    [
        (
            {"gpus_milli": 3000},
            "needs 3 GPUs on one machine; there are machines with 2 x NVIDIA A100-SXM4-80GB (80 GiB",
        ),
        ({"gpus_milli": 1000, "gpu_memory": 99 * GIB}, "needs 1 GPU with 99 GiB on one machine"),
        ({"gpus_milli": 500, "gpu_model": "h100"}, "needs 0.5 of a GPU h100 on one machine"),
        ({"gpus_milli": 1000, "cpus_milli": 65_000}, "needs 65 CPUs beside 1 GPU on one machine"),
    ],
)
def test_a_job_that_no_machine_can_take_is_told_so(need: dict[str, Any], why: str) -> None:
    story = machine(2)
    (_, held) = story.when(submit("j1", 1, **need))
    assert isinstance(held, JobHeld)
    assert held.detail.startswith(why)


def test_it_is_queued_when_such_a_machine_comes() -> None:
    story = Story().worker("w0").job("j1", 1, gpus_milli=1000)
    assert story.state.jobs["j1"].held == "capacity"
    story.worker(gpus=gpus(1))
    story.advance(capacity=True)
    assert given_to(story) == [("j1", [0], ["GPU-0"])]


def test_a_machine_that_returns_keeps_its_gpu() -> None:
    story = machine(1).job("j1", 1, gpus_milli=1000)
    given_to(story)
    story.silence(60)
    (_, back, *_) = story.when(greet(cpus=64, gpus=gpus(1), holding=[(1, "j1", [0, 0])]))
    assert isinstance(back, TasksReclaimed)
    assert back.gpus == ["GPU-0"]
    assert story.job("j2", 1, gpus_milli=1000) and given_to(story) == []


def test_it_does_not_get_it_back_when_another_task_is_there() -> None:
    story = machine(1).job("j1", 1, gpus_milli=1000).job("j2", 1, gpus_milli=500, priority=9, lost_after_ms=10**6)
    story.when(submit("j3", 1, gpus_milli=500, priority=9, lost_after_ms=10**6))
    assert [job for job, _, _ in given_to(story)] == ["j2", "j3"]
    story.when(report(1, ended(1, "j2", [0, 0]), ended(2, "j3", [0, 0])))
    assert [job for job, _, _ in given_to(story)] == ["j1"]
    story.silence(60)
    story.when(greet(cpus=64, gpus=gpus(1)))  # it holds nothing, it says
    story.when(submit("j4", 1, gpus_milli=250, priority=9))
    assert [job for job, _, _ in given_to(story)] == ["j4"]
    assert not story.when(greet(cpus=64, gpus=gpus(1), holding=[(3, "j1", [0, 0])])), "its GPU is not whole any more"


def test_a_result_that_comes_late_counts_all_the_same() -> None:
    story = machine(1).job("j1", 1, gpus_milli=1000)
    given_to(story)
    story.silence(60)
    story.when(greet(cpus=64, gpus=gpus(1)))
    events = story.when(report(1, ended(1, "j1", [0, 0])))
    assert [type(event).__name__ for event in events] == [
        "WorkerReported", "TasksReclaimed", "TasksFinished", "JobFinished",
    ]  # fmt: skip
    assert not story.state.workers["w1"].gpus


def test_a_gpu_that_is_gone_is_given_to_nobody() -> None:
    story = machine(2).job("j1", 9, gpus_milli=1000)
    given_to(story)
    events = story.when(greet("w1", "s2", cpus=64, gpus=gpus(2)[1:], holding=[(2, "j1", [1, 1])]))
    assert [event.tasks for event in events if isinstance(event, TasksRetried)] == [[0, 0]]
    assert given_to(story) == [], "the other one is still at work"


def test_a_snapshot_keeps_who_has_which() -> None:
    story = machine(2).job("j1", 9, gpus_milli=500, gpu_memory=GIB, gpu_model="a100")
    given_to(story)
    again = load(save(story.state))
    model.check(again)
    assert again.workers["w1"].gpus == story.state.workers["w1"].gpus
    assert again.jobs["j1"].shape == story.state.jobs["j1"].shape


@pytest.mark.parametrize("milli", [20, 333, 500, 999, 1000, 3000, 7000])
@pytest.mark.parametrize("memory", [0, 1, 3 * GIB])
def test_where_the_least_of_a_class_does_not_fit_none_does(milli: int, memory: int) -> None:
    need = GpuNeed(milli, memory, "a100")
    _, _, _, least = class_of(("process", 1000, 0, need))
    assert least.milli <= need.milli and least.memory <= need.memory and bool(least.memory) == bool(need.memory)
    assert least.devices <= need.devices and (least.devices > 1) == (need.devices > 1)
