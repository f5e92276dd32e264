"""Rules of workers that fall silent, come back, leave, or are drained."""

from events.job import JobFinished, Retries
from events.protocol import Held, Hello
from events.task import TasksFailed, TasksFinished, TasksLate, TasksReclaimed, TasksRetried
from events.worker import (
    Capacity,
    WorkerConfigured,
    WorkerDrained,
    WorkerLost,
    WorkerReported,
    WorkerReturned,
    WorkerStopped,
    WorkerUndrained,
    WorkerUnreachable,
)
from services.pool.commands import ConfigureWorker, DrainWorker, Heard
from services.pool.state import ASKS_KEPT, load, save
from services.pool.worker import stale_leases
from tests.pool_support import Story, ended, greet, place, report, submit, tags


def lost(job: str, tasks: list[int], lease: int, reason: str, attempt: int = 1, worker: str = "w1") -> TasksRetried:
    return TasksRetried(job, tasks, lease, worker, attempt, "lost", 0, reason)


RESTARTED = "the worker's agent was restarted"
SILENT = "nothing was heard of the worker for {} s"


# Silence


def test_a_silent_worker_is_unreachable_then_lost() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    assert story.silence(14) == []
    assert story.silence(15) == [WorkerUnreachable("w1")]
    assert story.silence(30) == []
    assert story.silence(60) == [lost("j1", [0, 1], lease, SILENT.format(60)), WorkerLost("w1")]
    assert story.silence(90) == []


def test_an_unreachable_worker_gets_nothing() -> None:
    story = Story().worker().job("j1", 2)
    story.silence(15)
    assert story.leases() == []


def test_an_unreachable_worker_that_is_heard_goes_on() -> None:
    story = Story().worker().job("j1", 8)
    story.lease()
    story.silence(15)
    assert story.when(Heard("w1")) == [WorkerReturned("w1")]
    assert story.when(Heard("w1")) == []
    assert len(story.state.leases) == 1


def test_each_job_says_how_long_its_worker_may_be_silent() -> None:
    story = Story().worker(cpus=3)
    story.job("j1", lost_after_ms=15_000).job("j2", lost_after_ms=100_000).job("j3", lost_after_ms=30_000)
    (_, _, one, _), (_, _, two, _), (_, _, three, _) = story.leases()
    assert story.silence(15) == [WorkerUnreachable("w1"), lost("j1", [0, 0], one, SILENT.format(15))]
    assert story.silence(60) == [lost("j3", [0, 0], three, SILENT.format(60))]
    assert story.silence(100) == [lost("j2", [0, 0], two, SILENT.format(100)), WorkerLost("w1")]


def test_a_task_may_be_lost_only_so_often() -> None:
    story = Story().worker().job("j1", 1, retries=Retries(lost=0))
    lease = story.lease()
    events = story.silence(61)
    assert [type(event) for event in events] == [WorkerUnreachable, TasksFailed, JobFinished, WorkerLost]
    assert events[1] == TasksFailed("j1", [0, 0], lease, "w1", 1, "lost", 0, SILENT.format(61))


def test_a_lost_worker_with_thousands_of_leases_is_given_up_in_parts() -> None:
    story = Story().large().worker(cpus=4000)
    for n in range(3000):
        story.job(f"j{n:016}", cpus_milli=1)
    while story.leases():
        pass
    parts = 0
    while story.state.workers["w1"].state != "lost":
        assert len(story.silence(61 + parts)) < 2000
        parts += 1
    assert 1 < parts < 10
    assert not story.state.leases


# Coming back


def test_a_lost_worker_takes_back_what_nobody_else_was_given() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 3)
    lease = story.lease("w1")
    story.silence(61, "w1")
    story.leases("w2", room=1)
    events = story.when(greet(holding=[(lease, "j1", [0, 2])]))
    assert events == [WorkerReturned("w1"), TasksReclaimed("j1", [1, 2], lease, "w1")]
    assert story.when(report(1, ended(lease, "j1", [1, 2])))[1:] == [TasksFinished("j1", [1, 2], lease, "w1")]


def test_a_lost_worker_in_a_new_session_takes_back_too() -> None:
    story = Story().worker().job("j1", 2)
    lease = story.lease()
    story.silence(61)
    events = story.when(greet(session="s2", holding=[(lease, "j1", [0, 1])]))
    assert tags(events) == ["WorkerRegistered", "TasksReclaimed"]
    assert story.state.workers["w1"].state == "ready"


def test_a_result_of_a_lost_worker_counts_while_nobody_else_has_the_task() -> None:
    story = Story().worker().job("j1", 1)
    lease = story.lease()
    story.silence(61)
    events = story.when(report(1, ended(lease, "j1", [0, 0])))
    assert tags(events) == ["WorkerReported", "TasksReclaimed", "TasksFinished", "JobFinished"]


def test_a_result_said_twice_for_what_was_given_up_counts_once() -> None:
    story = Story().worker().job("j1", 3)
    lease = story.lease()
    story.silence(61)
    events = story.when(report(1, ended(lease, "j1", [0, 0]), ended(lease, "j1", [0, 1])))
    assert [event for event in events if isinstance(event, TasksReclaimed | TasksFinished)] == [
        TasksReclaimed("j1", [0, 0], lease, "w1"),
        TasksFinished("j1", [0, 0], lease, "w1"),
        TasksReclaimed("j1", [1, 1], lease, "w1"),
        TasksFinished("j1", [1, 1], lease, "w1"),
    ]


def test_what_the_worker_itself_ended_is_not_taken_back() -> None:
    story = Story().worker().job("j1", 1, retries=Retries(exit=1, backoff_ms=0))
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    # The answer was lost and the agent restarted: it says the same again, in a new session.
    assert tags(story.when(greet(session="s2", holding=[(lease, "j1", [0, 0])]))) == ["WorkerRegistered"]
    events = story.when(report(1, ended(lease, "j1", [0, 0], code=1), session="s2"))
    assert events[1:] == [TasksLate("j1", [0, 0], lease, "w1")]
    assert story.state.jobs["j1"].tries == {0: {"exit": 1}}


def test_a_lease_that_never_was_is_not_taken_back() -> None:
    story = Story().worker().job("j1", 1, retries=Retries(exit=1, backoff_ms=0))
    story.when(report(1, ended(story.lease(), "j1", [0, 0], code=1)))
    assert story.when(report(2, ended(0, "j1", [0, 0])))[1:] == [TasksLate("j1", [0, 0], 0, "w1")]


def test_another_worker_cannot_take_it_back() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 1)
    lease = story.lease("w1")
    story.silence(61, "w1")
    assert story.when(greet("w2", holding=[(lease, "j1", [0, 0])])) == []


def test_orders_stay_in_their_order_when_an_old_one_is_taken_back() -> None:
    story = Story().worker(cpus=2).job("j1", lost_after_ms=15_000).job("j2")
    (_, _, one, _), (_, _, two, _) = story.leases()
    story.silence(16)
    assert list(story.state.workers["w1"].leases) == [two]
    story.when(greet(holding=[(one, "j1", [0, 0])]))
    assert list(story.state.workers["w1"].leases) == [one, two]


def test_what_a_worker_should_not_have_is_found() -> None:
    story = Story().worker("w1").worker("w2").job("j1", 1).job("j2", 1)
    (_, _, one, _), (_, _, two, _) = story.leases("w1")
    story.when(report(1, ended(one, "j1", [0, 0])))
    hello = Hello("b", Capacity(1, 1), "1", "n", [Held(one, "j1", [0, 0]), Held(two, "j2", [0, 0])])
    assert stale_leases(story.state, "w1", hello) == [("j1", one)]
    assert stale_leases(story.state, "w2", hello) == [("j1", one), ("j2", two)]


# Leaving and draining


def test_a_worker_that_says_good_bye_gives_up_the_rest() -> None:
    story = Story().worker().job("j1", 3)
    lease = story.lease()
    events = story.when(report(1, ended(lease, "j1", [0, 0]), ended(lease, "j1", [1, 1], "returned"), bye=True))
    assert events == [
        WorkerReported("w1", 1),
        TasksFinished("j1", [0, 0], lease, "w1"),
        TasksRetried("j1", [1, 1], lease, "w1", 1, "returned"),
        lost("j1", [2, 2], lease, "the worker's agent was stopped"),
        WorkerStopped("w1"),
    ]
    assert story.leases() == []
    assert story.silence(100) == []


def test_a_stopped_worker_comes_back_with_a_new_session() -> None:
    story = Story().worker().job("j1", 1)
    story.when(report(1, bye=True))
    assert tags(story.when(greet(session="s2"))) == ["WorkerRegistered"]
    assert len(story.leases()) == 1


def test_a_drained_worker_finishes_and_gets_nothing_new() -> None:
    story = Story().worker(cpus=1).job("j1", 2)
    lease = story.lease()
    assert story.drain(True) == [WorkerDrained("w1")]
    assert story.drain(True) == []
    story.when(report(1, ended(lease, "j1", [0, 0])))
    assert story.when(place()) == []
    assert story.drain(False) == [WorkerUndrained("w1")]
    assert len(story.leases()) == 1


def test_a_request_that_arrives_again_late_is_done_once() -> None:
    story = Story().worker()
    drain, undrain = DrainWorker("w1", True, "a1"), DrainWorker("w1", False, "a2")
    assert story.when(drain) == [WorkerDrained("w1", ask="a1")]
    assert story.when(undrain) == [WorkerUndrained("w1", "a2")]
    assert story.when(drain) == []
    story.state = load(save(story.state))
    assert story.when(drain) == []
    assert not story.state.workers["w1"].drained
    assert story.when(DrainWorker("w1", True, "a3")) == [WorkerDrained("w1", ask="a3")]
    assert story.when(undrain) == []


def test_only_the_last_requests_are_remembered() -> None:
    story = Story().worker()
    for n in range(ASKS_KEPT + 2):
        story.when(DrainWorker("w1", n % 2 == 0, f"a{n}"))
    assert story.state.workers["w1"].asked == [f"a{n}" for n in range(2, ASKS_KEPT + 2)]


def test_draining_is_an_order_with_a_number() -> None:
    story = Story().worker().job("j1", 1)
    lease = story.lease()
    story.drain(True)
    assert story.state.workers["w1"].drain_order > lease


def test_a_worker_stays_drained_over_a_restart() -> None:
    story = Story().worker()
    story.drain(True)
    story.worker(session="s2").job("j1")
    assert story.leases() == []


def test_draining_a_worker_that_is_not_there_is_refused() -> None:
    assert Story().refuses(DrainWorker("w9", True)).code == "unknown_worker"
    assert Story().refuses(ConfigureWorker("w9", 1000)).code == "unknown_worker"


def test_a_worker_is_told_how_often_to_measure_once() -> None:
    story = Story().worker()
    ask = ConfigureWorker("w1", 1000, "a1")
    assert story.when(ask) == [WorkerConfigured("w1", 1000, "a1")]
    assert story.when(ask) == []
    assert story.when(ConfigureWorker("w1", 500, "a2")) == [WorkerConfigured("w1", 500, "a2")]
    assert story.when(ask) == [], "an earlier request that arrives again"
    assert story.state.workers["w1"].configured == (2, 500)


def test_a_cancelled_jobs_worker_is_told_once() -> None:
    story = Story().worker(cpus=4).job("j1", 8)
    story.lease(room=2)
    story.lease(room=2)
    story.cancel("j1")
    assert len(story.state.workers["w1"].cancels) == 1


def test_a_worker_that_leaves_makes_its_tasks_anyones() -> None:
    story = Story().worker("w1", cpus=1).worker("w2", cpus=1).job("j1", 1, retries=Retries(exit=5, backoff_ms=0))
    story.when(report(1, ended(story.lease("w1"), "j1", [0, 0], code=1)))
    assert story.leases("w1") == []
    story.state.fresh.clear()
    story.when(report(1, worker="w2", bye=True))
    assert story.state.fresh, "those that are idle are to be asked again"
    assert len(story.leases("w1")) == 1


def test_a_submission_is_held_when_the_only_machine_left() -> None:
    story = Story().worker("w1", cpus=2).worker("w2", cpus=8)
    story.when(report(1, worker="w2", bye=True))
    assert tags(story.when(submit("j1", cpus_milli=8000))) == ["JobSubmitted", "JobHeld"]
