"""What may be asked of the ledger's writer. Whether who asks may ask is checked before, where the request comes in.

Each command names what it makes by an id that is used once, for ever: asked again with the same body it does nothing,
with another it is refused. `known` is filled by the writer's own service: what the index of ids knows of those named.
"""

from typing import Literal, TypeAlias

import msgspec

from events.base import Digest, Sealed, UserId, WorkerId
from events.ledger import AccountId, DisputeId, PolicyMode, Posting, TransferId, TransferKind


class Past(msgspec.Struct, frozen=True, gc=False):
    """What the index knows of an id: the digest of the body it came with, and what became of it."""

    digest: Digest
    state: str


class Transfer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="transfer"):
    """Move money: all postings or none. `pending_ms`: set it aside for so long, to be posted or voided (0: move it now).
    `cites`: what it refunds or corrects.
    """

    transfer: TransferId
    kind: TransferKind
    postings: list[Posting]
    digest: Digest
    memo: Sealed | None = None
    cites: str = ""
    pending_ms: int = 0
    known: dict[str, Past] = {}


class PostPending(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="post_pending"):
    """Carry a pending transfer through; of one with a single posting, only `amount` when that is not 0."""

    transfer: TransferId
    amount: int = 0
    known: dict[str, Past] = {}


class VoidPending(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="void_pending"):
    """Give back what a pending transfer set aside."""

    transfer: TransferId
    known: dict[str, Past] = {}


class OpenDispute(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="open_dispute"):
    """The user holds that `amount` went to `against` wrongly, by what is cited."""

    dispute: DisputeId
    user: UserId
    cites: str
    amount: int
    against: AccountId
    reason: Sealed | None = None
    known: dict[str, Past] = {}


class RuleDispute(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="rule_dispute"):
    """Decide a dispute. Upheld, `amount` (0: all of it) goes back to its user, from `source` ("": whom it is against)."""

    dispute: DisputeId
    ruling: Literal["upheld", "rejected", "withdrawn"]
    amount: int = 0
    source: AccountId = ""
    reason: Sealed | None = None
    known: dict[str, Past] = {}


class SetPrices(msgspec.Struct, frozen=True, gc=False, tag="set_prices"):
    """Jobs cost so much from now on, where they do not cost the usual (see services.ledger.prices)."""

    rates: dict[str, int]


class SetPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="set_policy"):
    """Let a policy pay, score in the shadow, or do nothing. The one that paid before scores in the shadow from then on.
    `version` 0: the newest.
    """

    policy: str
    mode: PolicyMode
    version: int = 0
    params: dict[str, int] = {}


class ListOwner(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="list_owner"):
    """Whether the owner stands on the leaderboard."""

    owner: UserId
    on: bool


class Correction(msgspec.Struct, frozen=True, gc=False):
    """What a rebase changes for one worker's owner: `amount` µCPT more (or less) are due for these many rewards."""

    worker: WorkerId
    owner: UserId
    amount: int
    rewards: int


class Rebase(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="rebase"):
    """All rewards from the position `first` to `last` are due as this policy says. `before`: the rebase that was the last
    one when the corrections were computed.
    """

    rebase: str
    policy: str
    version: int
    params: dict[str, int]
    first: int
    last: int
    before: str
    corrections: list[Correction]


Named: TypeAlias = Transfer | PostPending | VoidPending | OpenDispute | RuleDispute
"""What makes or changes something with an id of its own."""
Command: TypeAlias = Named | SetPrices | SetPolicy | ListOwner | Rebase


class Expire(msgspec.Struct, frozen=True, gc=False):
    """Void the pending transfers whose time is over."""


class Twice(msgspec.Struct, frozen=True, gc=False):
    """In the place of a command that names the same id as one before it in the same request."""

    id: str


OwnCommand: TypeAlias = Expire | Twice


def id_of(command: Named) -> str:
    """The id that the command makes or changes."""
    return command.dispute if isinstance(command, OpenDispute | RuleDispute) else command.transfer
