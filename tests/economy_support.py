"""A pool and a ledger that react to each other, both told by commands and checked after each."""

from typing import Any

import msgspec

from events.base import Runs, expand, runs_of
from events.catalog import AnyEvent
from events.job import Cost
from events.ledger import hold_account
from events.task import Detail
from services.hosting import React, Refused
from services.ledger import settlement
from services.ledger.settlement import Settle
from services.ledger.state import MICRO, Rules
from services.pool import react
from services.pool.commands import Advance, CancelJob, Silent
from tests.ledger_support import Told, grant
from tests.pool_support import Story, ended, greet, place, report, started, submit

RULES = Rules(supply_cap=1000 * MICRO, fee_percent=10, grace_ms=60_000)
OWNER = "ann"
"""Whose all workers are."""


class Economy:
    """The pool `p` and the ledger. What one says waits for the other until `sync`."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.pool, self.ledger = Story(), Told(rules)
        self.heard_pool = self.heard_ledger = 0
        self.pool_at: list[int] = []
        self.sequences: dict[str, int] = {}

    # Commands to the pool

    def tell(self, command: Any) -> list[AnyEvent]:
        """Decide and fold a command of the pool; nothing when it is refused."""
        try:
            events = self.pool.when(command)
        except Refused:
            return []
        self.pool_at += [self.pool.now] * len(events)
        return events

    def worker(self, name: str = "w1", session: str = "s1", **more: Any) -> None:
        if self.tell(greet(name, session, **more)):
            self.sequences[f"{name} {session}"] = 0

    def job(self, job: str = "j1", count: int = 1, *, cost: Cost | None, owner: str = "u1", **more: Any) -> None:
        self.tell(submit(job, count, cost=cost, owner=owner, **more))

    def report(self, *items: Any, worker: str = "w1") -> list[AnyEvent]:
        session = self.pool.state.workers[worker].session
        key = f"{worker} {session}"
        self.sequences[key] = self.sequences.get(key, 0) + 1
        return self.tell(report(self.sequences[key], *items, worker=worker, session=session))

    def start(self, lease: int) -> None:
        """All tasks of the lease run."""
        if (tasks := self.tasks(lease)) is not None:
            job, worker, runs = tasks
            self.report(started(lease, job, runs), worker=worker)

    def end(self, lease: int, end: Any = "exit", code: int = 0, wall_ms: int = 1000, *, some: bool = False) -> None:
        """All tasks of the lease ended so, or some of them."""
        if (tasks := self.tasks(lease)) is None:
            return
        job, worker, runs = tasks
        indices = [*expand(runs)][: 1 if some else None]
        details = [Detail(wall_ms=wall_ms)] * len(indices)
        self.report(ended(lease, job, runs_of(indices), end, code, details=details), worker=worker)

    def tasks(self, lease: int) -> tuple[str, str, Runs] | None:
        """Job, worker and current tasks of a lease."""
        held = self.pool.state.leases.get(lease)
        if held is None:
            return None
        active = self.pool.state.jobs[held.job].active
        return held.job, held.worker, runs_of(sorted(i for i, holder in active.items() if holder == lease))

    def later(self, ms: int) -> None:
        self.pool.now += ms
        self.ledger.now = self.pool.now

    # Both

    def grant(self, user: str, amount: int) -> None:
        self.ledger.ask(msgspec.structs.replace(grant(user, amount), transfer=f"grant:{len(self.ledger.log)}"))

    def hear_pool(self, most: int = 1_000_000) -> bool:
        """The ledger reacts to what the pool said."""
        heard = False
        while self.heard_pool < len(self.pool.events) and most > 0:
            event, at = self.pool.events[self.heard_pool], self.pool_at[self.heard_pool]
            self.heard_pool += 1
            most -= 1
            heard = True
            if isinstance(event, settlement.WANTED):
                owner = OWNER if getattr(event, "worker", "") else ""
                self.ledger.ask(Settle(React("evt.pool.p", self.heard_pool, at, event), owner))
        return heard

    def hear_ledger(self, most: int = 1_000_000) -> bool:
        """The pool reacts to what the ledger said."""
        heard = False
        while self.heard_ledger < len(self.ledger.log) and most > 0:
            event, at = self.ledger.log[self.heard_ledger]
            self.heard_ledger += 1
            most -= 1
            heard = True
            if isinstance(event, react.WANTED):
                self.tell(React("evt.ledger.main", self.heard_ledger, at, event))
        return heard

    def sync(self) -> None:
        """Until neither has anything to say."""
        while self.hear_pool() | self.hear_ledger() | bool(self.tell(Advance())):
            pass

    def finish(self) -> None:
        """Everything comes to an end: cancelled, and every worker lost."""
        for job in [*self.pool.state.jobs]:
            self.tell(CancelJob(job))
        self.later(700_000_000)
        while any(self.tell(Silent(worker, 700_000_000)) for worker in self.pool.state.workers):
            pass
        self.sync()

    # What there is

    def has(self, account: str) -> int:
        return self.ledger.state.balance(
            account if ":" in account or account in ("treasury", "fees") else f"user:{account}"
        )

    def held(self, job: str = "j1") -> int:
        return self.ledger.state.balance(hold_account(f"p/{job}"))

    def said(self, *types: type) -> list[Any]:
        return [event for event, _ in self.ledger.log if isinstance(event, types)]

    def place(self, worker: str = "w1", ahead: int = 0) -> list[int]:
        """The numbers of the leases that the worker was given."""
        before = {*self.pool.state.leases}
        self.tell(place(worker, ahead=ahead))
        return sorted({*self.pool.state.leases} - before)
