"""What a worker is told: everything numbered after what it has seen, in order, and no more than fits in an answer."""

from typing import Any

import msgspec
import pytest

from events import protocol
from events.job import JobSubmitted
from events.protocol import Cancel, Drain, Order, Orders, Run
from events.spec import Input, TaskText
from infra.sealing import Sealer
from infra.tickets import Tickets
from services.pool.commands import Submit
from services.pool.orders import ORDERS_BYTES_MAX, ORDERS_MAX, OrderBook
from tests.pool_support import T0, Story, ended, report

SEALER = Sealer(b"\x01" * 32)
TICKETS = Tickets(b"\x02" * 32)
PAYLOAD_MAX = 1024 * 1024
"""What nats-server takes in one message."""


class Worker:
    """A story with one worker, and what it would be told."""

    def __init__(self, cpus: float = 4) -> None:
        self.story = Story().large().worker(cpus=cpus)
        self.book = OrderBook(SEALER, TICKETS)

    def job(self, name: str, text: TaskText | None = None, **more: Any) -> None:
        sealed = SEALER.seal(msgspec.json.encode(text or TaskText(["true"])))
        self.story.when(Submit(JobSubmitted(name, "u1", "d", sealed, **more)))

    def place(self, **more: Any) -> None:
        for _, tasks, lease, _ in self.story.leases(**more):
            self.book.leased[lease] = tasks

    def told(self, last: int = 0) -> list[Order]:
        orders = self.book.orders(self.story.state, "w1", last, 7, T0)
        assert self.book.pending(self.story.state, "w1", last) == bool(orders)
        return orders

    def numbers(self, last: int = 0) -> list[int]:
        return [order.number for order in self.told(last)]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_lease_is_an_order_to_run(worker: Worker) -> None:
    worker.job("j1", TaskText(["echo", "hi"], env={"A": "b"}), count=3, memory_bytes=5, time_limit_ms=9)
    worker.place()
    (order,) = worker.told()
    assert isinstance(order, Run)
    assert msgspec.structs.replace(order, ticket="") == Run(
        1, "j1", [0, 2], 1, "process", 3, TaskText(["echo", "hi"], env={"A": "b"}), 1000, 5, 9, "1.7"
    )
    assert worker.told(last=1) == []


def test_it_is_said_again_until_it_was_seen(worker: Worker) -> None:
    worker.job("j1", count=3)
    worker.place()
    assert worker.told() == worker.told()


def test_what_ended_meanwhile_is_not_said_again(worker: Worker) -> None:
    worker.job("j1", count=3)
    worker.place()
    worker.told()
    worker.story.when(report(1, ended(1, "j1", [1, 1])))
    (run,) = worker.told()
    assert isinstance(run, Run)
    assert run.tasks == [0, 0, 2, 2]


def test_orders_come_in_the_order_of_their_numbers(worker: Worker) -> None:
    worker.job("j1", count=1)
    worker.job("j2", count=1)
    worker.place(room=1)
    worker.story.drain(True)
    worker.story.drain(False)
    worker.story.cancel("j1")
    worker.place()
    orders = worker.told()
    assert [type(order) for order in orders] == [Run, Drain, Cancel, Run]
    assert [order.number for order in orders] == sorted(order.number for order in orders)
    assert isinstance(orders[1], Drain)
    assert not orders[1].on
    assert worker.numbers(last=orders[1].number) == [orders[2].number, orders[3].number]


def test_a_cancelled_job_that_ended_needs_no_order(worker: Worker) -> None:
    worker.job("j1", count=2)
    worker.place()
    worker.story.cancel("j1")
    worker.story.when(report(1, ended(1, "j1", [0, 1], "cancelled")))
    assert worker.told() == []


def test_one_answer_holds_so_many_orders() -> None:
    worker = Worker(cpus=4000)
    for n in range(ORDERS_MAX + 5):
        worker.job(f"j{n:04}", cpus_milli=1)
    worker.place()
    worker.place()
    first = worker.numbers()
    assert len(first) <= ORDERS_MAX
    assert [*first, *worker.numbers(last=first[-1])] == list(range(1, ORDERS_MAX + 6))


def test_one_answer_holds_so_many_bytes() -> None:
    worker = Worker(cpus=4000)
    text = TaskText(["true"], env={"BIG": "x" * 60_000})
    for n in range(40):
        worker.job(f"j{n}", text, cpus_milli=1)
    worker.place()
    last, answers, seen = 0, 0, list[int]()
    while orders := worker.told(last):
        assert len(protocol.pack(Orders(orders))) < PAYLOAD_MAX
        seen += [order.number for order in orders]
        last, answers = seen[-1], answers + 1
    assert seen == list(range(1, 41))
    assert answers > 2


def test_an_order_larger_than_that_is_told_alone() -> None:
    worker = Worker()
    worker.job("j1", TaskText(["true"], env={"BIG": "x" * ORDERS_BYTES_MAX}))
    worker.job("j2")
    worker.place()
    assert worker.numbers() == [1]
    assert worker.numbers(last=1) == [2]


def test_a_job_with_files_comes_with_a_ticket_for_them(worker: Worker) -> None:
    digest = "a" * 64
    worker.job("j1", TaskText(["true"], inputs=[Input("in", digest), Input("all", job="j0")], results=["out"]))
    worker.place()
    (run,) = worker.told()
    assert isinstance(run, Run)
    ticket = TICKETS.check(run.ticket, T0 + 1000)
    assert (ticket.worker, ticket.job) == ("w1", "j1")
    assert set(ticket.roots) == {digest, "results:j0", "put"}


@pytest.mark.parametrize("key", [("other", b"\x01" * 32), ("k1", b"\x09" * 32)])
def test_a_text_that_cannot_be_read_is_an_empty_command(key: tuple[str, bytes]) -> None:
    worker = Worker()
    name, secret = key
    sealed = Sealer(secret, name).seal(msgspec.json.encode(TaskText(["true"])))
    worker.story.when(Submit(JobSubmitted("j1", "u1", "d", sealed)))
    worker.place()
    (run,) = worker.told()
    assert isinstance(run, Run)
    assert run.text == TaskText()
