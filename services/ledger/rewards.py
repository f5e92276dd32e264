"""What workers' owners earn: which policies run, what an attempt that was settled is worth, and rebases. Pure.

One policy pays, any number score in the shadow. What the paying one says is `due`; what cannot be moved (the supply cap
is reached, or a correction takes back what the owner has spent) stays open and is settled with the owner's next reward.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from events.base import UserId, WorkerId
from events.ledger import (
    MINT,
    TREASURY,
    AccountId,
    ChargeId,
    HoldId,
    OwnerListed,
    PolicyRebased,
    PolicySet,
    Posting,
    RewardId,
    RewardPaid,
    RewardScored,
    hold_account,
    user_account,
)
from projections.levels import Choice, Rewards, Standing, moved, paying, uptime
from services.hosting import Refused
from services.ledger.commands import ListOwner, Rebase, SetPolicy
from services.ledger.machine_time import (
    EndFact,
    Reserved,
    basis_now,
    work_of,
)
from services.ledger.policies.base import BadParams, Case, Policy, Score
from services.ledger.policies.registry import BY_KEY, NAMES, policy_of

MARKET = "market"


class Settled(msgspec.Struct, frozen=True, gc=False):
    """An attempt's end that a job paid for. `owner` has the worker, `user` the job. `price`: what the job paid, `fee` of
    that included, µCPT. `at` (ms) and `evidence` are the pool's message. `treasury`, `mint`: what these may still give.
    """

    reward: RewardId
    charge: ChargeId
    hold: HoldId
    worker: WorkerId
    owner: UserId
    user: UserId
    event: EndFact
    counted_ms: int
    price: int
    fee: int
    reserved: Reserved
    at: int
    evidence: int
    treasury: int
    mint: int


def settle(state: Rewards, settled: Settled) -> list[RewardPaid | RewardScored]:
    """What the attempt earns: one fact for each policy that runs and has something to say.

    Under `market` the owner is paid from the hold, where the price less the fee must be; what is not his goes to the
    treasury. Under the others from the treasury, then the mint.
    """
    standing = state.standings.get(settled.worker) or Standing(settled.at)
    basis = basis_now(standing, settled.counted_ms, settled.reserved, settled.at)
    work = work_of(basis, settled.event)
    up, own = uptime(standing, settled.at), settled.owner == settled.user
    facts: list[RewardPaid | RewardScored] = []
    rest = work if any(some.machine_us for some in work) else []
    for name in sorted(state.policies, key=lambda name: (state.policies[name].mode != "paying", name)):
        choice = state.policies[name]
        if choice.mode == "off":
            continue
        policy = BY_KEY[f"{name}@{choice.version}"]
        carried = standing.carried.get(policy.key, 0)
        case = Case(work, settled.price, settled.fee, standing.credited_us, up, carried, own)
        score = policy.score(case, choice.params)
        if not (score.amount or rest or score.carried != carried):
            continue
        if not facts:  # the work, and what it is computed from, stand in the first
            score = msgspec.structs.replace(score, terms=[*basis.terms(), *score.terms])
        facts.append(_fact(state, settled, choice, policy, score, [] if facts else work))
    return facts


def _fact(
    state: Rewards, settled: Settled, choice: Choice, policy: Policy[Any], score: Score, work: list[Any]
) -> RewardPaid | RewardScored:
    evidence = [settled.evidence]
    if choice.mode == "shadow":
        return RewardScored(
            settled.reward, policy.name, policy.version, settled.owner, settled.worker, score.amount, settled.charge,
            score.terms, evidence, score.carried, work, choice.params,
        )  # fmt: skip
    hold = score.amount if policy.name == MARKET else 0
    postings = pay(
        state.open.get(settled.owner, 0) + score.amount, settled.owner, hold_account(settled.hold), hold,
        settled.treasury, settled.mint,
    )  # fmt: skip
    return RewardPaid(
        settled.reward, policy.name, policy.version, settled.owner, settled.worker, postings, settled.charge,
        score.terms, evidence, "", score.amount, score.carried, work, choice.params,
    )  # fmt: skip


def pay(want: int, owner: UserId, hold: AccountId, held: int, treasury: int, mint: int) -> list[Posting]:
    """Give an owner `want` µCPT: from the hold, the treasury, the mint, as far as each reaches. All that is `held` leaves
    the hold: to the treasury what is not his.
    """
    postings: list[Posting] = []
    for source, has in ((hold, held), (TREASURY, treasury), (MINT, mint)):
        part = min(max(want, 0), max(has, 0))
        want -= part
        if part:
            postings.append(Posting(source, user_account(owner), part))
        if source == hold and held > part:
            postings.append(Posting(hold, TREASURY, held - part))
    return postings


# What the operator and owners may ask


CORRECTIONS_MAX = 500
"""Of one rebase: so many facts fit in a message with ease."""


def known_policy(name: str, version: int, params: Mapping[str, int]) -> Policy[Any]:
    """The policy, when there is one that takes these parameters. Raises Refused."""
    policy = policy_of(name, version)
    if policy is None:
        there = ", ".join(BY_KEY) if name in NAMES else ", ".join(NAMES)
        raise Refused(
            "no_policy", "policy", f"there is no policy {name!r} {version or ''}".rstrip() + f"; there are {there}"
        )
    try:
        policy.params_of(params)
    except BadParams as error:
        raise Refused("bad_param", f"params.{error.field}", error.detail) from None
    return policy


def decide_policy(state: Rewards, command: SetPolicy) -> list[PolicySet]:
    """Choose a policy; nothing when it is chosen so already. Raises Refused."""
    if command.mode == "off":
        if command.policy not in NAMES:
            known_policy(command.policy, 0, {})
        choice = state.policies.get(command.policy)
        if choice is None or choice.mode == "off":
            return []
        return [PolicySet(command.policy, "off", choice.version, choice.params)]
    policy = known_policy(command.policy, command.version, command.params)
    if state.policies.get(policy.name) == Choice(command.mode, policy.version, command.params):
        return []
    facts = [PolicySet(policy.name, command.mode, policy.version, command.params)]
    before = paying(state)
    if command.mode == "paying" and before not in ("", policy.name):
        was = state.policies[before]
        facts.insert(0, PolicySet(before, "shadow", was.version, was.params))
    return facts


def decide_list(state: Rewards, command: ListOwner) -> list[OwnerListed]:
    """Put the owner on the leaderboard, or take him off."""
    return [] if (command.owner in state.listed) == command.on else [OwnerListed(command.owner, command.on)]


def decide_rebase(
    state: Rewards, command: Rebase, balance: Callable[[AccountId], int], mint: int
) -> list[PolicyRebased | RewardPaid]:
    """Post the corrections; nothing when this very rebase was the last one. Raises Refused.

    Each takes from the treasury and the mint, or gives back to the treasury, as far as there is; the rest stays open.
    """
    if command.rebase == state.rebase:
        return []
    if command.before != state.rebase:
        raise Refused("stale", "before", "another rebase was made meanwhile; compute this one again")
    if len(command.corrections) > CORRECTIONS_MAX:
        detail = f"{len(command.corrections)} workers; at most {CORRECTIONS_MAX} at once: choose a later since"
        raise Refused("too_many", "corrections", detail)
    policy = known_policy(command.policy, command.version, command.params)
    facts: list[PolicyRebased | RewardPaid] = [
        PolicyRebased(policy.name, policy.version, command.rebase, command.first, command.last, command.params)
    ]
    left = {TREASURY: balance(TREASURY)}
    opened = dict(state.open)
    for correction in command.corrections:
        owner, account = correction.owner, user_account(correction.owner)
        want = opened.get(owner, 0) + correction.amount
        has = left.setdefault(account, balance(account))
        if want < 0:
            taken = min(-want, max(has, 0))
            postings = [Posting(account, TREASURY, taken)] if taken else []
        else:
            postings = pay(want, owner, "", 0, left[TREASURY], mint)
        for posting in postings:
            mint -= posting.amount if posting.debit == MINT else 0
            for name, amount in ((posting.debit, -posting.amount), (posting.credit, posting.amount)):
                left[name] = left.get(name, 0) + amount
        fact = RewardPaid(
            f"{command.rebase}:{correction.worker}", policy.name, policy.version, owner, correction.worker, postings,
            cites=command.rebase, due=correction.amount,
        )  # fmt: skip
        opened[owner] = want - moved(fact)
        facts.append(fact)
    return facts
