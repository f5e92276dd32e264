"""The rules of jobs: what may be submitted and cancelled, what an attempt's end leads to, when jobs end."""

import pytest

from events.catalog import AnyEvent
from events.job import JobCancelled, JobFinished, JobHeld, JobRunnable, Retries
from events.task import Detail, TasksDue, TasksFailed, TasksFinished, TasksRetried
from services.pool.commands import Advance, CancelJob, Past
from services.pool.plan import ADVANCE_MAX
from tests.pool_support import ONCE, SECOND, T0, Story, ended, fact, greet, place, report, submit, tags


def test_a_job_is_taken_in() -> None:
    assert Story().when(submit("j1", 10)) == [fact("j1", 10)]


def test_the_same_job_again_is_nothing_new() -> None:
    assert Story(fact("j1")).when(submit("j1")) == []


def test_the_same_id_with_another_body_is_refused() -> None:
    assert Story(fact("j1")).refuses(submit("j1", digest="other")).code == "different_body"


def test_a_job_that_has_ended_is_not_taken_in_again() -> None:
    story = Story()
    assert story.when(submit("j1", known={"j1": Past("d", "succeeded")})) == []
    assert story.refuses(submit("j1", known={"j1": Past("other", "succeeded")})).code == "different_body"


# Dependencies


def test_a_job_waits_for_an_open_one() -> None:
    story = Story(fact("j1"))
    assert story.when(submit("j2", after=["j1"])) == [fact("j2", after=["j1"]), JobHeld("j2", "dependencies")]


def test_an_unknown_dependency_is_refused_by_name() -> None:
    refused = Story(fact("j1")).refuses(submit("j2", after=["j1", "j9"]))
    assert (refused.code, refused.field) == ("unknown_job", "after[1]")


def test_a_job_cannot_wait_for_itself() -> None:
    assert Story().refuses(submit("j1", after=["j1"])).code == "unknown_job"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_dependency_that_ended_badly_is_refused(state: str) -> None:
    refused = Story().refuses(submit("j2", after=["j1"], known={"j1": Past("d", state)}))
    assert (refused.code, refused.field) == ("dependency_failed", "after[0]")
    assert state in refused.detail


def test_a_dependency_that_succeeded_long_ago_is_no_wait() -> None:
    story = Story()
    assert tags(story.when(submit("j2", after=["j1"], known={"j1": Past("d", "succeeded")}))) == ["JobSubmitted"]
    assert story.worker().leases()[0][0] == "j2"


def test_a_job_runs_when_the_last_it_waits_for_succeeded() -> None:
    story = Story().worker(cpus=2).job("j1").job("j2").job("j3", after=["j1", "j2", "j1"])
    (_, _, first, _), (_, _, second, _) = story.leases()
    story.when(report(1, ended(first, "j1", [0, 0])))
    assert story.advance() == []
    story.when(report(2, ended(second, "j2", [0, 0])))
    assert story.advance() == [JobRunnable("j3")]
    assert [job for job, *_ in story.leases()] == ["j3"]


def test_a_job_is_cancelled_with_those_that_wait_for_it() -> None:
    story = Story().job("j1").job("j2", 3, after=["j1"]).job("j3", after=["j2"])
    story.cancel("j1")
    events = story.advance()
    assert tags(events) == ["JobCancelled", "JobFinished", "JobCancelled", "JobFinished"]
    assert isinstance(events[0], JobCancelled)
    assert events[0].job == "j2"
    assert "j1" in events[0].reason
    assert events[1] == JobFinished("j2", "cancelled", 0, 0, 3)
    assert not story.state.jobs


def test_a_job_that_waits_can_be_cancelled_before_it_is_told() -> None:
    story = Story().worker().job("j1").job("j2", after=["j1"])
    story.when(report(1, ended(story.lease(), "j1", [0, 0])))
    assert story.state.releasable == {"j2": ""}
    story.cancel("j2")
    assert story.advance() == []


def test_many_dependents_are_released_in_parts() -> None:
    many = ADVANCE_MAX + 20
    story = Story().large().worker().job("j0")
    for n in range(1, many + 1):
        story.job(f"j{n}", after=["j0"])
    story.when(report(1, ended(story.lease(), "j0", [0, 0])))
    first = story.when(Advance())
    assert len(first) == ADVANCE_MAX
    assert len(story.when(Advance())) == many - ADVANCE_MAX
    assert story.when(Advance()) == []


def test_many_dependents_are_cancelled_in_parts() -> None:
    many = ADVANCE_MAX
    story = Story().large().job("j0")
    for n in range(1, many + 1):
        story.job(f"j{n}", after=["j0"])
    story.cancel("j0")
    assert len(story.when(Advance())) <= ADVANCE_MAX + 1
    assert story.state.jobs
    story.advance()
    assert not story.state.jobs


# Capacity


def test_a_job_no_machine_could_run_is_held_with_the_reason() -> None:
    story = Story().worker(cpus=4)
    _, held = story.when(submit("j1", cpus_milli=8000))
    assert isinstance(held, JobHeld)
    assert held.reason == "capacity"
    assert "8 CPUs" in held.detail
    assert "4 CPUs" in held.detail


def test_a_kind_no_machine_can_run_is_held_with_the_reason() -> None:
    _, held = Story().worker().when(submit("j1", kind="container"))
    assert isinstance(held, JobHeld)
    assert "container" in held.detail


def test_nothing_is_held_while_no_machine_is_known() -> None:
    assert tags(Story().when(submit("j1", cpus_milli=8000))) == ["JobSubmitted"]


def test_a_queued_job_is_held_when_the_only_machines_are_too_small() -> None:
    story = Story().job("j1", cpus_milli=8000)
    story.when(greet(cpus=4))
    assert tags(story.advance(capacity=True)) == ["JobHeld"]
    assert story.leases() == []


def test_a_large_machine_releases_what_waited_for_one() -> None:
    story = Story().worker("w1", cpus=4).job("j1", cpus_milli=8000).job("j2", cpus_milli=16_000)
    story.when(greet("w2", cpus=8))
    assert story.advance(capacity=True) == [JobRunnable("j1")]
    assert [job for job, *_ in story.leases("w2")] == ["j1"]


def test_a_released_job_is_held_when_no_machine_is_large_enough() -> None:
    story = Story().worker().job("j1").job("j2", cpus_milli=8000, after=["j1"])
    story.when(report(1, ended(story.lease(), "j1", [0, 0])))
    assert tags(story.advance()) == ["JobHeld"]


def test_a_job_held_for_capacity_can_be_cancelled() -> None:
    story = Story().worker().job("j1", cpus_milli=8000)
    assert tags(story.cancel("j1")) == ["JobCancelled", "JobFinished"]
    story.when(greet("w2", cpus=8))
    assert story.advance(capacity=True) == []


def test_many_jobs_are_held_in_parts() -> None:
    story = Story().large()
    for n in range(ADVANCE_MAX + 5):
        story.job(f"j{n}", cpus_milli=8000)
    story.when(greet(cpus=4))
    assert len(story.when(Advance(capacity=True))) == ADVANCE_MAX
    assert len(story.when(Advance(capacity=True))) == 5
    assert story.when(Advance(capacity=True)) == []


# Cancelling


def test_a_queued_job_is_cancelled_at_once() -> None:
    story = Story().job("j1", 7)
    assert story.cancel("j1") == [JobCancelled("j1"), JobFinished("j1", "cancelled", 0, 0, 7)]


def test_a_running_job_is_cancelled_when_its_workers_say_so() -> None:
    story = Story().worker(cpus=2).job("j1", 5)
    lease = story.lease()
    assert story.cancel("j1") == [JobCancelled("j1")]
    assert list(story.state.workers["w1"].cancels.values()) == ["j1"]
    events = story.when(report(1, ended(lease, "j1", [0, 1], "cancelled")))
    assert isinstance(events[1], TasksFailed)
    assert events[1].end == "cancelled"
    assert events[-1] == JobFinished("j1", "cancelled", 0, 0, 5)
    assert not story.state.workers["w1"].cancels


def test_what_finished_before_the_cancel_reached_it_counts() -> None:
    story = Story().worker(cpus=1).job("j1", 1)
    lease = story.lease()
    story.cancel("j1")
    events = story.when(report(1, ended(lease, "j1", [0, 0])))
    assert events[1:] == [
        TasksFinished("j1", [0, 0], lease, "w1"),
        JobFinished("j1", "succeeded", 1, 0, 0),
    ]


def test_cancelling_twice_changes_nothing() -> None:
    story = Story().worker().job("j1", 5)
    story.lease()
    story.cancel("j1")
    assert story.cancel("j1") == []


def test_cancelling_what_ended_is_refused_and_what_was_cancelled_is_not() -> None:
    story = Story()
    assert story.refuses(CancelJob("j1")).code == "unknown_job"
    refused = story.refuses(CancelJob("j1", known={"j1": Past("d", "failed")}))
    assert (refused.code, "failed" in refused.detail) == ("job_ended", True)
    assert story.when(CancelJob("j1", known={"j1": Past("d", "cancelled")})) == []


def test_a_held_job_is_cancelled_at_once() -> None:
    story = Story().job("j1").job("j2", 2, after=["j1"])
    assert tags(story.cancel("j2")) == ["JobCancelled", "JobFinished"]


def test_tasks_that_wait_for_another_try_are_cancelled_at_once() -> None:
    story = Story().worker().job("j1", 2, retries=Retries(exit=3))
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0], code=1), ended(lease, "j1", [1, 1], "lost")))
    assert story.cancel("j1")[-1] == JobFinished("j1", "cancelled", 0, 0, 2)
    assert story.after(100).advance() == []


def test_a_lost_worker_does_not_keep_a_cancelled_job_open() -> None:
    story = Story().worker().job("j1", 2)
    story.lease()
    story.cancel("j1")
    assert JobFinished("j1", "cancelled", 0, 0, 2) in story.silence(61)


# Ends and retries


def test_a_job_ends_with_its_last_task() -> None:
    story = Story().worker(cpus=1).job("j1", 3, retries=ONCE)
    events: list[AnyEvent] = []
    for n, code in enumerate((0, 7, 0), 1):
        events = story.when(report(n, ended(story.lease(), "j1", [n - 1, n - 1], code=code)))
    assert events[-1] == JobFinished("j1", "failed", 2, 1, 0)
    assert not story.state.jobs


def test_details_go_with_their_tasks() -> None:
    story = Story().worker(cpus=3).job("j1", 3, retries=Retries(exit=1))
    lease = story.lease()
    details = [Detail(wall_ms=n) for n in (1, 2, 3)]
    events = story.when(report(1, ended(lease, "j1", [0, 2], details=details)))
    assert events[1] == TasksFinished("j1", [0, 2], lease, "w1", 1, details)


@pytest.mark.parametrize("cause", ["exit", "oom", "timeout"])
def test_retries_back_off_doubling_up_to_a_minute(cause: str) -> None:
    story = Story().worker(cpus=1).job("j1", 1, retries=Retries(exit=9, oom=9, timeout=9, backoff_ms=1000))
    waits: list[int] = []
    for n in range(1, 9):
        code = 1 if cause == "exit" else 0
        _, retried = story.when(report(n, ended(story.lease(), "j1", [0, 0], cause, code)))
        assert isinstance(retried, TasksRetried)
        waits.append(retried.not_before - story.now)
        assert story.leases() == []
        assert story.after((waits[-1] - 1) / 1000).advance() == []
        assert story.after(0.001).advance() == [TasksDue("j1", [0, 0])]
    assert waits == [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]


@pytest.mark.parametrize("cause", ["exit", "oom", "timeout", "lost", "output_lost"])
def test_tries_are_limited_by_cause(cause: str) -> None:
    retries = Retries(exit=2, oom=2, timeout=2, lost=2, output_lost=2, backoff_ms=0)
    story = Story().worker(cpus=1).job("j1", 1, retries=retries)
    code = 1 if cause == "exit" else 0
    for n in (1, 2):
        assert tags(story.when(report(n, ended(story.lease(), "j1", [0, 0], cause, code))))[1:] == ["TasksRetried"]
    events = story.when(report(3, ended(story.lease(), "j1", [0, 0], cause, code)))
    assert tags(events)[1:] == ["TasksFailed", "JobFinished"]


def test_each_cause_has_its_own_count() -> None:
    story = Story().worker(cpus=1).job("j1", 1, retries=Retries(exit=1, oom=1, lost=1, backoff_ms=0))
    for n, (end, code) in enumerate([("exit", 1), ("oom", 0), ("lost", 0)], 1):
        assert tags(story.when(report(n, ended(story.lease(), "j1", [0, 0], end, code))))[1:] == ["TasksRetried"]
    assert tags(story.when(report(4, ended(story.lease(), "j1", [0, 0], code=1))))[1:] == ["TasksFailed", "JobFinished"]


def test_tasks_of_one_report_are_tried_again_each_by_its_own_count() -> None:
    story = Story().worker(cpus=2).job("j1", 2, retries=Retries(exit=1, backoff_ms=0))
    lease = story.lease()
    story.when(report(1, ended(lease, "j1", [0, 0], code=1)))
    again = story.lease()
    events = story.when(report(2, ended(again, "j1", [0, 0], code=1), ended(lease, "j1", [1, 1], code=1)))
    assert events[1:] == [
        TasksFailed("j1", [0, 0], again, "w1", 2, "exit", 1),
        TasksRetried("j1", [1, 1], lease, "w1", 1, "exit", 1),
    ]


def test_what_was_given_back_is_not_counted() -> None:
    story = Story().worker(cpus=1).job("j1", 1, retries=ONCE)
    for n in range(1, 5):
        _, retried = story.when(report(n, ended(story.lease(), "j1", [0, 0], "returned")))
        assert isinstance(retried, TasksRetried)
        assert retried.not_before == 0
    assert story.when(report(5, ended(story.lease(), "j1", [0, 0])))[-1] == JobFinished("j1", "succeeded", 1, 0, 0)


def test_a_worker_that_ends_a_task_unasked_has_lost_it() -> None:
    story = Story().worker().job("j1", 1, retries=Retries(lost=1))
    story.when(report(1, ended(story.lease(), "j1", [0, 0], "cancelled")))
    assert story.state.jobs["j1"].tries == {0: {"lost": 1}}


def test_a_rejected_task_fails_when_no_other_machine_could_take_it() -> None:
    story = Story().worker().job("j1", 1)
    events = story.when(report(1, ended(story.lease(), "j1", [0, 0], "rejected", reason="no such program")))
    assert tags(events)[1:] == ["TasksFailed", "JobFinished"]


def test_a_rejected_task_goes_to_another_machine_a_few_times() -> None:
    story = Story().worker("w1", cpus=1).worker("w2", cpus=1).job("j1", 1, retries=Retries(rejected=1))
    events = story.when(report(1, ended(story.lease("w1"), "j1", [0, 0], "rejected")))
    assert tags(events)[1:] == ["TasksRetried"]
    events = story.when(report(1, ended(story.lease("w2"), "j1", [0, 0], "rejected"), worker="w2"))
    assert tags(events)[1:] == ["TasksFailed", "JobFinished"]


def test_a_drained_or_small_machine_is_no_other_machine() -> None:
    story = Story().worker("w1").worker("w2").worker("w3", cpus=0.5).job("j1", 1)
    story.drain(True, "w2")
    events = story.when(report(1, ended(story.lease("w1"), "j1", [0, 0], "rejected")))
    assert tags(events)[1:] == ["TasksFailed", "JobFinished"]


def test_a_million_tasks_cost_one_fact_and_no_memory() -> None:
    story = Story().worker(cpus=4).job("j1", 1_000_000)
    assert story.leases(ahead=9) == [("j1", [0, 39], 1, 1)]
    job = story.state.jobs["j1"]
    assert (job.ready, len(job.active)) == (1_000_000 - 40, 40)
    assert story.cancel("j1") == [JobCancelled("j1")]
    assert job.dropped == 1_000_000 - 40


def test_many_scattered_back_offs_come_due_in_messages_that_fit() -> None:
    story = (
        Story().large().worker(cpus=4000).job("j1", 200_000, cpus_milli=20, retries=Retries(exit=1, backoff_ms=1000))
    )
    odd: list[int] = [n for index in range(1, 4000, 2) for n in (index, index)]
    for n in range(40):
        lease = story.lease(room=4000)
        tasks = [index + n * 4000 for index in odd]
        story.when(report(n + 1, ended(lease, "j1", tasks, code=1)))
    story.after(2)
    parts = 0
    while events := story.when(Advance()):
        parts += 1
        assert sum(len(event.tasks) * 8 for event in events if isinstance(event, TasksDue)) < 400_000
    assert parts > 1
    assert len(story.state.jobs["j1"].retry) == 40 * 2000


def test_time_is_an_argument() -> None:
    story = Story().worker().job("j1", 1, retries=Retries(exit=1))
    _, retried = story.when(report(1, ended(story.lease(), "j1", [0, 0], code=1)))
    assert isinstance(retried, TasksRetried)
    assert retried.not_before == T0 + SECOND
    assert story.when(place()) == []
