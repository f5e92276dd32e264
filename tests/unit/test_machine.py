"""The worker's machine, rule by rule: given what happened, when this happens, then these instructions."""

from typing import Any

import pytest

from events.protocol import REPORT_TASKS_MAX, Cancel, Drain, Ended, Held, Hello, Order, Orders, Run, Started
from events.spec import Input, TaskText
from events.task import Detail
from events.worker import Capacity
from worker.machine import (
    EXIT_FAILED,
    EXIT_SUPERSEDED,
    HOLD_MS,
    REASON_CHARS_MAX,
    RUNNING_MAX,
    STARTED_MS,
    STOPPED,
    WAIT_MS,
    step,
    wants_ticks,
)
from worker.messages import (
    Answered,
    Began,
    Denial,
    Done,
    End,
    Forget,
    Freed,
    Instruction,
    Kill,
    Ordered,
    Quit,
    Repoll,
    Save,
    Saved,
    Send,
    Start,
    Stop,
    Tick,
)
from worker.state import State, next_poll

JOB = "j1"
TWO_CPUS = Capacity(2000, 1000, ("process", "noop"))
HELLO = Hello("boot", TWO_CPUS, "1", "nonce")


def order(number: int, tasks: list[int], **more: Any) -> Run:
    base: dict[str, Any] = {"attempt": 1, "kind": "process", "count": 10_000, "text": TaskText(command=["true"])}
    return Run(number, more.pop("job", JOB), tasks, **(base | more))


def machine(*orders: Order, now: int = 0, unreported: dict[int, list[Ended]] | None = None) -> State:
    """A greeted machine that was given these orders."""
    state = State("s", HELLO, unreported)
    step(state, Ordered(Orders(list(orders)), now, greeted=True))
    return state


def told(state: State, *orders: Order, now: int = 0) -> list[Instruction]:
    return step(state, Ordered(Orders(list(orders)), now))


def done(state: State, lease: int, index: int, now: int = 0, **how: Any) -> list[Instruction]:
    fields: dict[str, Any] = {"detail": Detail(wall_ms=1), **how}
    return step(state, Done([End(lease, index, **fields)], now))


def starts(instructions: list[Instruction]) -> list[tuple[int, int]]:
    return [(one.order.number, one.index) for one in instructions if isinstance(one, Start)]


def reported(instructions: list[Instruction]) -> list[Any]:
    return [item for one in instructions if isinstance(one, Send) for item in one.report.items]


class TestOrders:
    def test_tasks_start_as_far_as_cpus_reach_and_in_order(self) -> None:
        state = State("s", HELLO)
        assert starts(told(state, order(1, [0, 2]), order(2, [5, 5]))) == [(1, 0), (1, 1)]
        assert starts(done(state, 1, 1)) == [(1, 2)]
        assert starts(done(state, 1, 0)) == [(2, 5)]

    def test_memory_counts_too(self) -> None:
        state = State("s", HELLO)
        assert starts(told(state, order(1, [0, 1], memory_bytes=600))) == [(1, 0)]

    def test_a_task_that_does_not_fit_keeps_its_turn(self) -> None:
        state = State("s", HELLO)
        orders = [order(1, [0, 0]), order(2, [0, 0], cpus_milli=2000), order(3, [0, 0])]
        assert starts(told(state, *orders)) == [(1, 0)]
        assert starts(done(state, 1, 0)) == [(2, 0)]

    def test_an_order_is_carried_out_once(self) -> None:
        state = machine(order(1, [0, 0]))
        assert told(state, order(1, [0, 0])) == []

    def test_numbers_skip_and_later_polls_say_the_highest(self) -> None:
        state = machine(order(4, [0, 0]), Cancel(9, "other"))
        assert next_poll(state, 0).last == 9

    def test_small_tasks_are_bounded_too(self) -> None:
        state = State("s", HELLO)
        assert len(starts(told(state, order(1, [0, 9_999], cpus_milli=1)))) == RUNNING_MAX

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"cpus_milli": 2001}, "needs 2.001 CPUs"),
            ({"memory_bytes": 1001}, "1001 bytes of memory"),
            ({"kind": "container"}, "cannot run kind 'container'"),
        ],
    )
    def test_what_can_never_run_here_is_rejected_with_the_reason(self, more: dict[str, Any], why: str) -> None:
        state = State("s", HELLO)
        (save,) = told(state, order(1, [0, 3], **more))
        assert isinstance(save, Save)
        assert save.items[0].tasks == [0, 3]
        assert save.items[0].end == "rejected"
        assert why in save.items[0].reason


class TestNoop:
    def test_a_whole_lease_ends_at_once_in_one_item_without_the_disk(self) -> None:
        state = State("s", HELLO)
        (send,) = told(state, order(1, [0, 4_999, 6_000, 9_999], kind="noop"))
        assert isinstance(send, Send)
        assert send.report.items == [Ended(1, JOB, [0, 4_999, 6_000, 9_999])]

    def test_leases_that_came_together_are_reported_together(self) -> None:
        state = State("s", HELLO)
        sent = reported(told(state, order(1, [0, 1], kind="noop"), order(2, [2, 3], kind="noop")))
        assert [item.lease for item in sent] == [1, 2]


class TestCancel:
    def test_waiting_tasks_end_and_running_ones_are_killed(self) -> None:
        state = machine(order(1, [0, 5]))
        instructions = told(state, Cancel(2, JOB))
        assert [one for one in instructions if isinstance(one, Kill)] == [
            Kill(1, 0, "cancelled", ""),
            Kill(1, 1, "cancelled", ""),
        ]
        assert [one.items for one in instructions if isinstance(one, Save)] == [[Ended(1, JOB, [2, 5], "cancelled")]]

    def test_of_one_lease_only(self) -> None:
        state = machine(order(1, [0, 0]), order(2, [1, 1]))
        assert told(state, Cancel(0, JOB, 2)) == [Kill(2, 1, "cancelled", "")]

    def test_of_another_job_is_nothing(self) -> None:
        assert told(machine(order(1, [0, 0])), Cancel(2, "j2")) == []

    def test_repeated_with_a_hello_kills_once(self) -> None:
        state = machine(order(1, [0, 0]))
        assert len(told(state, Cancel(0, JOB, 1))) == 1
        assert told(state, Cancel(0, JOB, 1)) == []

    def test_reaches_a_task_whose_results_are_on_their_way(self) -> None:
        state = machine(order(1, [0, 0]))
        step(state, Freed(1, 0, 5))
        assert told(state, Cancel(2, JOB)) == [Kill(1, 0, "cancelled", "")]


class TestEnds:
    def test_an_end_is_saved_before_it_is_reported(self) -> None:
        state = machine(order(1, [0, 0]))
        detail = Detail(wall_ms=7)
        (save,) = done(state, 1, 0, code=3, detail=detail)
        ended = Ended(1, JOB, [0, 0], "exit", 3, details=[detail])
        assert save == Save(1, [ended])
        (send,) = step(state, Saved(1, 1))
        assert isinstance(send, Send)
        assert send.report.items == [ended]

    def test_what_is_recorded_is_forgotten(self) -> None:
        state = machine(order(1, [0, 0]))
        done(state, 1, 0)
        step(state, Saved(1, 1))
        assert step(state, Answered(1, 2)) == [Forget([1])]
        assert state.idle()

    def test_like_ends_of_a_lease_become_one_item_with_ascending_details(self) -> None:
        state = machine(order(1, [0, 1]))
        ends = [End(1, 1, detail=Detail(wall_ms=11)), End(1, 0, detail=Detail(wall_ms=10))]
        (save,) = step(state, Done(ends, 5))
        assert save == Save(1, [Ended(1, JOB, [0, 1], details=[Detail(wall_ms=10), Detail(wall_ms=11)])])

    def test_different_ends_stay_apart(self) -> None:
        state = machine(order(1, [0, 1]))
        (save,) = step(state, Done([End(1, 0, code=1), End(1, 1, code=2)], 5))
        assert isinstance(save, Save)
        assert [item.code for item in save.items] == [1, 2]

    def test_an_end_of_what_is_not_held_is_nothing(self) -> None:
        assert done(machine(order(1, [0, 0])), 1, 7) == []

    def test_a_second_end_is_nothing(self) -> None:
        state = machine(order(1, [0, 0]))
        done(state, 1, 0)
        assert done(state, 1, 0) == []

    def test_a_place_is_free_before_the_results_are_safe(self) -> None:
        state = machine(order(1, [0, 2]))
        assert starts(step(state, Freed(1, 0, 5))) == [(1, 2)]
        (save,) = done(state, 1, 0)
        assert isinstance(save, Save)

    def test_a_long_reason_is_cut(self) -> None:
        state = machine(order(1, [0, 0]))
        (save,) = done(state, 1, 0, end="rejected", reason="x" * 10_000)
        assert isinstance(save, Save)
        assert len(save.items[0].reason) == REASON_CHARS_MAX

    def test_ends_are_collected_while_others_wait_for_their_turn(self) -> None:
        state = machine(order(1, [0, 9]))
        assert starts(done(state, 1, 0, now=1)) == [(1, 2)]
        assert step(state, Tick(HOLD_MS)) == []
        (save,) = step(state, Tick(HOLD_MS + 1))
        assert isinstance(save, Save)

    def test_a_report_holds_a_bounded_number_of_tasks(self) -> None:
        count = REPORT_TASKS_MAX + 10
        state = machine(order(1, [0, count - 1], cpus_milli=1))
        for index in range(count):
            done(state, 1, index, now=1)
        sent: list[int] = []
        for sequence in range(1, 20):
            if state.saving is not None:
                step(state, Saved(state.saving.number, 1))
            if state.sent is not None:
                sent.append(sum(len(item.details) for item in state.sent.items if isinstance(item, Ended)))
                step(state, Answered(sequence, 1))
        assert sum(sent) == count
        assert max(sent) <= REPORT_TASKS_MAX


class TestReports:
    def test_one_is_on_its_way_at_a_time_and_the_next_collects(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        assert told(state, order(2, [1, 1], kind="noop")) == []
        assert told(state, order(3, [2, 2], kind="noop")) == []
        assert [item.lease for item in reported(step(state, Answered(1, 5)))] == [2, 3]

    def test_numbers_count_up(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        instructions = told(state, order(2, [1, 1], kind="noop")) + step(state, Answered(1, 5))
        assert [one.report.sequence for one in instructions if isinstance(one, Send)] == [2]

    def test_another_answer_changes_nothing(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        assert step(state, Answered(7, 5)) == []
        assert not state.idle()

    def test_a_task_is_reported_as_started_only_when_it_runs_on(self) -> None:
        state = machine(order(1, [0, 1]), now=0)
        assert step(state, Tick(STARTED_MS - 1)) == []
        assert reported(step(state, Tick(STARTED_MS))) == [Started(1, JOB, [0, 1])]

    def test_a_short_one_is_not(self) -> None:
        state = machine(order(1, [0, 0]), now=0)
        done(state, 1, 0, now=10)
        assert [type(item) for item in reported(step(state, Saved(1, 100)))] == [Ended]

    def test_one_that_needs_inputs_starts_when_they_are_there(self) -> None:
        text = TaskText(command=["true"], inputs=[Input("a", job="j2")])
        state = machine(order(1, [0, 0], text=text), now=0)
        assert step(state, Tick(1000)) == []
        step(state, Began(1, 0, 1000))
        assert reported(step(state, Tick(1000 + STARTED_MS))) == [Started(1, JOB, [0, 0])]

    def test_a_refused_one_is_dropped(self) -> None:
        state = machine(order(1, [0, 0]))
        done(state, 1, 0)
        step(state, Saved(1, 1))
        assert step(state, Answered(1, 2, "malformed", "why")) == [Forget([1])]

    def test_one_of_an_unknown_session_waits_for_the_hello(self) -> None:
        state = machine(order(1, [0, 0], kind="noop"))
        assert step(state, Answered(1, 2, "unknown_session")) == [Repoll()]
        poll = next_poll(state, 3)
        assert poll.hello is not None
        assert poll.hello.holding == [Held(1, JOB, [0, 0])]
        assert step(state, Answered(1, 4)) == [Forget([1])]


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
