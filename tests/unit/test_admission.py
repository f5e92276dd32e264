"""What one worker may send: times are the test's own."""

from collections import Counter

import pytest

from services.pool import admission
from services.pool.admission import BURST_S, LIMITS, METERS_MAX, REFUSED_MAX, Admission, Kind, Limit

FEW: dict[Kind, Limit] = {**dict.fromkeys(LIMITS, Limit(10, 1000)), "report": Limit(1000, 1e9, 2)}
WHOLE_BUCKET = int(10 * BURST_S)


def sent(door: Admission, count: int, now: float, kind: Kind = "poll", size: int = 1, worker: str = "w1") -> Counter:
    """How many of so many messages at once were answered how."""
    return Counter(door.admit(worker, kind, size, now) for _ in range(count))


def test_what_was_not_used_of_the_last_seconds_may_come_at_once_and_no_more() -> None:
    door = Admission(FEW)
    assert sent(door, WHOLE_BUCKET, 100.0) == {"take": WHOLE_BUCKET}
    assert "take" not in sent(door, 5, 100.0)
    assert sent(door, 20, 101.0)["take"] == 10


def test_a_worker_that_keeps_to_the_rate_is_never_refused() -> None:
    door = Admission(FEW)
    assert {door.admit("w1", "poll", 1, 100 + n / 10) for n in range(1000)} == {"take"}


def test_bytes_count_and_a_message_larger_than_the_bucket_passes_when_it_is_full() -> None:
    door = Admission(FEW)
    assert sent(door, 2, 100.0, size=10_000)["take"] == 1
    assert sent(door, 1, 105.0, size=1)["take"] == 0
    assert sent(door, 1, 110.0, size=1)["take"] == 1


def test_so_many_wait_for_their_answer_and_one_more_after_each_answer() -> None:
    door = Admission(FEW)
    assert sent(door, 3, 100.0, "report") == {"take": 2, "slow_down": 1}
    door.done("w1", "report")
    assert sent(door, 2, 100.0, "report")["take"] == 1
    door.reset()
    assert sent(door, 3, 100.0, "report")["take"] == 2


def test_one_workers_flood_takes_nothing_from_another_nor_from_its_other_messages() -> None:
    door = Admission(FEW)
    sent(door, 1000, 100.0)
    assert door.admit("w2", "poll", 1, 100.0) == "take"
    assert door.admit("w1", "output", 1, 100.0) == "take"


def test_of_what_is_refused_only_some_is_answered() -> None:
    door = Admission(FEW)
    said = sent(door, 1000, 100.0)
    assert 0 < said["slow_down"] <= admission.ANSWERS_PER_S
    assert said["drop"] > 900


def test_a_flood_is_noticed_and_again_while_it_goes_on() -> None:
    door = Admission(FEW)
    assert sent(door, WHOLE_BUCKET + REFUSED_MAX, 100.0)["flood"] == 0
    assert sent(door, 1000, 100.0)["flood"] == 1
    assert sent(door, 1000, 100.0 + admission.NOTICED_EACH_S)["flood"] == 1


def test_a_few_large_messages_are_a_flood_as_well() -> None:
    door = Admission(FEW)
    assert sent(door, 100, 100.0, size=admission.MIB)["flood"] == 1


def test_who_waits_after_each_refusal_is_never_a_flood() -> None:
    door, now, pause = Admission(FEW), 100.0, 0.05
    said: Counter[str] = Counter()
    for _ in range(2000):
        verdict = door.admit("w1", "output", 900, now)
        said[verdict] += 1
        pause = 0.05 if verdict == "take" else min(2.0, pause * 2)
        now += pause * 0.5
    assert said["flood"] == 0
    assert said["take"] > 300


def test_who_is_silent_is_forgotten_and_there_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Admission()
    for n in range(100):
        door.admit(f"w{n}", "poll", 1, 100.0)
    for n in range(50):
        door.admit(f"v{n}", "poll", 1, 100.0 + admission.IDLE_S + 1)
    assert len(door) == 50
    monkeypatch.setattr(admission, "METERS_MAX", 60)
    for n in range(100):
        door.admit(f"u{n}", "poll", 1, 100.0 + admission.IDLE_S + 2)
    assert len(door) == 60
    assert METERS_MAX > 60


def test_an_agents_fastest_is_far_from_the_limits() -> None:
    """A report and a poll each millisecond, and as many large pieces of output as a gigabit carries."""
    door = Admission()
    for n in range(20_000):
        now = 100 + n / 1000
        assert door.admit("w1", "report", 20_000, now) == "take"
        door.done("w1", "report")
        assert door.admit("w1", "poll", 200, now) == "take"
        if n % 7 == 0:
            assert door.admit("w1", "output", 786_432, now) == "take"
