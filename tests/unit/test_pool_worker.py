"""The rules of workers: sessions, reports, silence, draining; what they hold and what they lose."""

import pytest

from events.catalog import AnyEvent
from events.job import JobFinished
from events.protocol import Held, Hello
from events.task import TasksFinished, TasksLate, TasksReclaimed, TasksRetried, TasksStarted
from events.worker import (
    Capacity,
    WorkerContested,
    WorkerLost,
    WorkerRegistered,
    WorkerReported,
    WorkerStopped,
    WorkerUnreachable,
)
from services.pool.commands import Greet
from services.pool.state import load, save
from services.pool.worker import CONTESTED_EACH_MS
from tests.pool_support import GIB, ONCE, Story, ended, greet, report, started, tags


def lost(job: str, tasks: list[int], lease: int, reason: str, attempt: int = 1, worker: str = "w1") -> TasksRetried:
    return TasksRetried(job, tasks, lease, worker, attempt, "lost", 0, reason)


RESTARTED = "the worker's agent was restarted"
SILENT = "nothing was heard of the worker for {} s"


# Sessions


def test_a_worker_registers_with_what_it_offers() -> None:
    capacity = Capacity(4000, 8 * GIB)
    assert Story().when(greet()) == [WorkerRegistered("w1", "s1", "boot", capacity, "1")]


def test_the_same_hello_again_is_nothing_new() -> None:
    assert Story().worker().when(greet()) == []


def test_a_hello_with_another_capacity_in_the_same_session_counts() -> None:
    story = Story().worker(cpus=4)
    assert tags(story.when(greet(cpus=8))) == ["WorkerRegistered"]
    assert story.state.workers["w1"].capacity.cpus_milli == 8000


def test_a_new_session_gives_up_what_it_does_not_hold() -> None:
    story = Story().worker(cpus=4).job("j1", 3).job("j2", 1)
    (_, _, one, _), (_, _, two, _) = story.leases()
    events = story.when(greet(session="s2", holding=[(one, "j1", [1, 1])]))
    assert tags(events)[0] == "WorkerRegistered"
    assert events[1:] == [lost("j1", [0, 0, 2, 2], one, RESTARTED), lost("j2", [0, 0], two, RESTARTED)]
    assert story.state.workers["w1"].used_cpus == 1000


def test_a_new_session_with_everything_in_hand_loses_nothing() -> None:
    story = Story().worker().job("j1", 4)
    lease = story.lease()
    assert tags(story.when(greet(session="s2", holding=[(lease, "j1", [0, 3])]))) == ["WorkerRegistered"]
    assert story.when(report(1, ended(lease, "j1", [0, 3]), session="s2"))[-1] == JobFinished("j1", "succeeded", 4)


def test_sequences_start_again_with_a_session() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    story.when(report(7, started(lease, "j1", [0, 1])))
    story.when(greet(session="s2", holding=[(lease, "j1", [0, 1])]))
    assert tags(story.when(report(1, ended(lease, "j1", [0, 0]), session="s2")))[0] == "WorkerReported"


def test_a_superseded_session_is_refused() -> None:
    story = Story().worker(session="s1").worker(session="s2")
    assert story.refuses(report(1)).code == "superseded"
    assert story.refuses(greet(session="s1")).code == "superseded"


def test_a_late_hello_of_an_agent_that_started_earlier_does_not_supersede() -> None:
    story = Story().worker(session="s1", since_boot_ms=1000).worker(session="s3", since_boot_ms=3000).job("j1", 4)
    lease = story.lease()
    assert story.refuses(greet(session="s2", since_boot_ms=2000)).code == "superseded"
    assert story.when(greet(session="s3", since_boot_ms=3000, holding=[(lease, "j1", [0, 3])])) == []
    assert tags(story.when(greet(session="s4", since_boot_ms=3001)))[0] == "WorkerRegistered"


@pytest.mark.parametrize(("boot", "since_boot_ms"), [("boot", 0), ("another boot", 10)])
def test_sessions_that_cannot_be_compared_supersede_as_they_come(boot: str, since_boot_ms: int) -> None:
    story = Story().worker(session="s1", since_boot_ms=1000)
    if boot != "boot":
        story.given(WorkerUnreachable("w1"))
    hello = Hello(boot, Capacity(4000, GIB), "1", "n", since_boot_ms=since_boot_ms)
    assert tags(story.when(Greet("w1", "s2", hello)))[0] == "WorkerRegistered"
    assert story.refuses(greet(session="s1", since_boot_ms=1000)).code == "superseded"


def of(boot: str, session: str) -> Greet:
    """The hello of an agent on a machine with this boot."""
    return Greet("w1", session, Hello(boot, Capacity(4000, GIB), "1", "n"))


def test_another_machine_does_not_take_the_place_of_one_that_is_heard() -> None:
    story = Story().worker(session="s1").job("j1", 2)
    lease = story.lease()
    assert story.when(of("copy", "s2")) == [WorkerContested("w1", "copy")]
    assert (story.state.workers["w1"].session, lease in story.state.leases) == ("s1", True)
    assert story.when(report(1, ended(lease, "j1", [0, 1])))[0] == WorkerReported("w1", 1)
    assert tags(story.when(greet(session="s3")))[0] == "WorkerRegistered", "another agent on the same machine does"


def test_it_is_said_now_and_then_that_another_machine_tries() -> None:
    story = Story().worker(session="s1")
    assert story.when(of("copy", "s2"))
    story.now += CONTESTED_EACH_MS - 1
    assert story.when(of("copy", "s3")) == []
    story.now += 1
    assert story.when(of("copy", "s3")) == [WorkerContested("w1", "copy")]


@pytest.mark.parametrize("gone", [WorkerUnreachable("w1"), WorkerLost("w1"), WorkerStopped("w1")])
def test_a_machine_that_was_started_again_gets_in_once_its_own_session_is_silent(gone: AnyEvent) -> None:
    story = Story().worker(session="s1").given(gone)
    assert tags(story.when(of("next boot", "s2")))[0] == "WorkerRegistered"
    assert story.refuses(of("boot", "s1")).code == "superseded"


def test_who_does_not_tell_its_boot_cannot_be_told_from_another() -> None:
    assert tags(Story().worker(session="s1").when(of("", "s2")))[0] == "WorkerRegistered"


def test_the_order_of_sessions_is_known_after_a_restart() -> None:
    story = Story().worker(session="s1", since_boot_ms=1000)
    again = Story()
    again.state = load(save(story.state))
    assert again.refuses(greet(session="s0", since_boot_ms=500)).code == "superseded"


def test_an_unknown_session_is_refused() -> None:
    assert Story().refuses(report(1)).code == "unknown_session"
    assert Story().worker().refuses(report(1, session="s9")).code == "unknown_session"


def test_a_restart_with_thousands_of_leases_takes_several_hellos() -> None:
    story = Story().large().worker(cpus=4000)
    for n in range(3000):
        story.job(f"j{n:016}", cpus_milli=1)
    while story.leases():
        pass
    assert len(story.state.leases) == 3000
    first = story.when(greet(session="s2", cpus=4000))
    assert 0 < len(first) < 3000
    assert story.state.workers["w1"].session == "s1"
    hellos = 1
    while story.state.workers["w1"].session != "s2":
        story.when(greet(session="s2", cpus=4000))
        hellos += 1
    assert hellos < 10
    assert not story.state.leases


def test_what_a_worker_says_it_holds_may_be_nonsense() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    capacity = Capacity(4000, 8 * GIB)
    holding = [Held(lease, "j1", [0, 10**15]), Held(lease, "j1", [5]), Held(99, "j9", [3, 1])]
    events = story.when(greet(session="s2").__class__("w1", "s2", Hello("boot", capacity, "1", "n", holding)))
    assert events[1:] == [lost("j1", [0, 1], lease, RESTARTED)]


# Reports


def test_a_task_starts_and_ends() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    assert story.when(report(1, started(lease, "j1", [0, 1]))) == [
        WorkerReported("w1", 1),
        TasksStarted("j1", [0, 1], lease, "w1"),
    ]
    assert story.state.jobs["j1"].running == {0, 1}
    assert story.when(report(2, ended(lease, "j1", [0, 1]))) == [
        WorkerReported("w1", 2),
        TasksFinished("j1", [0, 1], lease, "w1"),
        JobFinished("j1", "succeeded", 2),
    ]


def test_starting_twice_is_said_once() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    story.when(report(1, started(lease, "j1", [0, 0])))
    assert story.when(report(2, started(lease, "j1", [0, 1])))[1:] == [TasksStarted("j1", [1, 1], lease, "w1")]


def test_a_report_that_was_recorded_leads_to_nothing() -> None:
    story = Story().worker().job("j1", 3, retries=ONCE)
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    story.when(report(2, ended(lease, "j1", [1, 1])))
    assert story.when(report(1, ended(lease, "j1", [0, 0], code=1))) == []
    assert story.when(report(2, ended(lease, "j1", [2, 2]))) == []


def test_a_report_may_not_end_a_task_twice() -> None:
    story = Story().worker().job("j1", 3)
    lease = story.lease()
    events = story.when(report(1, ended(lease, "j1", [0, 1]), ended(lease, "j1", [1, 1], code=1)))
    assert events[1:] == [TasksFinished("j1", [0, 1], lease, "w1")]


def test_a_late_report_is_recorded_and_changes_nothing() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 1)
    first = story.lease("w1")
    story.silence(61, "w1")
    second = story.lease("w2")
    late = TasksLate("j1", [0, 0], first, "w1")
    assert story.when(report(1, ended(first, "j1", [0, 0]))) == [WorkerReported("w1", 1), late]
    assert story.state.jobs["j1"].active == {0: second}
    story.when(report(1, ended(second, "j1", [0, 0]), worker="w2"))
    assert story.when(report(2, ended(first, "j1", [0, 0])))[1:] == [late]


def test_only_what_is_current_in_a_report_counts() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 4)
    first = story.lease("w1")
    story.silence(61, "w1")
    second = story.lease("w2", room=2)
    events = story.when(report(1, ended(first, "j1", [0, 3])))
    assert events[1:] == [
        TasksLate("j1", [0, 1], first, "w1"),
        TasksReclaimed("j1", [2, 3], first, "w1"),
        TasksFinished("j1", [2, 3], first, "w1"),
    ]
    assert story.state.jobs["j1"].active == {0: second, 1: second}


def test_another_workers_lease_is_late() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 1)
    lease = story.lease("w1")
    events = story.when(report(1, ended(lease, "j1", [0, 0]), worker="w2"))
    assert events[1:] == [TasksLate("j1", [0, 0], lease, "w2")]


def test_a_lease_of_another_job_is_late() -> None:
    story = Story().worker().job("j1").job("j2")
    (_, _, one, _), _ = story.leases()
    assert tags(story.when(report(1, ended(one, "j2", [0, 0])))) == ["WorkerReported", "TasksLate"]


def test_tasks_beyond_the_job_are_late() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    assert tags(story.when(report(1, ended(lease, "j1", [0, 5])))) == ["WorkerReported", "TasksLate"]


@pytest.mark.parametrize("tasks", [[], [1], [3, 1], [0, 1, 1, 2], [-1, 0], [0, 10**12]])
def test_tasks_that_are_no_set_are_refused(tasks: list[int]) -> None:
    story = Story().worker().job("j1", 4)
    lease = story.lease()
    refused = story.refuses(report(1, ended(lease, "j1", [0, 0]), ended(lease, "j1", tasks)))
    assert (refused.code, refused.field) == ("malformed", "items[1].tasks")


def test_a_report_of_absurdly_many_tasks_is_refused() -> None:
    story = Story().worker().job("j1", 4)
    items = [ended(1, "j1", [0, 9_999_999]) for _ in range(100)]
    assert story.refuses(report(1, *items)).code == "malformed"
