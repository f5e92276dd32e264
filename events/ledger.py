"""Facts about money: double entry over whole micro-CPT (µCPT), one CPT being a million of them.

A fact that moves money carries its `postings`, all or none; nothing else moves any. The nth posting (from 0) of the
fact about X has the id `X:n`. What a balance is follows from the postings alone: what was credited, less what was
debited. At every position the balances of all accounts sum to zero and only `mint` is below it.

Money that waits (for the end of a job, for a transfer's second phase) stands on an account of its own, so that what a
user's account shows is what its user can spend.
"""

from typing import ClassVar, Literal, TypeAlias

import msgspec

from events.base import Digest, Event, JobId, Runs, Sealed, UserId, WorkerId
from events.job import Cost
from events.task import AttemptEnd

AccountId: TypeAlias = str
"""`user:<user>`, `hold:<pool>/<job>`, `pending:<transfer>`, or one of the three below."""
TransferId: TypeAlias = str
HoldId: TypeAlias = str
"""`<pool>/<job>`."""
ChargeId: TypeAlias = str
"""`settle:<job>:<lease>:<n>`: the nth charge for that lease."""
RewardId: TypeAlias = str
"""`reward:<job>:<lease>:<n>`: for the charge with these numbers."""
DisputeId: TypeAlias = str

MINT: AccountId = "mint"
"""Where CPT come from: what it lacks is what there is."""
TREASURY: AccountId = "treasury"
FEES: AccountId = "fees"

MICRO = 1_000_000
"""µCPT of a CPT."""

TransferKind = Literal["transfer", "tip", "refund", "payout", "grant", "issue", "correction", "closure"]
PolicyMode = Literal["paying", "shadow", "off"]
Word = Literal["platform", "reservation", "report", "agreed", "policy"]
"""Whose word a figure rests on: the platform's own clock and count, what the job reserved, the worker's report alone,
two workers that agreed, or a parameter of the policy.
"""


def user_account(user: UserId) -> AccountId:
    """A user's own account."""
    return f"user:{user}"


def hold_account(hold: HoldId) -> AccountId:
    """What is held for a job."""
    return f"hold:{hold}"


def pending_account(transfer: TransferId) -> AccountId:
    """What waits for a transfer's second phase."""
    return f"pending:{transfer}"


def hold_of(pool: str, job: JobId) -> HoldId:
    """The id of what is held for a job."""
    return f"{pool}/{job}"


def job_of(hold: HoldId) -> tuple[str, JobId]:
    """Pool and job of a hold."""
    pool, _, job = hold.partition("/")
    return pool, job


class Posting(msgspec.Struct, frozen=True, gc=False):
    """`amount` µCPT, more than 0, go from the account `debit` to the account `credit`."""

    debit: AccountId
    credit: AccountId
    amount: int


class Term(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A figure that a result was computed from, and whose word it rests on. `unit` such as `ms`, `µCPT`, `‰`."""

    name: str
    value: int
    unit: str = ""
    word: Word = "platform"


class LedgerEvent(Event):
    """Every fact about the ledger's own writer names the ledger first."""

    entity: ClassVar[str] = "ledger"
    ledger: str


class LedgerLed(LedgerEvent, tag="ledger.writer_led"):
    """A control plane took the place of the ledger's one writer."""

    writer: str
    version: str = ""


class TransferEvent(Event):
    """Every fact about a transfer names it first. An id is used once, for ever."""

    entity: ClassVar[str] = "transfer"
    transfer: TransferId


class TransferPosted(TransferEvent, tag="transfer.posted"):
    """Money moved. `cites`: the transfer, charge or reward that it corrects or refunds. `digest` tells whether an id is
    asked for with the same body again; it is keyed, so that it tells nothing else. The second phase of a pending one has
    none, and moves what waited: to whom it was for, and what is not taken back to who paid.
    """

    kind: TransferKind
    postings: list[Posting]
    digest: Digest = ""
    memo: Sealed | None = None
    cites: str = ""


class TransferPending(TransferEvent, tag="transfer.pending"):
    """The first phase: `postings` put the money onto the transfer's own account, until it is posted as `then` says, or
    voided, or `expires_at` (ms) is over.
    """

    kind: TransferKind
    postings: list[Posting]
    then: list[Posting]
    expires_at: int
    digest: Digest = ""
    memo: Sealed | None = None
    cites: str = ""


class TransferVoided(TransferEvent, tag="transfer.voided"):
    """A pending transfer came to nothing; `postings` give the money back."""

    reason: Literal["voided", "expired"]
    postings: list[Posting]


class HoldEvent(Event):
    """Every fact about what is held for a job names it first: `<pool>/<job>`."""

    entity: ClassVar[str] = "hold"
    hold: HoldId


class HoldPlaced(HoldEvent, tag="hold.placed"):
    """What the job is to cost stands apart: it can run. `cost` is what it was handed in at; the rest is what one of its tasks
    reserves.
    """

    owner: UserId
    total: int
    postings: list[Posting]
    prices: str = ""
    cost: Cost | None = None
    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus_milli: int = 0


class HoldRefused(HoldEvent, tag="hold.refused"):
    """The owner lacks `missing` of the `total`: the job does not run."""

    owner: UserId
    total: int
    missing: int


class HoldExtended(HoldEvent, tag="hold.extended"):
    """More was put to it; `total` is what was held altogether since the beginning."""

    total: int
    postings: list[Posting]


class HoldShort(HoldEvent, tag="hold.short"):
    """What is held is nearly used up and the owner has no more: the job is stopped at `stops_at` (ms)."""

    missing: int
    stops_at: int


class HoldReleased(HoldEvent, tag="hold.released"):
    """The job is over and paid for; what was left went back to its owner. `charged`: what it cost altogether."""

    charged: int
    postings: list[Posting] = []


class ChargeEvent(Event):
    """Every fact about a charge names it first."""

    entity: ClassVar[str] = "charge"
    charge: ChargeId


class ChargePosted(ChargeEvent, tag="charge.posted"):
    """A job paid for work of one lease: these tasks, which ended so (or run on: ""). `reported_ms` is what the worker
    said they took, `counted_ms` what counts, on whose word; `evidence` are the positions of the facts that say so.
    `counted`: for how many of them the base price counts; `price`: what is charged for it all, µCPT.
    """

    hold: HoldId
    lease: int
    worker: WorkerId
    tasks: Runs
    postings: list[Posting]
    end: AttemptEnd | Literal[""] = ""
    reported_ms: int = 0
    counted_ms: int = 0
    word: Word = "platform"
    evidence: list[int] = []
    counted: int = 0
    price: int = 0


class Work(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tasks of one attempt, one after the other, that were alike. Of each: the time that counts, in microseconds of the
    whole machine; whether it succeeded; and how much of what it reserved it used on average, in thousandths (-1: it
    reserved none).
    """

    machine_us: int
    tasks: int = 1
    done: bool = False
    cpu: int = -1
    memory: int = -1
    gpu: int = -1


class RewardEvent(Event):
    """Every fact about a reward names it first."""

    entity: ClassVar[str] = "reward"
    reward: RewardId


class RewardPaid(RewardEvent, tag="reward.paid"):
    """A worker's owner earned, under this policy, from this work and these terms; `evidence` are the positions of the
    facts behind them. `cites`: the rebase that this belongs to. `due` is what the policy says, less than 0 when a
    correction takes back; `postings` move what can be moved, and what stays open is settled with the owner's next
    reward. `carried`: what is left below a µCPT, in the policy's parts, for the worker's next. `params` are over the
    policy's own.
    """

    policy: str
    version: int
    owner: UserId
    worker: WorkerId
    postings: list[Posting]
    charge: ChargeId = ""
    terms: list[Term] = []
    evidence: list[int] = []
    cites: str = ""
    due: int = 0
    carried: int = 0
    work: list[Work] = []
    params: dict[str, int] = {}


class RewardScored(RewardEvent, tag="reward.scored"):
    """What a policy in the shadow would have paid. `work` is here when no reward with this id was paid beside it."""

    policy: str
    version: int
    owner: UserId
    worker: WorkerId
    amount: int
    charge: ChargeId = ""
    terms: list[Term] = []
    evidence: list[int] = []
    carried: int = 0
    work: list[Work] = []
    params: dict[str, int] = {}


class PolicyEvent(Event):
    """Every fact about a reward policy names it first."""

    entity: ClassVar[str] = "policy"
    policy: str


class PolicySet(PolicyEvent, tag="policy.set"):
    """From now on the policy pays, scores in the shadow, or does nothing, with these parameters over its own."""

    mode: PolicyMode
    version: int
    params: dict[str, int] = {}


class PolicyRebased(PolicyEvent, tag="policy.rebased"):
    """All rewards from the position `first` to `last` are due as this policy says; the rewards that cite `rebase` make
    good the difference to what was due before.
    """

    version: int
    rebase: str
    first: int
    last: int
    params: dict[str, int] = {}


class StandingEvent(Event):
    """Every fact about how a worker stands names the worker first."""

    entity: ClassVar[str] = "standing"
    standing: WorkerId


class StandingChanged(StandingEvent, tag="standing.changed"):
    """What the pool's fact at `evidence` says of a worker, for its rewards: since `since` (ms, the pool's clock) it is within
    reach, or silent, or gone, and has this much, as it says itself.
    """

    state: Literal["ready", "silent", "gone"]
    since: int
    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    evidence: int = 0


class OwnerEvent(Event):
    """Every fact about an owner of workers names him first."""

    entity: ClassVar[str] = "owner"
    owner: UserId


class OwnerListed(OwnerEvent, tag="owner.listed"):
    """Whether the owner wants to stand on the leaderboard, under his name; nobody does unasked."""

    on: bool


class PricesEvent(Event):
    """Every fact about a price list names its version first."""

    entity: ClassVar[str] = "prices"
    prices: str


class PricesSet(PricesEvent, tag="prices.set"):
    """Jobs submitted from now on cost so much: µCPT by what is priced."""

    rates: dict[str, int]


class DisputeEvent(Event):
    """Every fact about a dispute names it first."""

    entity: ClassVar[str] = "dispute"
    dispute: DisputeId


class DisputeOpened(DisputeEvent, tag="dispute.opened"):
    """A user holds that the transfer, charge or reward `cites` is wrong, by which `amount` went to `against`."""

    user: UserId
    cites: str
    reason: Sealed | None = None
    amount: int = 0
    against: AccountId = ""


class DisputeRuled(DisputeEvent, tag="dispute.ruled"):
    """It is decided. `correction`: the transfer, beside this fact, that makes good what was wrong."""

    ruling: Literal["upheld", "rejected", "withdrawn"]
    correction: TransferId = ""
    reason: Sealed | None = None


AnyLedgerEvent = (
    LedgerLed
    | TransferPosted
    | TransferPending
    | TransferVoided
    | HoldPlaced
    | HoldRefused
    | HoldExtended
    | HoldShort
    | HoldReleased
    | ChargePosted
    | RewardPaid
    | RewardScored
    | PolicySet
    | PolicyRebased
    | OwnerListed
    | StandingChanged
    | PricesSet
    | DisputeOpened
    | DisputeRuled
)
