"""The worker's machine, rule by rule: given what happened, when this happens, then these instructions."""

from typing import Any

import pytest

from events.protocol import REPORT_TASKS_MAX, Cancel, Ended, Held, Started
from events.spec import Input, TaskText
from events.task import Detail
from tests.machine_support import HELLO, JOB, done, machine, order, reported, starts, told
from worker.machine import (
    HOLD_MS,
    REASON_CHARS_MAX,
    RUNNING_MAX,
    STARTED_MS,
    step,
)
from worker.messages import (
    Answered,
    Began,
    Done,
    End,
    Forget,
    Freed,
    Kill,
    Repoll,
    Save,
    Saved,
    Send,
    Tick,
)
from worker.state import State, next_poll


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
            ({"memory_bytes": 1001}, "1001 B of memory"),
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
