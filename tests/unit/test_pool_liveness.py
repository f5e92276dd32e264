"""Who is silent: only time in which we could have heard counts."""

from events.worker import Capacity
from services.pool.liveness import STEP_S_MAX, Liveness
from services.pool.state import Worker
from services.pool.worker import UNREACHABLE_MS

UNREACHABLE_S = UNREACHABLE_MS / 1000


class Watch:
    """A liveness on a clock of its own, ticked as the service does."""

    def __init__(self) -> None:
        self.now = 100.0
        self.liveness = Liveness(lambda: self.now)
        self.worker = Worker("w1", "s1", "boot", Capacity(1000, 0))
        self.liveness.heard("w1")

    def passes(self, seconds: float, *, step: float = 0.25, connected: bool = True) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            self.liveness.advance(connected)

    def silent(self) -> list[tuple[str, int]]:
        return [*self.liveness.silent([self.worker])]

    def returned(self) -> list[str]:
        return [*self.liveness.returned([self.worker])]


def test_a_worker_is_silent_after_a_while() -> None:
    watch = Watch()
    watch.passes(UNREACHABLE_S - 0.25)
    assert watch.silent() == []
    watch.passes(2)
    ((worker, ms),) = watch.silent()
    assert worker == "w1"
    assert UNREACHABLE_MS <= ms <= UNREACHABLE_MS + 2000


def test_what_was_heard_ends_the_silence() -> None:
    watch = Watch()
    watch.passes(UNREACHABLE_S - 1)
    watch.liveness.heard("w1")
    watch.passes(UNREACHABLE_S - 1)
    assert watch.silent() == []


def test_time_without_a_connection_does_not_count() -> None:
    watch = Watch()
    watch.passes(10 * UNREACHABLE_S, connected=False)
    assert watch.silent() == []


def test_a_pause_of_this_process_does_not_count() -> None:
    watch = Watch()
    watch.passes(1000, step=1000)
    assert watch.silent() == []
    watch.passes(UNREACHABLE_S - STEP_S_MAX - 0.25)
    assert watch.silent() == []


def test_a_takeover_gives_everyone_a_full_grace() -> None:
    watch = Watch()
    watch.passes(UNREACHABLE_S + 5)
    watch.liveness.restart(["w1"])
    watch.passes(UNREACHABLE_S - 1)
    assert watch.silent() == []


def test_a_worker_never_heard_of_has_its_grace_from_now_on() -> None:
    watch = Watch()
    watch.worker.id = "w2"
    watch.passes(100)
    assert watch.silent() == []
    watch.passes(UNREACHABLE_S + 1)
    assert [worker for worker, _ in watch.silent()] == ["w2"]


def test_silence_is_told_about_once_a_second() -> None:
    watch = Watch()
    watch.passes(UNREACHABLE_S + 1)
    assert watch.silent()
    watch.passes(0.5)
    assert watch.silent() == []
    watch.passes(0.5)
    assert watch.silent()


def test_those_who_left_are_not_silent() -> None:
    watch = Watch()
    for state in ("lost", "stopped"):
        watch.worker.state = state
        watch.passes(UNREACHABLE_S + 2)
        assert watch.silent() == []


def test_an_unreachable_worker_returns_when_it_is_heard() -> None:
    watch = Watch()
    watch.worker.state = "unreachable"
    watch.passes(UNREACHABLE_S + 1)
    assert watch.returned() == []
    watch.liveness.heard("w1")
    assert watch.returned() == ["w1"]
    watch.worker.state = "ready"
    assert watch.returned() == []
