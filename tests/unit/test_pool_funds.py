"""A pool's jobs that cost something: they wait for the ledger's word, are counted, run short, and end."""

from typing import Any

import pytest

from events.job import Cost, JobCancelled, JobFinished, JobFunded, JobHeld, JobMetered, JobRunnable, JobShort
from events.ledger import HoldExtended, HoldPlaced, HoldRefused, HoldShort
from events.task import Counted, Detail, TasksFailed, TasksFinished, TasksRetried
from services.hosting import React
from services.pool.commands import Advance, CancelJob, Silent
from tests.pool_support import GIB, SECOND, Story, ended, greet, place, report, started, submit

HOUR = 3_600_000
COST = Cost(base=10, per_hour=3_600_000, hold=100_000, each_ms=60_000)
"""1 µCPT a ms."""
LIMITED = Cost(base=10, per_hour=3_600_000, hold=10_010, each_ms=0)


def react(event: Any) -> React:
    return React("evt.ledger.main", 7, 0, event)


def placed(job: str = "j1", pool: str = "p") -> React:
    return react(HoldPlaced(f"{pool}/{job}", "u1", 100_000, []))


class Told(Story):
    """A story that is told command by command."""

    def __call__(self, command: Any) -> list[Any]:
        return self.when(command)

    def later(self, ms: int) -> None:
        self.now += ms


@pytest.fixture
def told() -> Told:
    return Told()


def running(told: Told, job: str = "j1", count: int = 1, cost: Cost = COST, **more: Any) -> Told:
    """A funded job with a worker; its lease has number 1."""
    told(greet())
    told(submit(job, count, cost=cost, **more))
    told(placed(job))
    told(place())
    return told


# Waiting for the ledger's word


def test_a_job_that_costs_waits_for_its_hold(told: Told) -> None:
    assert told(submit("j1", cost=COST))[1:] == [JobHeld("j1", "funds")]
    told(greet())
    assert told(place()) == []
    assert told(placed()) == [JobRunnable("j1")]
    assert len(told(place())) == 1
    assert told(placed()) == [], "once"


def test_a_job_that_costs_nothing_does_not_wait(told: Told) -> None:
    assert len(told(submit("j1"))) == 1


def test_a_refused_hold_cancels_with_what_is_missing(told: Told) -> None:
    told(submit("j1", cost=COST))
    facts = told(react(HoldRefused("p/j1", "u1", 2_500_000, 400_000)))
    assert facts == [
        JobCancelled("j1", "it may cost 2.5 CPT, and its owner has 0.4 less"),
        JobFinished("j1", "cancelled", cancelled=1),
    ]


def test_the_word_on_another_pools_job_or_one_that_is_over_is_nothing(told: Told) -> None:
    told(submit("j1", cost=COST))
    assert told(placed("j1", pool="q")) == []
    assert told(placed("j9")) == []
    told(CancelJob("j1"))
    assert told(placed()) == []


def test_after_the_word_it_waits_for_what_else_there_is(told: Told) -> None:
    told(greet(cpus=1))
    told(submit("j0"))
    told(submit("j1", cost=COST, after=["j0"]))
    told(submit("j2", cost=COST, cpus_milli=9000))
    assert told(placed("j1")) == [JobHeld("j1", "dependencies")]
    assert told(placed("j2"))[0].reason == "capacity"


def test_dependencies_that_end_first_do_not_start_what_is_not_funded(told: Told) -> None:
    told(greet())
    told(submit("j0"))
    told(submit("j1", cost=COST, after=["j0"]))
    told(place())
    told(report(1, ended(1, "j0", [0, 0])))
    assert told(Advance()) == []
    assert told(placed()) == [JobRunnable("j1")]


def test_a_dependency_that_fails_ends_what_is_not_funded(told: Told) -> None:
    told(submit("j0"))
    told(submit("j1", cost=COST, after=["j0"]))
    told(CancelJob("j0"))
    assert isinstance(told(Advance())[0], JobCancelled)


def test_a_dependency_that_fails_just_before_the_word_ends_it_too(told: Told) -> None:
    told(submit("j0"))
    told(submit("j1", cost=COST, after=["j0"]))
    told(CancelJob("j0"))
    assert isinstance(told(placed())[0], JobCancelled)
    assert not told.state.jobs


# What counts


def finished(told: Told, *items: Any, sequence: int = 1) -> list[Any]:
    return [
        one for one in told(report(sequence, *items)) if isinstance(one, TasksFinished | TasksFailed | TasksRetried)
    ]


def test_the_reported_time_counts(told: Told) -> None:
    running(told)
    told.later(5 * SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], details=[Detail(wall_ms=3000)]))
    assert fact.counted == Counted(1, 3000, 4)


def test_no_more_than_the_pools_own_time_counts(told: Told) -> None:
    running(told)
    told.later(5 * SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], details=[Detail(wall_ms=9_000_000)]))
    assert fact.counted == Counted(1, 5000, 4)


def test_no_more_than_the_time_limit_counts(told: Told) -> None:
    running(told, cost=LIMITED, time_limit_ms=2000)
    told.later(5 * SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], details=[Detail(wall_ms=4000)]))
    assert fact.counted == Counted(1, 2000, 4)


def test_no_more_than_the_machine_runs_at_once_counts_over_all_reports(told: Told) -> None:
    told(greet(cpus=2, memory=8 * GIB))
    told(submit("j1", 8, cost=COST))
    told(placed())
    told(place(ahead=3))
    told.later(5 * SECOND)
    liar = [Detail(wall_ms=5000)] * 4
    (first,) = finished(told, ended(1, "j1", [0, 3], details=liar))
    (second,) = finished(told, ended(1, "j1", [4, 7], details=liar), sequence=2)
    assert (first.counted, second.counted) == (Counted(4, 10_000, 2), Counted(4, 0, 2))


def test_one_report_counts_as_two_do(told: Told) -> None:
    told(greet(cpus=2, memory=8 * GIB))
    told(submit("j1", 8, cost=COST))
    told(placed())
    told(place(ahead=3))
    told.later(5 * SECOND)
    liar = [Detail(wall_ms=5000)] * 4
    facts = finished(told, ended(1, "j1", [0, 3], details=liar), ended(1, "j1", [4, 7], details=liar))
    assert [one.counted for one in facts] == [Counted(4, 10_000, 2), Counted(4, 0, 2)]


@pytest.mark.parametrize("end", ["exit", "oom", "timeout"])
def test_the_users_own_failures_count(told: Told, end: Any) -> None:
    running(told)
    told.later(SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], end, 1, details=[Detail(wall_ms=900)]))
    assert fact.counted == Counted(1, 900, 4)


@pytest.mark.parametrize("end", ["lost", "rejected", "output_lost", "returned"])
def test_the_platforms_failures_are_free(told: Told, end: Any) -> None:
    running(told)
    told.later(SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], end, 0, details=[Detail(wall_ms=900)]))
    assert fact.counted is None


def test_a_worker_that_is_lost_costs_nothing_and_back_again_all_its_time(told: Told) -> None:
    running(told, lost_after_ms=15_000)
    told.later(20 * SECOND)
    lost = [one for one in told(Silent("w1", 20_000)) if isinstance(one, TasksRetried)]
    assert [one.counted for one in lost] == [None]
    told(greet(holding=[(1, "j1", [0, 0])]))
    told.later(5 * SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0], details=[Detail(wall_ms=60_000)]))
    assert fact.counted == Counted(1, 25_000, 4)


def test_of_what_is_cancelled_only_what_had_begun_counts(told: Told) -> None:
    running(told, count=2)
    told.later(SECOND)
    told(CancelJob("j1"))
    (fact,) = finished(told, ended(1, "j1", [0, 1], "cancelled", details=[Detail(wall_ms=700), Detail()]))
    assert fact.counted == Counted(1, 700, 4)


def test_without_details_only_the_base_counts(told: Told) -> None:
    running(told)
    told.later(SECOND)
    (fact,) = finished(told, ended(1, "j1", [0, 0]))
    assert fact.counted == Counted(1, 0, 4)


# When the money ends


def used_up(told: Told) -> Told:
    """One task of a job without a time limit runs, 80 % of what is held are used."""
    running(told)
    told(report(1, started(1, "j1", [0, 0])))
    told.later(79_990)
    return told


def test_a_hold_that_is_nearly_used_up_is_said_once(told: Told) -> None:
    running(told)
    told(report(1, started(1, "j1", [0, 0])))
    told.later(79_999)
    assert told(Advance()) == []
    told.later(1)
    assert told(Advance()) == [JobMetered("j1", 80_000, 60_000, 1, told.now + 20_000)]
    told.later(1000)
    assert told(Advance()) == []
    assert told(react(HoldExtended("p/j1", 160_000, []))) == [JobFunded("j1", 160_000)]
    assert told(react(HoldExtended("p/j1", 160_000, []))) == []
    told.later(46_999)
    assert told(Advance()) == []
    told.later(1)
    assert told(Advance()) == [JobMetered("j1", 128_000, 60_000, 1, told.now + 32_000)]


def test_two_that_run_use_it_twice_as_fast(told: Told) -> None:
    running(told, count=2)
    told(report(1, started(1, "j1", [0, 1])))
    told.later(40_000)
    assert told(Advance()) == [JobMetered("j1", 80_000, 120_000, 2, told.now + 10_000)]


def test_what_ended_counts_with_what_runs(told: Told) -> None:
    running(told, count=2)
    told(report(1, started(1, "j1", [0, 1])))
    told.later(30_000)
    told(report(2, ended(1, "j1", [0, 0], details=[Detail(wall_ms=20_000)])))
    told.later(29_990)
    assert told(Advance()) == [JobMetered("j1", 80_000, 60_000, 1, told.now + 20_000)]


def test_many_short_tasks_that_were_never_seen_running_are_metered_too(told: Told) -> None:
    running(told, count=3, cost=Cost(40_000, 0, 100_000, 60_000))
    told(report(1, ended(1, "j1", [0, 1], details=[Detail(), Detail()])))
    assert told(Advance()) == [JobMetered("j1", 80_000, 20_000, 0)]


def test_it_is_stopped_with_notice_and_keeps_what_is_done(told: Told) -> None:
    running(told, count=2)
    told(report(1, started(1, "j1", [0, 1])))
    told.later(5000)
    told(report(2, ended(1, "j1", [0, 0], details=[Detail(wall_ms=5000)])))
    told.later(75_000)
    assert isinstance(told(Advance())[0], JobMetered)
    stops_at = told.now + 60_000
    assert told(react(HoldShort("p/j1", 7, stops_at))) == [JobShort("j1", 7, stops_at)]
    told.later(59_999)
    assert told(Advance()) == []
    told.later(1)
    assert isinstance(told(Advance())[0], JobMetered), "there may be more by now"
    (fact,) = told(react(HoldShort("p/j1", 7, stops_at)))
    assert fact == JobCancelled("j1", "its owner ran out of CPT: 0.000007 more were needed for it to go on")
    (end,) = [
        one
        for one in told(report(3, ended(1, "j1", [1, 1], "cancelled", details=[Detail(wall_ms=140_000)])))
        if isinstance(one, JobFinished)
    ]
    assert end == JobFinished("j1", "cancelled", 1, 0, 1)


def test_money_that_comes_within_the_notice_lets_it_go_on(told: Told) -> None:
    used_up(told)
    told(Advance())
    told(react(HoldShort("p/j1", 7, told.now + 1000)))
    assert told(react(HoldExtended("p/j1", 200_000, []))) == [JobFunded("j1", 200_000)]
    told.later(1000)
    assert told(Advance()) == []


def test_a_job_with_a_time_limit_is_not_metered(told: Told) -> None:
    running(told, cost=LIMITED, time_limit_ms=10_000)
    told(report(1, started(1, "j1", [0, 0])))
    told.later(HOUR)
    assert told(Advance()) == []


def test_a_cancelled_job_is_not_metered(told: Told) -> None:
    used_up(told)
    told(CancelJob("j1"))
    told.later(HOUR)
    assert told(Advance()) == []
