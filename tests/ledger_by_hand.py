"""The ledger once more, written from docs/ledger.md alone and from nothing of the program's: raw messages of the log in,
balances out. What the program says must be what this says.
"""

import json
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

NAMED, LONE = ("user", "hold", "pending"), ("treasury", "fees", "mint")
LARGEST = 10**15


class Broken(AssertionError):
    """What the page says always holds does not."""


class ByHand:
    """Feed it messages in the order of the log."""

    def __init__(self) -> None:
        self.balances: dict[str, Fraction] = {}
        self.transfers: dict[str, str] = {}
        self.waits: dict[str, list[tuple[str, str, int]]] = {}
        self.disputes: dict[str, str] = {}
        self.ids: set[str] = set()

    def message(self, data: bytes) -> None:
        """One message. Raises Broken."""
        for decision in json.loads(data)["decisions"]:
            for event in decision["events"]:
                self.event(event)
                self._sound()

    def event(self, event: dict[str, Any]) -> None:
        lines = [(one["debit"], one["credit"], one["amount"]) for one in event.get("postings", ())]
        handler = getattr(self, "_" + event["type"].replace(".", "_"), None)
        if handler is not None:
            handler(event, lines)
        for n, (debit, credit, amount) in enumerate(lines):
            self._once(self._id(event, n))
            self._posting(debit, credit, amount)

    @staticmethod
    def _id(event: dict[str, Any], n: int) -> str:
        entity, _, fact = event["type"].partition(".")
        phase = {"transfer.pending": ":pending", "transfer.voided": ":voided"}.get(event["type"], "")
        # What is held for a job is extended and released many times, so those have no ids of their own.
        return f"{entity}:{event[entity]}{phase}:{n}" if entity != "hold" else f"{entity}:{fact}:{id(event)}:{n}"

    def _once(self, id: str) -> None:
        if id in self.ids:
            raise Broken(f"{id} was posted twice")
        self.ids.add(id)

    def _posting(self, debit: str, credit: str, amount: int) -> None:
        for account in (debit, credit):
            head, _, rest = account.partition(":")
            if not ((head in NAMED and rest) or account in LONE):
                raise Broken(f"{account} is no account")
        if not (isinstance(amount, int) and 1 <= amount <= LARGEST):
            raise Broken(f"{amount} is no amount")
        self.balances[debit] = self.balances.get(debit, Fraction()) - amount
        self.balances[credit] = self.balances.get(credit, Fraction()) + amount
        if debit != "mint" and self.balances[debit] < 0:
            raise Broken(f"{debit} has {self.balances[debit]}")

    def _transfer_pending(self, event: dict[str, Any], lines: list[tuple[str, str, int]]) -> None:
        name = event["transfer"]
        if name in self.transfers:
            raise Broken(f"{name} began twice")
        self.transfers[name] = "pending"
        if {credit for _, credit, _ in lines} != {f"pending:{name}"}:
            raise Broken(f"{name} does not set its money aside")
        if any(one["debit"] != f"pending:{name}" for one in event["then"]):
            raise Broken(f"{name} is to be paid from elsewhere")
        self.waits[name] = lines

    def _transfer_posted(self, event: dict[str, Any], lines: list[tuple[str, str, int]]) -> None:
        name = event["transfer"]
        if self.transfers.get(name, "pending") != "pending":
            raise Broken(f"{name} was over")
        self.transfers[name] = "posted"
        waited = self.waits.pop(name, None)
        if waited is not None:
            self._empties(name, lines, waited)
        if event["kind"] == "correction" and name.startswith("dispute:"):
            cited = self.disputes.get(name.removeprefix("dispute:"))
            if cited is None or event.get("cites") != cited:
                raise Broken(f"{name} cites {event.get('cites')}, disputed was {cited}")

    def _transfer_voided(self, event: dict[str, Any], lines: list[tuple[str, str, int]]) -> None:
        name = event["transfer"]
        if self.transfers.get(name) != "pending":
            raise Broken(f"{name} did not wait")
        self.transfers[name] = event["reason"]
        waited = self.waits.pop(name)
        self._empties(name, lines, waited)
        if sorted(lines) != sorted((credit, debit, amount) for debit, credit, amount in waited):
            raise Broken(f"{name} gives back something else")

    @staticmethod
    def _empties(name: str, lines: list[tuple[str, str, int]], waited: list[tuple[str, str, int]]) -> None:
        if {debit for debit, _, _ in lines} != {f"pending:{name}"}:
            raise Broken(f"{name} is paid from elsewhere")
        if sum(amount for _, _, amount in lines) != sum(amount for _, _, amount in waited):
            raise Broken(f"{name} does not empty its account")

    def _dispute_opened(self, event: dict[str, Any], lines: list[Any]) -> None:
        if event["dispute"] in self.disputes:
            raise Broken(f"{event['dispute']} was opened twice")
        self.disputes[event["dispute"]] = event["cites"]

    def _sound(self) -> None:
        if sum(self.balances.values()) != 0:
            raise Broken(f"all accounts add up to {sum(self.balances.values())}")
        for name, lines in self.waits.items():
            if self.balances[f"pending:{name}"] != sum(amount for _, _, amount in lines):
                raise Broken(f"pending:{name} has {self.balances[f'pending:{name}']}")
        for account, balance in self.balances.items():
            if account.startswith("pending:") and account.removeprefix("pending:") not in self.waits and balance:
                raise Broken(f"{account} has {balance}, and nothing waits")

    def found(self) -> dict[str, int]:
        """Balances that are not 0."""
        return {account: int(balance) for account, balance in self.balances.items() if balance}


def by_hand(messages: Iterable[bytes]) -> ByHand:
    """The ledger after these messages."""
    ledger = ByHand()
    for data in messages:
        ledger.message(data)
    return ledger
