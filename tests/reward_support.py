"""A ledger that knows nothing but rewards: attempts end, are settled, and the facts are on a log that can be folded."""

from collections.abc import Sequence
from typing import Any

from events.catalog import LEDGER_SUBJECT, Decision, Message, Record, pool_subject
from events.ledger import MINT, TREASURY, StandingChanged, hold_account
from events.task import Detail, TasksFailed, TasksFinished
from projections import levels
from projections.levels import Rewards
from services.ledger import rewards
from services.ledger.commands import Rebase, SetPolicy
from services.ledger.explain import Explanation, RewardFact, explain
from services.ledger.machine_time import Reserved
from services.ledger.rebase import Again, Change, Rebasing, corrections
from services.ledger.rewards import Settled

GIB = 1 << 30
HOUR_MS = 3_600_000
CPT = 1_000_000
T0 = 10**12


class Purse:
    """Rewards, the balances that they move, and the log."""

    def __init__(self, supply: int = 10**15) -> None:
        self.supply = supply
        self.now = T0
        self.state = Rewards()
        self.balances: dict[str, int] = {}
        self.log: list[Record] = []
        self.position = 0
        self.n = 0

    def append(self, events: Sequence[Any], subject: str = LEDGER_SUBJECT, by: str = "ledger") -> int:
        """Put a message on the log and fold it; its position."""
        self.position += 1
        message = Message(f"m{self.position}", self.now, "writer", [Decision([*events], by)])
        self.log.append(Record(self.position, subject, message))
        if subject == LEDGER_SUBJECT:
            for event in events:
                for posting in getattr(event, "postings", []):
                    self.balances[posting.debit] = self.balances.get(posting.debit, 0) - posting.amount
                    self.balances[posting.credit] = self.balances.get(posting.credit, 0) + posting.amount
                levels.apply(self.state, event, self.now)
            levels.check(self.state)
            assert all(
                amount >= 0 for account, amount in self.balances.items() if not account.startswith((MINT, "hold:"))
            )
        return self.position

    def worker(self, name: str, cpus: int = 4000, state: Any = "ready") -> None:
        self.append([StandingChanged(name, state, self.now, cpus, 8 * GIB)])

    def policy(self, name: str, mode: Any, **params: int) -> None:
        self.append(rewards.decide_policy(self.state, SetPolicy(name, mode, 0, params)))

    def ended(
        self, worker: str, owner: str, details: list[Detail], price: int = 0, done: bool = True, user: str = "someone"
    ) -> list[RewardFact]:
        """An attempt ended and is settled; what is paid and scored for it."""
        self.n += 1
        tasks = [0, len(details) - 1]
        event = (
            TasksFinished("j1", tasks, self.n, worker, 1, details)
            if done
            else TasksFailed("j1", tasks, self.n, worker, 1, "exit", 1, "", details)
        )
        at = self.append([event], pool_subject("default"), f"worker:{worker}")
        fee = price // 10
        # What the settlement posts beside it, as far as it matters here.
        self.balances[hold_account("default/j1")] = price - fee
        if levels.paying(self.state) != "market":
            self.balances[TREASURY] = self.balances.get(TREASURY, 0) + price - fee
        facts = rewards.settle(
            self.state,
            Settled(
                f"reward:j1:{self.n}:0", f"settle:j1:{self.n}:0", "default/j1", worker, owner, user, event,
                sum(detail.wall_ms for detail in details), price, fee, Reserved(1000, GIB), self.now, at,
                self.balances.get(TREASURY, 0), self.supply + self.balances.get(MINT, 0),
            ),
        )  # fmt: skip
        self.append(facts)
        return [*facts]

    def rebasing(self, since: int = 0) -> Rebasing:
        """The ledger's facts since then, read as a rebase reads them."""
        start = next((record.position for record in self.log if record.message.at >= since), self.position + 1)
        while True:
            found = Rebasing(start)
            try:
                for record in self.log[start - 1 :]:
                    if record.subject == LEDGER_SUBJECT:
                        found.take(record)
            except Again as again:
                start = again.position
            else:
                return found

    def changes(self, policy: str, since: int = 0, **params: int) -> list[Change]:
        return self.rebasing(since).changes(since, policy, 1, params)

    def rebase(self, policy: str, since: int = 0, **params: int) -> list[Change]:
        """Rebase for good; what it changed."""
        found = self.rebasing(since)
        changes = found.changes(since, policy, 1, params)
        self.n += 1
        command = Rebase(
            f"rebase:{self.n}",
            policy,
            1,
            params,
            found.first(since),
            found.position,
            self.state.rebase,
            corrections(changes),
        )
        if command.corrections:
            balances = self.balances
            room = self.supply + balances.get(MINT, 0)
            facts = rewards.decide_rebase(self.state, command, lambda account: balances.get(account, 0), room)
            self.append(facts)
        return changes

    def due(self, owner: str) -> int:
        """What the owner was ever due: what he has, and what is open."""
        return self.balances.get(f"user:{owner}", 0) + self.state.open.get(owner, 0)

    def explained(self, facts: list[RewardFact]) -> Explanation:
        """The explanation of these facts about one reward, from the log."""
        position = next(r.position for r in self.log if facts[0] in [*r.message.events()])
        evidence = [self.log[at - 1] for at in facts[0].evidence]
        return explain(facts, position, self.now, evidence)

    def refolded(self) -> Rewards:
        """The state that the log folds to."""
        state = Rewards()
        for record in self.log:
            for event in record.message.events():
                levels.apply(state, event, record.message.at)
        return state
