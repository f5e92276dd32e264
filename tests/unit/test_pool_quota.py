"""What one user may have of a pool: open jobs and queued tasks, counted as they come and go."""

import pytest

from events.task import TasksLeased
from services.hosting import Refused
from services.pool.commands import Past, Submit
from services.pool.state import Owned
from tests.pool_support import Story, ended, fact, greet, place, report, submit, tags


def limited(job: str, count: int = 1, *, jobs: int = 0, tasks: int = 0, owner: str = "u1") -> Submit:
    return Submit(fact(job, count, owner=owner), open_jobs_max=jobs, queued_tasks_max=tasks)


def test_one_job_more_than_the_limit_is_refused_and_changes_nothing() -> None:
    story = Story()
    story.when(limited("j1", jobs=2))
    story.when(limited("j2", jobs=2))
    with pytest.raises(Refused, match="2 open jobs, and your limit `open_jobs` is 2; wait until") as refused:
        story.when(limited("j3", jobs=2))
    assert (refused.value.code, refused.value.field) == ("quota", "")
    assert "j3" not in story.state.jobs
    assert story.state.owned == {"u1": Owned(2, 2)}


def test_another_users_jobs_do_not_count() -> None:
    story = Story()
    story.when(limited("j1", jobs=1))
    assert tags(story.when(limited("j2", jobs=1, owner="u2"))) == ["JobSubmitted"]


def test_asking_again_for_a_job_that_was_taken_is_no_question_of_quota() -> None:
    story = Story()
    story.when(limited("j1", jobs=1))
    assert story.when(limited("j1", jobs=1)) == []


def test_more_queued_tasks_than_the_limit_are_refused() -> None:
    story = Story()
    story.when(limited("j1", 6, tasks=10))
    with pytest.raises(Refused, match="5 more would make 11 queued tasks, and your limit `queued_tasks` is 10") as no:
        story.when(limited("j2", 5, tasks=10))
    assert (no.value.code, no.value.field) == ("quota", "count")
    assert tags(story.when(limited("j2", 4, tasks=10))) == ["JobSubmitted"]


def test_what_runs_is_not_queued_and_what_comes_back_is() -> None:
    story = Story()
    story.when(greet(cpus=4))
    story.when(submit("j1", 6))
    (leased,) = story.when(place())
    assert isinstance(leased, TasksLeased)
    assert story.state.owned["u1"] == Owned(1, 2)
    story.when(report(1, ended(leased.lease, "j1", [0, 0]), ended(leased.lease, "j1", [1, 1], "returned")))
    assert story.state.owned["u1"] == Owned(1, 3)


def test_what_ended_counts_no_more() -> None:
    story = Story()
    story.when(limited("j1", 6, jobs=1))
    story.cancel("j1")
    assert story.state.owned == {}
    assert tags(story.when(Submit(fact("j2"), {"j1": Past("d", "cancelled")}, 1))) == ["JobSubmitted"]


def test_a_job_that_waits_for_another_counts() -> None:
    story = Story()
    story.when(submit("j1"))
    story.when(submit("j2", 3, after=["j1"]))
    assert story.state.owned == {"u1": Owned(2, 4)}
