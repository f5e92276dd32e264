"""Pay what the job paid, less the platform's fee. Pure."""

import msgspec

from events.ledger import Term
from services.ledger.policies.base import Case, Policy, Score


class MarketParams(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The market has no parameters: the price list and the fee are settings of the ledger."""


def market(case: Case, params: MarketParams) -> Score:
    """The settled price less the fee."""
    amount = max(case.price - case.fee, 0)
    return Score(amount, 0, [*case.terms(), Term("reward", amount, "µCPT", "policy")])


MARKET = Policy("market", 1, "what the job paid, less the fee", MarketParams, 1, market)
