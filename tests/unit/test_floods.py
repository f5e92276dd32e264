"""For how long a worker that floods is kept out."""

from typing import Any

from services.floods import FORGET_S, SHUT_OUT_S, SHUT_OUT_S_MAX, Floods


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


def floods(clock: Clock) -> Floods:
    nobody: Any = None
    return Floods(nobody, None, lambda: clock.now)


async def test_who_floods_again_is_kept_out_for_twice_as_long_and_others_are_not() -> None:
    clock = Clock()
    made = floods(clock)
    waits: list[float] = []
    for _ in range(9):
        made.noticed("w1")
        clock.now += 1
        made.noticed("w1")  # what was on its way is the same flood
        waits.append(made.wait_s("w1") + 1)
        clock.now += waits[-1]
        assert made.wait_s("w1") == 0
    assert waits == [min(SHUT_OUT_S * 2**n, SHUT_OUT_S_MAX) for n in range(9)]
    assert made.wait_s("w2") == 0


async def test_who_behaved_for_long_begins_anew() -> None:
    clock = Clock()
    made = floods(clock)
    for _ in range(2):
        made.noticed("w1")
        assert made.wait_s("w1") == SHUT_OUT_S
        clock.now += SHUT_OUT_S + FORGET_S
