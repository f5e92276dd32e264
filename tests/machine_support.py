"""A worker's machine told things, and what it then does, for its tests."""

from typing import Any

from events.protocol import Ended, Hello, Order, Orders, Run
from events.spec import TaskText
from events.task import Detail
from events.worker import Capacity
from worker.machine import step
from worker.messages import Done, End, Instruction, Ordered, Send, Start
from worker.state import State

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
