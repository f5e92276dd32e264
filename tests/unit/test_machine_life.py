"""Rules of the machine: sessions, pace, and stopping."""

from events.protocol import Drain, Ended, Held, Orders
from events.task import Detail
from tests.machine_support import HELLO, JOB, done, machine, order, reported, starts, told
from worker.machine import (
    EXIT_FAILED,
    EXIT_SUPERSEDED,
    STOPPED,
    WAIT_MS,
    step,
    wants_ticks,
)
from worker.messages import (
    Answered,
    Denial,
    Forget,
    Freed,
    Kill,
    Ordered,
    Quit,
    Repoll,
    Saved,
    Send,
    Stop,
    Tick,
)
from worker.state import State, next_poll


class TestSessions:
    def test_the_first_poll_says_hello_until_it_is_answered(self) -> None:
        state = State("s", HELLO)
        assert next_poll(state, 0).hello == HELLO
        assert next_poll(state, 0).hello == HELLO
        step(state, Ordered(Orders(), 0, greeted=True))
        assert next_poll(state, 0).hello is None

    def test_resync_says_it_again_with_all_that_is_held(self) -> None:
        state = machine(order(1, [0, 9]), order(2, [4, 4], job="j2"))
        done(state, 1, 1)
        step(state, Freed(1, 2, 1))
        step(state, Ordered(Orders(resync=True), 5))
        hello = next_poll(state, 6).hello
        assert hello is not None
        assert hello.holding == [Held(1, JOB, [0, 9]), Held(2, "j2", [4, 4])]

    def test_what_an_earlier_agent_left_is_held_and_reported_first(self) -> None:
        left = Ended(7, JOB, [3, 4], details=[Detail(), Detail()])
        state = State("s", HELLO, {5: [left]})
        hello = next_poll(state, 0).hello
        assert hello is not None
        assert hello.holding == [Held(7, JOB, [3, 4])]
        assert reported(step(state, Ordered(Orders(), 0, greeted=True))) == [left]
        assert step(state, Answered(1, 1)) == [Forget([5])]

    def test_and_is_not_run_again(self) -> None:
        left = Ended(7, JOB, [3, 4], details=[Detail(), Detail()])
        state = State("s", HELLO, {5: [left]})
        assert starts(told(state, order(7, [2, 5]))) == [(7, 2), (7, 5)]

    def test_a_superseded_agent_stops_and_says_why(self) -> None:
        (quit_,) = step(State("s", HELLO), Denial("superseded", "seen elsewhere", 0))
        assert isinstance(quit_, Quit)
        assert quit_.code == EXIT_SUPERSEDED
        assert "seen elsewhere" in quit_.why

    def test_also_when_a_report_says_so(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        (quit_,) = step(state, Answered(1, 1, "superseded", "elsewhere"))
        assert isinstance(quit_, Quit)
        assert quit_.code == EXIT_SUPERSEDED

    def test_one_that_is_not_understood_stops(self) -> None:
        (quit_,) = step(State("s", HELLO), Denial("malformed", "what?", 0))
        assert isinstance(quit_, Quit)
        assert quit_.code == EXIT_FAILED

    def test_an_unknown_session_says_hello(self) -> None:
        state = machine()
        assert step(state, Denial("unknown_session", "", 0)) == []
        assert next_poll(state, 0).hello is not None


class TestPace:
    def test_nothing_is_asked_for_ahead_before_anything_was_measured(self) -> None:
        assert next_poll(machine(), 0).ahead == 0

    def test_short_tasks_are_asked_for_far_ahead(self) -> None:
        state = machine(order(1, [0, 0]))
        done(state, 1, 0, now=2)
        assert next_poll(state, 3).ahead >= 100

    def test_long_ones_are_not(self) -> None:
        state = machine(order(1, [0, 0]))
        done(state, 1, 0, now=600)
        assert next_poll(state, 601).ahead == 0

    def test_a_task_that_turns_out_long_ends_it_and_the_poll_is_asked_anew(self) -> None:
        state = machine(order(1, [0, 1]))
        done(state, 1, 0, now=2)
        assert next_poll(state, 3).ahead > 0
        assert Repoll() not in step(state, Tick(300))
        assert Repoll() in step(state, Tick(500))
        assert next_poll(state, 501).ahead == 0

    def test_after_a_pause_nothing_is_known(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        assert next_poll(state, 1).ahead > 0
        assert wants_ticks(state)
        assert Repoll() in step(state, Tick(2_000))

    def test_tasks_that_wait_too_long_are_given_back_as_runs(self) -> None:
        state = machine(order(1, [0, 9]))
        assert not reported(step(state, Tick(WAIT_MS - 1)))[1:]
        step(state, Answered(1, WAIT_MS - 1))
        assert reported(step(state, Tick(WAIT_MS))) == [Ended(1, JOB, [2, 9], "returned")]
        assert list(state.running) == [(1, 0), (1, 1)]


class TestStop:
    def test_gives_back_what_waits_and_takes_nothing_new(self) -> None:
        state = machine(order(1, [0, 3]))
        instructions = step(state, Stop(1))
        assert Repoll() in instructions
        assert reported(instructions) == [Ended(1, JOB, [2, 3], "returned")]
        assert next_poll(state, 2).room == 0
        step(state, Answered(1, 2))
        assert reported(told(state, order(2, [7, 8]))) == [Ended(2, JOB, [7, 8], "returned")]

    def test_leaves_with_the_last_report(self) -> None:
        state = machine(order(1, [0, 0]))
        step(state, Stop(1))
        done(state, 1, 0, now=2)
        (send,) = step(state, Saved(1, 3))
        assert isinstance(send, Send)
        assert send.report.bye
        assert step(state, Answered(1, 4)) == [Forget([1]), Quit(0, STOPPED)]

    def test_an_idle_one_leaves_at_once(self) -> None:
        instructions = step(machine(), Stop(1))
        assert [one.report.bye for one in instructions if isinstance(one, Send)] == [True]

    def test_a_second_time_kills(self) -> None:
        state = machine(order(1, [0, 0]))
        step(state, Stop(1))
        assert step(state, Stop(2, kill=True)) == [Kill(1, 0, "lost", STOPPED)]
        assert step(state, Stop(3, kill=True)) == []

    def test_a_drained_one_asks_for_nothing_ahead_and_goes_on(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        assert starts(told(state, Drain(2, on=True), order(3, [0, 0]))) == [(3, 0)]
        assert next_poll(state, 1).ahead == 0
        told(state, Drain(4, on=False))
        assert not state.drained
