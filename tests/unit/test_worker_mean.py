"""Averages by time, of what is looked at now and then."""

from worker.executors.mean import Mean


def test_what_is_seen_stands_for_the_time_before_it() -> None:
    mean = Mean(10.0)
    mean.saw(100, 11.0)
    mean.saw(300, 14.0)
    assert mean.over(14.0) == 250
    assert mean.over(15.0) == 260


def test_never_looked_at() -> None:
    assert Mean(5.0).over(7.0) == 0
    assert Mean(5.0).over(5.0) == 0


def test_a_clock_that_stands_or_goes_back() -> None:
    mean = Mean(5.0)
    mean.saw(7, 5.0)
    assert mean.over(5.0) == 7
    mean.saw(9, 6.0)
    mean.saw(1, 5.5)
    assert mean.over(6.0) == 9
