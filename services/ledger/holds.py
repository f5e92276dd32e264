"""What is held for jobs, and what they pay: the ledger's reaction to the facts of pools. Pure.

A job that costs something has its `hold` set aside when it is submitted, or is refused. Each end of attempts that counts
is charged to it: the price of all that counted so far, rounded down, less what was charged before, so that how the
facts were cut into reports and messages changes nothing. At the job's end what is left goes back. A charge that finds
too little takes what is missing from the owner, as much as there is; nobody pays more than he has.
"""

from typing import TypeAlias

import msgspec

from events.base import UserId
from events.job import JobFinished, JobMetered, JobSubmitted, price
from events.ledger import (
    FEES,
    TREASURY,
    ChargePosted,
    HoldExtended,
    HoldId,
    HoldPlaced,
    HoldRefused,
    HoldReleased,
    HoldShort,
    Posting,
    hold_account,
    hold_of,
    user_account,
)
from events.task import TasksFailed, TasksFinished, TasksRetried
from projections.holds import Hold
from services.ledger.state import Ledger, Rules

PART_MIN = 10
"""An owner who has less than one in so many parts of what a running job wants is out of money."""

HoldFact: TypeAlias = HoldPlaced | HoldRefused | HoldExtended | HoldShort | HoldReleased | ChargePosted
Ended: TypeAlias = TasksFinished | TasksFailed | TasksRetried


def decide_submitted(state: Ledger, event: JobSubmitted, pool: str) -> list[HoldFact]:
    """Set aside what the job is to cost, or refuse it."""
    cost, hold = event.cost, hold_of(pool, event.job)
    if cost is None or hold in state.books.holds:
        return []
    has = state.balance(user_account(event.owner))
    if has < cost.hold:
        return [HoldRefused(hold, event.owner, cost.hold, cost.hold - has)]
    reserved = event.cpus_milli, event.memory_bytes, event.gpus_milli
    postings = _postings(user_account(event.owner), hold_account(hold), cost.hold)
    return [HoldPlaced(hold, event.owner, cost.hold, postings, cost.prices, cost, *reserved)]


def decide_metered(state: Ledger, event: JobMetered, pool: str, at: int, rules: Rules) -> list[HoldFact]:
    """Hold more for a job that runs, or say until when it may."""
    name = hold_of(pool, event.job)
    hold = state.books.holds.get(name)
    if hold is None:
        return []
    more = min(event.wanted, _reach(state, hold))
    if more and more >= event.wanted // PART_MIN:
        return [_extend(name, hold, more)]
    return [HoldShort(name, event.wanted - more, hold.stops_at or max(at + rules.grace_ms, event.ends_at))]


def decide_finished(state: Ledger, event: JobFinished, pool: str) -> list[HoldFact]:
    """Give back what is left."""
    name = hold_of(pool, event.job)
    hold = state.books.holds.get(name)
    if hold is None:
        return []
    left = state.balance(hold_account(name))
    return [HoldReleased(name, hold.charged, _postings(hold_account(name), user_account(hold.owner), left))]


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What an end leads to: `before` the charge more is held, if need be. `fee`: the platform's share of the price."""

    hold: HoldId
    owner: UserId
    before: list[HoldFact]
    fact: ChargePosted
    fee: int


def decide_ended(state: Ledger, event: Ended, pool: str, position: int, rules: Rules, *, keeps: bool) -> Charge | None:
    """Charge the job for attempts that ended. `keeps`: what is not the fee stays on the hold, for the reward to move;
    otherwise it goes to the treasury.
    """
    counted, name = event.counted, hold_of(pool, event.job)
    hold = state.books.holds.get(name)
    if hold is None or counted is None:
        return None
    due = price(hold.cost, hold.tasks + counted.tasks, hold.ms + counted.ms) - hold.charged
    before: list[HoldFact] = []
    left = hold.total - hold.charged
    if due > left and (more := min(due - left, _reach(state, hold))):
        before.append(_extend(name, hold, more))
        left += more
    paid = min(due, left)
    fee = (hold.charged + paid) * rules.fee_percent // 100 - hold.charged * rules.fee_percent // 100
    account = hold_account(name)
    postings = _postings(account, FEES, fee) + ([] if keeps else _postings(account, TREASURY, paid - fee))
    reported_ms = sum(max(0, detail.wall_ms) for detail in event.details)
    fact = ChargePosted(
        f"settle:{event.job}:{event.lease}:{hold.charges}",
        name,
        event.lease,
        event.worker,
        event.tasks,
        postings,
        "exit" if isinstance(event, TasksFinished) else event.end,
        reported_ms,
        counted.ms,
        "report" if counted.ms == reported_ms else "platform",
        [position],
        counted.tasks,
        paid,
    )
    return Charge(name, hold.owner, before, fact, fee)


def decide_again(state: Ledger, event: TasksRetried, charge: Charge, at: int, rules: Rules) -> list[HoldFact]:
    """What is held for a job with a time limit is enough for each task once: for one that is tried again, and was paid for,
    as much again must be held. The state is that before the charge.
    """
    hold = state.books.holds[charge.hold]
    if hold.cost.each_ms or not charge.fact.price:
        return []
    total = next((one.total for one in charge.before if isinstance(one, HoldExtended)), hold.total)
    more = min(charge.fact.price, _reach(state, hold) - (total - hold.total))
    if more == charge.fact.price:
        postings = _postings(user_account(hold.owner), hold_account(charge.hold), more)
        return [HoldExtended(charge.hold, total + more, postings)]
    return [HoldShort(charge.hold, charge.fact.price - more, hold.stops_at or at + rules.grace_ms)]


def _reach(state: Ledger, hold: Hold) -> int:
    """How much more can be held for the job: what its owner has, and allows."""
    has = state.balance(user_account(hold.owner))
    return min(has, max(0, hold.cost.most - hold.total)) if hold.cost.most else has


def _extend(name: HoldId, hold: Hold, more: int) -> HoldExtended:
    return HoldExtended(name, hold.total + more, _postings(user_account(hold.owner), hold_account(name), more))


def _postings(debit: str, credit: str, amount: int) -> list[Posting]:
    return [Posting(debit, credit, amount)] if amount else []
