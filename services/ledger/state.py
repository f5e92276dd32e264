"""What the ledger's writer decides on. `load` and `save` are its snapshot. Pure."""

import msgspec

from events.catalog import Mark
from events.ledger import AccountId
from projections.ledger import Books
from projections.levels import Rewards

MICRO = 1_000_000


class Rules(msgspec.Struct, frozen=True, gc=False):
    """What the operator set, in µCPT. What a decision led to is in its facts, so a change of the rules changes no past."""

    supply_cap: int = 1_000_000_000 * MICRO
    sign_up_grant: int = 0
    fee_percent: int = 10
    grace_ms: int = 60_000
    """How long a running job whose owner has no more is given to get some."""
    admin_grant: int = 0
    """What each new admin gets in place of the sign-up grant."""


class Ledger(msgspec.Struct):
    """The books, and whatever else is decided on."""

    books: Books = msgspec.field(default_factory=Books)
    writer: str = ""
    rewards: Rewards = msgspec.field(default_factory=Rewards)
    cursors: dict[str, Mark] = {}
    """How far other subjects were consumed."""

    def balance(self, account: AccountId) -> int:
        """What stands on the account, µCPT."""
        return self.books.balance(account)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ledger).decode


def save(state: Ledger) -> bytes:
    """The state as bytes."""
    return _encode(state)


def load(data: bytes) -> Ledger:
    """The state that `save` wrote. Raises msgspec.DecodeError."""
    return _decode(data)
