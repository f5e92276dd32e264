"""Who gets what: room, priorities, first come first, another machine for another try."""

import pytest

from events.base import expand, size_of
from events.job import JobHeld, JobRunnable, Retries
from events.protocol import AHEAD_MAX
from services.pool.plan import LEASES_PER_PLACE_MAX, TASKS_PER_PLACE_MAX, Room, is_free, may_take
from services.pool.state import ShapeKey, load, save
from tests.pool_support import GIB, Story, ended, place, report, submit

NOW = Retries(exit=9, lost=9, backoff_ms=0)


def jobs(story: Story, worker: str = "w1", room: int = -1, ahead: int = 0) -> list[str]:
    """Place one worker: the jobs of the tasks it is given, in order."""
    return [job for job, tasks, _, _ in story.leases(worker, room, ahead) for _ in expand(tasks)]


def test_a_worker_gets_as_much_as_its_cpus_allow() -> None:
    story = Story().worker(cpus=4).job("j1", 10)
    assert story.leases() == [("j1", [0, 3], 1, 1)]
    assert story.leases() == []


def test_a_worker_gets_as_much_as_its_memory_allows() -> None:
    story = Story().worker(cpus=8, memory=10 * GIB).job("j1", 9, memory_bytes=4 * GIB)
    assert story.leases() == [("j1", [0, 1], 1, 1)]


def test_fractions_of_a_cpu_add_up() -> None:
    story = Story().worker(cpus=2).job("j1", 9, cpus_milli=300)
    assert story.leases() == [("j1", [0, 5], 1, 1)]


def test_what_ended_makes_room() -> None:
    story = Story().worker(cpus=2).job("j1", 5)
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [1, 1])))
    assert story.leases() == [("j1", [2, 2], 2, 1)]


def test_a_worker_may_ask_for_less() -> None:
    story = Story().worker(cpus=4).job("j1", 10)
    assert story.leases(room=0) == []
    assert story.leases(room=3) == [("j1", [0, 2], 1, 1)]


def test_a_worker_may_hold_more_than_it_runs() -> None:
    story = Story().worker(cpus=2).job("j1", 100)
    assert story.leases(ahead=3) == [("j1", [0, 7], 1, 1)]
    assert story.leases(ahead=3) == []
    assert story.leases(ahead=4) == [("j1", [8, 9], 2, 1)]


def test_one_placement_is_bounded() -> None:
    story = Story().large().worker(cpus=1000).job("j1", 100_000, cpus_milli=1)
    assert size_of(story.leases(ahead=AHEAD_MAX)[0][1]) == TASKS_PER_PLACE_MAX
    story = Story().large().worker(cpus=1000)
    for n in range(LEASES_PER_PLACE_MAX + 10):
        story.job(f"j{n}", cpus_milli=1)
    assert len(story.leases()) == LEASES_PER_PLACE_MAX
    assert len(story.leases()) == 10


def test_tasks_that_need_nothing_are_bounded_too() -> None:
    story = Story().large().worker().job("j1", 20_000, kind="noop", cpus_milli=0)
    assert story.leases(room=5) == [("j1", [0, 4], 1, 1)]
    assert size_of(story.leases()[0][1]) == TASKS_PER_PLACE_MAX


def test_first_come_first() -> None:
    story = Story().worker(cpus=2).job("j1").job("j2").job("j3")
    assert jobs(story) == ["j1", "j2"]


def test_first_come_first_over_different_needs() -> None:
    story = Story().worker(cpus=8, memory=8 * GIB)
    story.job("j1", cpus_milli=500).job("j2", cpus_milli=1500).job("j3", cpus_milli=500).job("j4", memory_bytes=GIB)
    assert jobs(story) == ["j1", "j2", "j3", "j4"]


def test_higher_priorities_first() -> None:
    story = Story().worker(cpus=9)
    story.job("j1", priority=1).job("j2", priority=10).job("j3").job("j4", priority=10, cpus_milli=500)
    assert jobs(story) == ["j2", "j4", "j3", "j1"]


def test_what_does_not_fit_is_passed_over() -> None:
    story = Story().worker(cpus=4).job("j1", 3).job("j2", cpus_milli=2000).job("j3", 2)
    assert jobs(story) == ["j1", "j1", "j1", "j3"]


def test_a_worker_gets_only_kinds_it_can_run() -> None:
    story = Story().worker("w1", kinds=("noop",)).worker("w2").job("j1").job("j2", kind="noop")
    assert jobs(story, "w1") == ["j2"]
    assert jobs(story, "w2") == ["j1"]


def test_a_job_that_comes_back_takes_its_old_place() -> None:
    story = Story().worker(cpus=2).job("j1", retries=NOW).job("j2", retries=NOW).job("j3").job("j4")
    (_, _, one, _), (_, _, two, _) = story.leases()
    story.when(report(1, ended(two, "j2", [0, 0], code=1)))
    story.when(report(2, ended(one, "j1", [0, 0], code=1)))
    assert jobs(story) == ["j1", "j2"]


def test_a_released_job_takes_its_old_place() -> None:
    story = Story().worker(cpus=1).job("j1").job("j2", after=["j1"]).job("j3")
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0])))
    story.advance()
    assert jobs(story) == ["j2"]


def test_the_order_is_the_same_after_a_restart() -> None:
    story = Story().worker(cpus=2).job("j1", 3, retries=NOW).job("j2", retries=NOW).job("j3", cpus_milli=500)
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 1], code=1)))
    again = Story().worker(cpus=2)
    again.state = load(save(story.state))
    assert again.leases(ahead=3) == story.leases(ahead=3)


# Another try


def test_another_try_is_another_attempt() -> None:
    story = Story().worker(cpus=1).job("j1", 1, retries=NOW)
    for n in range(1, 5):
        ((job, tasks, lease, attempt),) = story.leases()
        assert (job, tasks, lease, attempt) == ("j1", [0, 0], n, n)
        story.when(report(n, ended(lease, "j1", [0, 0], code=1)))


def test_tries_come_before_tasks_that_never_ran() -> None:
    story = Story().worker(cpus=2).job("j1", 9, retries=NOW)
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [1, 1], code=1)))
    assert story.leases(ahead=1) == [("j1", [1, 1], 2, 2), ("j1", [2, 3], 3, 1)]


def test_tasks_of_different_attempts_go_in_different_leases() -> None:
    story = Story().worker(cpus=3).job("j1", 3, retries=NOW)
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    second = story.lease()
    story.when(report(2, ended(lease, "j1", [1, 2], code=1), ended(second, "j1", [0, 0], code=1)))
    assert story.leases() == [("j1", [1, 2], 3, 2), ("j1", [0, 0], 4, 3)]


def test_never_twice_in_a_row_on_one_machine_if_there_is_another() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 2, retries=NOW)
    lease = story.lease("w1", room=1)
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    assert story.leases("w1") == [("j1", [1, 1], 2, 1)]
    assert story.leases("w1") == []
    assert story.leases("w2") == [("j1", [0, 0], 3, 2)]


def test_a_task_that_was_given_back_unstarted_may_go_to_the_same_machine() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 2, retries=NOW)
    lease = story.lease("w1")
    story.when(report(1, ended(lease, "j1", [0, 0], "returned"), ended(lease, "j1", [1, 1], code=1)))
    assert story.leases("w1") == [("j1", [0, 0], 2, 2)]
    assert story.leases("w1") == []
    assert story.leases("w2") == [("j1", [1, 1], 3, 2)]


def test_on_the_same_machine_again_if_there_is_no_other() -> None:
    story = Story().worker("w1").worker("w2", cpus=0.5).worker("w3").worker("w4", kinds=("noop",))
    story.drain(True, "w3")
    story.job("j1", 1, retries=NOW)
    lease = story.lease("w1")
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    assert story.leases("w1") == [("j1", [0, 0], lease + 1, 2)]


def test_two_machines_take_turns() -> None:
    story = Story().worker("w1", cpus=1).worker("w2", cpus=1).job("j1", 1, retries=NOW)
    for n in range(1, 5):
        worker, other = ("w1", "w2") if n % 2 else ("w2", "w1")
        if n > 1:
            assert story.leases(other) == []
        lease = story.lease(worker)
        story.when(report(n, ended(lease, "j1", [0, 0], code=1), worker=worker))


def test_a_machine_is_not_given_more_after_it_shrank() -> None:
    story = Story().worker(cpus=4).job("j1", 9)
    story.lease()
    story.worker(cpus=2, session="s2", holding=[(1, "j1", [0, 3])])
    assert story.when(place()) == []
    story.when(report(1, ended(1, "j1", [0, 2]), session="s2"))
    assert story.leases() == [("j1", [4, 4], 2, 1)]


def test_a_worker_is_free_while_it_has_cpus_left() -> None:
    story = Story().worker(cpus=2).job("j1", 3)
    machine = story.state.workers["w1"]
    assert is_free(machine, 0)
    story.lease()
    assert not is_free(machine, 0)
    assert is_free(machine, 1)
    story.drain(True)
    assert not is_free(machine, 1)


def test_a_look_is_worth_it_when_something_fits() -> None:
    story = Story().worker(cpus=2).job("j1", cpus_milli=1500)
    machine = story.state.workers["w1"]
    assert may_take(story.state, machine, Room(machine, -1, 0))
    assert not may_take(story.state, machine, Room(machine, 0, 0))
    story.lease()
    story.job("j2", cpus_milli=1500)
    assert not may_take(story.state, machine, Room(machine, -1, 0))
    assert may_take(story.state, machine, Room(machine, -1, 1))


def test_tasks_that_need_no_cpu_do_not_wait_behind_a_full_machine() -> None:
    story = Story().worker(cpus=2, memory=4 * GIB).job("j1", 9)
    story.lease()
    machine = story.state.workers["w1"]
    assert not may_take(story.state, machine, Room(machine, -1, 0))
    story.job("j2", 2, kind="noop", cpus_milli=0).job("j3", kind="noop", cpus_milli=0, memory_bytes=8 * GIB)
    assert may_take(story.state, machine, Room(machine, -1, 0))
    assert jobs(story) == ["j2", "j2"]


def test_what_waits_costs_nothing_when_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story().large().worker(cpus=2)
    for n in range(500):
        story.job(f"j{n}").job(f"k{n}", cpus_milli=2000, priority=1 + n % 9)
    looked = counted(monkeypatch)
    assert jobs(story)
    assert len(looked) < 100


def test_a_thousand_sizes_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story().large().worker(cpus=8, memory=8 * GIB)
    for n in range(1000):
        story.job(f"j{n}", cpus_milli=4096 + n)
        story.job(f"k{n}", memory_bytes=4 * GIB + n, priority=1 + n % 9)
    story.leases()
    looked = counted(monkeypatch)
    assert story.leases() == []
    assert len(looked) < 100


def counted(monkeypatch: pytest.MonkeyPatch) -> list[ShapeKey]:
    """From now on: the shapes, or classes of them, that were looked at."""
    looked: list[ShapeKey] = []
    takes = Room.takes

    def counting(room: Room, shape: ShapeKey) -> bool:
        looked.append(shape)
        return takes(room, shape)

    monkeypatch.setattr(Room, "takes", counting)
    return looked


def test_a_large_job_that_came_first_does_not_hold_up_small_ones_of_its_priority() -> None:
    story = Story().worker(cpus=2).job("j1", cpus_milli=1500).job("j2", cpus_milli=1500).job("j3", cpus_milli=500)
    assert jobs(story) == ["j1", "j3"]


def test_a_job_goes_where_its_needs_are_met() -> None:
    story = Story().worker("w1").worker("w2", features=("process:disk", "process:pids"))
    story.job("j1", 2, needs=["disk"]).job("j2", 1)
    assert jobs(story, "w1") == ["j2"]
    assert jobs(story, "w2") == ["j1", "j1"]


def test_a_need_that_no_machine_meets_is_said() -> None:
    story = Story().worker("w1", features=("container:hosts",))
    held = story.when(submit("j1", needs=["hosts"]))[1]
    assert isinstance(held, JobHeld)
    assert "needs a worker that can run kind 'process' with hosts; none of the 1 known can" in held.detail
    story.worker("w2", features=("process:hosts",))
    assert story.advance(capacity=True) == [JobRunnable("j1")]
