"""What a worker is told: the answer to its poll, derived from the state. Everything numbered after what it has seen
is said again, so a lost answer loses nothing.
"""

from collections import OrderedDict
from typing import Protocol

import msgspec
import structlog

from events.base import JobId, Runs, Sealed, WorkerId, runs_of
from events.catalog import position_text
from events.protocol import Cancel, Configure, Drain, Order, Run
from events.spec import TaskText
from infra.sealing import KeyAway, KeyDestroyed, SealBroken
from infra.tickets import PUT, SECRETS, Tickets, root_of
from services.pool.state import Job, Lease, Pool

TEXTS_KEPT = 4096
TICKET_MS = 7 * 86_400_000
ORDERS_MAX = 512
ORDERS_BYTES_MAX = 512 * 1024
ORDER_BYTES = 512
"""About so much is an order without its text, its ticket and its tasks."""
_text_of = msgspec.json.Decoder(TaskText).decode
_log = structlog.get_logger()


class Opens(Protocol):
    """Opens what users typed."""

    def open(self, sealed: Sealed) -> bytes:
        """Raises KeyDestroyed, KeyAway or SealBroken."""
        ...


class OrderBook:
    """Builds orders. Keeps the texts it opened lately, and which tasks the newest leases are for."""

    def __init__(self, keys: Opens, tickets: Tickets) -> None:
        self._keys, self._tickets = keys, tickets
        self._texts: OrderedDict[JobId, TaskText] = OrderedDict()
        self.leased: dict[int, Runs] = {}

    def pending(self, state: Pool, worker: WorkerId, last: int) -> bool:
        """Whether there is anything to say after number `last`."""
        machine = state.workers[worker]
        return (
            machine.drain_order > last
            or machine.configured[0] > last
            or next(reversed(machine.leases), 0) > last
            or next(reversed(machine.cancels), 0) > last
        )

    def orders(self, state: Pool, worker: WorkerId, last: int, position: int, now: int) -> list[Order]:
        """Everything after number `last`, ascending, at most ORDERS_MAX and as many as fit in one answer (the rest
        follows at the next poll).
        """
        machine = state.workers[worker]
        leases = _after(machine.leases, last)
        cancels = _after(machine.cancels, last)
        said = [number for number in (machine.drain_order, machine.configured[0]) if number > last]
        numbers: list[int] = sorted([*leases, *cancels, *said])
        found: list[Order] = []
        where = position_text(position)
        room = ORDERS_BYTES_MAX
        for number in numbers[:ORDERS_MAX]:
            if number in machine.leases:
                try:
                    run = self._run(state, state.leases[number], where, now)
                except KeyAway as error:
                    _log.warning("order.key_away", job=state.leases[number].job, why=str(error))
                    break  # the key is being fetched: the next poll brings this and what follows
                room -= len(state.jobs[run.job].text.data) + len(run.ticket) + 9 * len(run.tasks) + ORDER_BYTES
                if found and room < 0:
                    break
                found.append(run)
            elif number in machine.cancels:
                found.append(Cancel(number, machine.cancels[number]))
            elif number == machine.configured[0]:
                found.append(Configure(number, machine.configured[1]))
            else:
                found.append(Drain(number, machine.drained))
        return found

    def _run(self, state: Pool, lease: Lease, position: str, now: int) -> Run:
        job = state.jobs[lease.job]
        text = self._text(job)
        tasks = self.leased.pop(lease.number, None)
        if tasks is None:
            tasks = runs_of(sorted(index for index, holder in job.active.items() if holder == lease.number))
        ticket = ""
        if job.kind != "noop":
            # Also without declared results a task may name files while it runs.
            roots = [PUT, *(root_of(file) for file in text.inputs if not file.url)]
            roots += ([text.each] if text.each else []) + ([SECRETS] if text.secrets else [])
            ticket = self._tickets.issue(lease.worker, job.id, roots, now + TICKET_MS)
        return Run(
            lease.number,
            job.id,
            tasks,
            lease.attempt,
            job.kind,
            job.count,
            text,
            job.cpus_milli,
            job.memory_bytes,
            job.time_limit_ms,
            position,
            ticket,
            lease.gpus,
            job.gpu.milli,
            job.gpu.memory,
        )

    def _text(self, job: Job) -> TaskText:
        text = self._texts.get(job.id)
        if text is None:
            try:
                text = _text_of(self._keys.open(job.text))
            except (KeyDestroyed, SealBroken, msgspec.DecodeError) as error:
                _log.error("order.text_unreadable", job=job.id, why=str(error))
                text = TaskText(command=[])  # erased: the worker rejects an empty command, and the task fails
            self._texts[job.id] = text
            if len(self._texts) > TEXTS_KEPT:
                self._texts.popitem(last=False)
        return text

    def forget(self, job: JobId) -> None:
        """The job ended."""
        self._texts.pop(job, None)


def _after(numbers: dict[int, object] | dict[int, None] | dict[int, JobId], last: int) -> list[int]:
    found: list[int] = []
    for number in reversed(numbers):
        if number <= last:
            break
        found.append(number)
    return found
