"""What a pool's fact leads to in the ledger: holds, charges, and what the worker's owner earns by them. Pure."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from events.base import UserId
from events.catalog import AnyEvent
from events.job import JobFinished, JobMetered, JobSubmitted
from events.ledger import TREASURY
from events.task import TasksFailed, TasksFinished, TasksRetried
from projections.levels import paying
from services.hosting import React
from services.ledger import holds, rewards
from services.ledger.machine_time import STANDING_FACTS, Reserved, standing_of
from services.ledger.state import Ledger, Rules

WANTED: tuple[type[Any], ...] = (
    JobSubmitted, JobFinished, JobMetered, TasksFinished, TasksFailed, TasksRetried, *STANDING_FACTS,
)  # fmt: skip
"""Of a pool's facts."""


class Settle(msgspec.Struct, frozen=True, gc=False):
    """React to a fact of a pool. `owner` has the worker that the fact names ("": nobody is known to), as who is who says."""

    react: React
    owner: UserId = ""


def decide_settle(state: Ledger, command: Settle, now: int, rules: Rules) -> Sequence[AnyEvent]:
    """What the fact leads to."""
    pool = command.react.subject.rpartition(".")[2]
    event: Any = command.react.event
    return _BY_FACT[type(event)](state, command, event, pool, rules)


def _submitted(state: Ledger, command: Settle, event: JobSubmitted, pool: str, rules: Rules) -> Sequence[AnyEvent]:
    return holds.decide_submitted(state, event, pool)


def _metered(state: Ledger, command: Settle, event: JobMetered, pool: str, rules: Rules) -> Sequence[AnyEvent]:
    return holds.decide_metered(state, event, pool, command.react.at, rules)


def _finished(state: Ledger, command: Settle, event: JobFinished, pool: str, rules: Rules) -> Sequence[AnyEvent]:
    return holds.decide_finished(state, event, pool)


def _ended(state: Ledger, command: Settle, event: holds.Ended, pool: str, rules: Rules) -> Sequence[AnyEvent]:
    keeps = bool(command.owner) and paying(state.rewards) == rewards.MARKET
    charge = holds.decide_ended(state, event, pool, command.react.position, rules, keeps=keeps)
    if charge is None:
        return []
    facts: list[AnyEvent] = [*charge.before, charge.fact, *_rewards(state, command, event, charge, rules)]
    if isinstance(event, TasksRetried):
        facts += holds.decide_again(state, event, charge, command.react.at, rules)
    return facts


def _rewards(
    state: Ledger, command: Settle, event: holds.Ended, charge: holds.Charge, rules: Rules
) -> Sequence[AnyEvent]:
    """What the worker's owner earns by it; nothing while nobody is known to have the worker."""
    if not command.owner or event.counted is None:
        return []
    hold = state.books.holds[charge.hold]
    came = sum(posting.amount for posting in charge.fact.postings if posting.credit == TREASURY)
    settled = rewards.Settled(
        charge.fact.charge.replace("settle:", "reward:", 1), charge.fact.charge, charge.hold, event.worker,
        command.owner, charge.owner, event, event.counted.ms, charge.fact.price, charge.fee,
        Reserved(hold.cpus_milli, hold.memory_bytes, hold.gpus_milli), command.react.at, command.react.position,
        state.balance(TREASURY) + came, rules.supply_cap - state.books.supply,
    )  # fmt: skip
    return rewards.settle(state.rewards, settled)


def _stood(state: Ledger, command: Settle, event: Any, pool: str, rules: Rules) -> Sequence[AnyEvent]:
    standing = state.rewards.standings.get(event.worker)
    return standing_of(standing, event, command.react.at, command.react.position)


_BY_FACT: dict[type[Any], Callable[[Ledger, Settle, Any, str, Rules], Sequence[AnyEvent]]] = {
    JobSubmitted: _submitted,
    JobMetered: _metered,
    JobFinished: _finished,
    TasksFinished: _ended,
    TasksFailed: _ended,
    TasksRetried: _ended,
    **dict.fromkeys(STANDING_FACTS, _stood),
}
