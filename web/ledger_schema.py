"""What goes in and out of the routes of the ledger. Amounts are whole µCPT: a CPT is 1,000,000 of them."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from services.ledger.transfers import AMOUNT_MAX, PENDING_MS_MAX, POSTINGS_MAX
from web.schema import Moment, Position

MEMO_CHARS_MAX = 500
TransferIdText: TypeAlias = Annotated[str, Meta(description="Id of a transfer", examples=["tq3v5mnbd2krw7aef"])]
Amount: TypeAlias = Annotated[int, Meta(ge=1, le=AMOUNT_MAX, description="µCPT", examples=[1_500_000])]
MicroCpt: TypeAlias = Annotated[int, Meta(description="µCPT", examples=[1_500_000])]
Payee: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=100, description="A user's id or name", examples=["bob"])
]
Memo: TypeAlias = Annotated[str, Meta(max_length=MEMO_CHARS_MAX)]
Cites: TypeAlias = Annotated[str, Meta(max_length=200)]


class Leg(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What one account gets."""

    to: Payee
    amount: Amount


class TransferBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Pay one user (`to`, `amount`), or several at once (`legs`), all or none. `pending_s`: set it aside for so long, to be
    posted or voided. `cites`: the transfer that a refund gives back.
    """

    to: Annotated[str, Meta(max_length=100)] = ""
    amount: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] = 0
    legs: Annotated[list[Leg], Meta(max_length=POSTINGS_MAX)] = []
    kind: Literal["transfer", "tip", "refund"] = "transfer"
    memo: Memo = ""
    cites: Cites = ""
    pending_s: Annotated[float, Meta(ge=0, le=PENDING_MS_MAX / 1000)] = 0


class PaymentBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Pay out of the hive's own accounts: `source` and each `to` are `mint`, `treasury`, `fees`, or users."""

    kind: Literal["grant", "issue", "payout", "correction"]
    source: Payee
    legs: Annotated[list[Leg], Meta(min_length=1, max_length=POSTINGS_MAX)]
    memo: Memo = ""
    cites: Cites = ""


class PostBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How much of what waits is posted (0: all); the rest goes back."""

    amount: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] = 0


class TransferAnswer(msgspec.Struct, frozen=True, gc=False):
    """It is on disk at `position`, where who pays has `balance`. `existing`: it had been before."""

    transfer: TransferIdText
    existing: bool
    balance: MicroCpt
    position: Position


class BalanceAnswer(msgspec.Struct, frozen=True, gc=False):
    """What a user can spend, and what it has set aside in transfers that wait, as of `position`."""

    user: str
    balance: MicroCpt
    pending: MicroCpt
    position: Position


class EntryView(msgspec.Struct, frozen=True, gc=False):
    """A line of an account: `amount` is above 0 when it came, below 0 when it went; `other` is where from or to."""

    id: str
    n: int
    fact: str
    kind: str
    amount: MicroCpt
    other: str
    memo: str
    cites: str
    at: Moment
    position: Position


class EntriesAnswer(msgspec.Struct, frozen=True, gc=False):
    """Lines, newest first; `next` is the cursor of the next page."""

    entries: list[EntryView]
    next: str | None


class StatementAnswer(msgspec.Struct, frozen=True, gc=False):
    """A month (UTC) of an account: opening + came - went = closing."""

    user: str
    month: Annotated[str, Meta(examples=["2026-11"])]
    opening: MicroCpt
    came: MicroCpt
    went: MicroCpt
    net: MicroCpt
    closing: MicroCpt
    entries: list[EntryView]
    next: str | None


class PostingView(msgspec.Struct, frozen=True, gc=False):
    """Money from one account to another."""

    debit: str
    credit: str
    amount: MicroCpt


class TransferView(msgspec.Struct, frozen=True, gc=False):
    """A transfer, or another fact that moved money: what became of it, and every posting of it so far."""

    id: TransferIdText
    state: Literal["posted", "pending", "voided", "expired"]
    kind: str
    postings: list[PostingView]
    memo: str
    cites: str
    at: Moment
    expires_at: Moment


class PendingAnswer(msgspec.Struct, frozen=True, gc=False):
    """Transfers that wait, which pay or are for who asks."""

    transfers: list[TransferView]


class OverviewAnswer(msgspec.Struct, frozen=True, gc=False):
    """Where all CPT are: supply = users + held + pending + treasury + fees."""

    supply: MicroCpt
    supply_cap: MicroCpt
    users: MicroCpt
    held: MicroCpt
    pending: MicroCpt
    treasury: MicroCpt
    fees: MicroCpt
    accounts: int
    entries: int
    open_disputes: int
    position: Position


class AccountView(msgspec.Struct, frozen=True, gc=False):
    """What stands on an account."""

    account: str
    balance: MicroCpt


class AccountsAnswer(msgspec.Struct, frozen=True, gc=False):
    """Accounts that have something, by name, as of `position`; `next` is the `after` of the next page."""

    accounts: list[AccountView]
    next: str | None
    position: Position


class DisputeBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What was paid wrongly: the id of a transfer or charge; how much of it (0: all), and which of several payees had it."""

    cites: Annotated[str, Meta(min_length=1, max_length=200)]
    reason: Memo = ""
    amount: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] = 0
    against: Annotated[str, Meta(max_length=200)] = ""


class RulingBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """`amount` (0: all of it) goes back from `source` ("": the account that it is against)."""

    ruling: Literal["upheld", "rejected"]
    amount: Annotated[int, Meta(ge=0, le=AMOUNT_MAX)] = 0
    source: Annotated[str, Meta(max_length=200)] = ""
    reason: Memo = ""


class DisputeView(msgspec.Struct, frozen=True, gc=False):
    """An open dispute."""

    dispute: str
    user: str
    cites: str
    amount: MicroCpt
    against: str
    reason: str
    opened_at: Moment


class DisputesAnswer(msgspec.Struct, frozen=True, gc=False):
    """Open disputes, oldest first."""

    disputes: list[DisputeView]


class DisputeAnswer(msgspec.Struct, frozen=True, gc=False):
    """It is on disk at `position`. `existing`: it had been before."""

    dispute: str
    existing: bool
    position: Position
