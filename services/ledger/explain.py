"""Why a reward is what it is: its evidence, each term and whose word it rests on, and the result computed again. Pure."""

import msgspec

from events.base import JobId, Runs, UserId, WorkerId, tag_of
from events.catalog import Record, position_text
from events.ledger import RewardId, RewardPaid, RewardScored, Term, Work
from projections.levels import moved
from services.ledger.machine_time import EndFact, basis_of, work_of
from services.ledger.policies.base import case_of
from services.ledger.policies.registry import BY_KEY


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """A fact on the log that a reward rests on: where, when (ms), which, about what, and who brought it."""

    position: str
    at: int
    type: str
    by: str
    job: JobId
    tasks: Runs
    lease: int


class Scoring(msgspec.Struct, frozen=True, gc=False):
    """What one policy says: `amount` as the fact has it, `recomputed` from its work and terms just now."""

    policy: str
    version: int
    params: dict[str, int]
    pays: bool
    amount: int
    recomputed: int
    terms: list[Term]


class Made(msgspec.Struct, frozen=True, gc=False):
    """A rebase over this reward, and the policy that decides what is due for it since."""

    rebase: str
    policy: str
    version: int
    params: dict[str, int]


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """All about a reward. Amounts in µCPT. `paid`: what was moved with it. `holds`: every recomputation came to the same.
    `wrong`: what did not. `rebases`: those over this reward, in order; their corrections are posted for each worker at once.
    """

    reward: RewardId
    position: str
    at: int
    owner: UserId
    worker: WorkerId
    amount: int
    paid: int
    evidence: list[Evidence]
    work: list[Work]
    policies: list[Scoring]
    rebases: list[Made] = []
    holds: bool = True
    wrong: list[str] = []


RewardFact = RewardPaid | RewardScored


def ends_in(record: Record, fact: RewardFact) -> list[tuple[EndFact, str]]:
    """The ends of attempts in a message that the reward can be about, each with who reported it."""
    _, job, lease, _ = fact.reward.split(":")
    found: list[tuple[EndFact, str]] = []
    for decision in record.message.decisions:
        for event in decision.events:
            if isinstance(event, EndFact) and (event.job, str(event.lease), event.worker) == (job, lease, fact.worker):
                found.append((event, decision.by))
    return found


def explain(facts: list[RewardFact], position: int, at: int, evidence: list[Record]) -> Explanation:
    """What the facts about one reward, in the message at `position`, come from. `evidence`: the messages that they name."""
    first = facts[0]
    whole = next((fact for fact in facts if fact.work), first)
    work, basis = whole.work, basis_of(whole.terms)
    wrong: list[str] = []
    scorings: list[Scoring] = []
    for fact in facts:
        scoring = _scoring(fact, work)
        scorings.append(scoring)
        if scoring.recomputed != scoring.amount:
            wrong.append(f"{fact.policy}@{fact.version} comes to {scoring.recomputed} µCPT, not {scoring.amount}")
    shown: list[Evidence] = []
    same = not work
    for record in evidence:
        for event, by in ends_in(record, first):
            shown.append(_shown(record, event, by))
            same = same or work_of(basis, event) == work
    if not shown:
        wrong.append("the log has no such evidence")
    elif not same:
        wrong.append("the evidence comes to other work than the reward says")
    paid = next((fact for fact in facts if isinstance(fact, RewardPaid)), None)
    return Explanation(
        first.reward, position_text(position), at, first.owner, first.worker,
        paid.due if paid else 0, moved(paid) if paid else 0, shown, work, scorings, [], not wrong, wrong,
    )  # fmt: skip


def _scoring(fact: RewardFact, work: list[Work]) -> Scoring:
    pays = isinstance(fact, RewardPaid)
    amount = fact.due if isinstance(fact, RewardPaid) else fact.amount
    score = BY_KEY[f"{fact.policy}@{fact.version}"].score(case_of(work, fact.terms), fact.params)
    return Scoring(fact.policy, fact.version, fact.params, pays, amount, score.amount, fact.terms)


def _shown(record: Record, event: EndFact, by: str) -> Evidence:
    position = position_text(record.position)
    return Evidence(position, record.message.at, tag_of(event), by, event.job, event.tasks, event.lease)
