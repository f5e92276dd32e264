"""The ledger's model: what each command may lead to (`decide`) and what each event changes (`evolve`). Pure.

`decide` never changes the state; `evolve` never refuses. Time is an argument, in milliseconds. Each part of the ledger
has its rules in a file of its own, and its lines in the two tables here.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from events.account import UserErased, UserRegistered
from events.catalog import AnyEvent, Message, Unknown
from events.ledger import (
    ChargePosted,
    DisputeOpened,
    DisputeRuled,
    HoldExtended,
    HoldPlaced,
    HoldRefused,
    HoldReleased,
    HoldShort,
    LedgerLed,
    OwnerListed,
    PolicyRebased,
    PolicySet,
    PricesSet,
    RewardPaid,
    RewardScored,
    StandingChanged,
    TransferPending,
    TransferPosted,
    TransferVoided,
)
from projections import ledger as books
from projections import levels
from services.hosting import NewerFormat, React, Refused
from services.ledger import disputes, prices, rewards, settlement, standing, transfers
from services.ledger.commands import (
    Command,
    Expire,
    ListOwner,
    OpenDispute,
    OwnCommand,
    PostPending,
    Rebase,
    RuleDispute,
    SetPolicy,
    SetPrices,
    Transfer,
    Twice,
    VoidPending,
)
from services.ledger.settlement import Settle
from services.ledger.state import Ledger, Rules

VERSION = 2
"""Of the snapshot: raise it when the state's shape or an `evolve` changes what a given log folds to."""

Decide = Callable[[Ledger, Any, int, Rules], Sequence[AnyEvent]]


def _twice(state: Ledger, command: Twice, now: int, rules: Rules) -> Sequence[AnyEvent]:
    raise Refused("twice", "id", f"{command.id} is named twice in one request; ask for it in another")


DECIDE: dict[type, Decide] = {
    Transfer: transfers.decide_transfer,
    PostPending: transfers.decide_post,
    VoidPending: lambda state, command, now, rules: transfers.decide_void(state, command),
    Expire: lambda state, command, now, rules: transfers.decide_expire(state, command, now),
    OpenDispute: lambda state, command, now, rules: disputes.decide_open(state, command),
    RuleDispute: lambda state, command, now, rules: disputes.decide_rule(state, command, rules),
    SetPolicy: lambda state, command, now, rules: rewards.decide_policy(state.rewards, command),
    ListOwner: lambda state, command, now, rules: rewards.decide_list(state.rewards, command),
    Rebase: lambda state, command, now, rules: rewards.decide_rebase(
        state.rewards, command, state.balance, rules.supply_cap - state.books.supply
    ),
    Twice: _twice,
    SetPrices: lambda state, command, now, rules: prices.decide_set(state.books, command.rates),
    Settle: settlement.decide_settle,
    React: lambda state, command, now, rules: REACT[type(command.event)](state, command, rules),
}

REACT: dict[type, Callable[[Ledger, React, Rules], Sequence[AnyEvent]]] = {
    UserRegistered: standing.decide_registered,
    UserErased: standing.decide_erased,
}
"""What follows from others' facts. Never refused: what cannot be done about one is nothing, or a fact of its own."""


def _books_only(state: Ledger, event: Any, at: int) -> None:
    """What the books keep is all that it changes."""


def _rewards(state: Ledger, event: Any, at: int) -> None:
    levels.apply(state.rewards, event, at)


def _led(state: Ledger, event: LedgerLed, at: int) -> None:
    state.writer = event.writer


EVOLVE: dict[type, Callable[[Ledger, Any, int], None]] = {
    LedgerLed: _led,
    TransferPosted: _books_only,
    TransferPending: _books_only,
    TransferVoided: _books_only,
    HoldPlaced: _books_only,
    HoldRefused: _books_only,
    HoldExtended: _books_only,
    HoldShort: _books_only,
    HoldReleased: _books_only,
    ChargePosted: _books_only,
    RewardPaid: _rewards,
    RewardScored: _rewards,
    PolicySet: _rewards,
    PolicyRebased: _rewards,
    OwnerListed: _rewards,
    StandingChanged: _rewards,
    PricesSet: _books_only,
    DisputeOpened: _books_only,
    DisputeRuled: _books_only,
}


def decide(state: Ledger, command: Command | OwnCommand | React | Settle, now: int, rules: Rules) -> Sequence[AnyEvent]:
    """The events that `command` leads to at `now`, none when there is nothing to do. Raises Refused."""
    return DECIDE[type(command)](state, command, now, rules)


def evolve(state: Ledger, event: AnyEvent | Unknown, at: int) -> None:
    """Fold one event into `state`, in place. Raises NewerFormat for one this version does not know."""
    change = EVOLVE.get(cast(type[Any], type(event)))
    if change is None:
        raise NewerFormat(f"{event} is not known to this version; upgrade before it leads")
    books.apply(state.books, event, at)
    change(state, event, at)


def fold(state: Ledger, message: Message) -> None:
    """Fold a message of the ledger's subject. Raises NewerFormat."""
    for event in message.events():
        evolve(state, event, message.at)
    state.cursors.update(message.marks())


def check(state: Ledger) -> None:
    """Assert every invariant of the state; for tests and audits."""
    books.check(state.books)
    levels.check(state.rewards)
