"""What holds for any history of the ledger: nothing comes from nothing, nobody owes, an id moves money once, and who
adds the log up by hand finds the same.
"""

import random
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from events import catalog
from events.catalog import Decision, Message
from events.ledger import Posting, TransferPending, TransferPosted
from services.hosting import Refused
from services.ledger.audit import Audit
from services.ledger.commands import Expire, OpenDispute, PostPending, RuleDispute, Transfer, VoidPending
from services.ledger.state import Rules, save
from tests.ledger_by_hand import by_hand
from tests.ledger_support import Told, digest, refolded, transfer

STEP_MS = 700

users = st.sampled_from(["ada", "bob", "cy"])
accounts = st.sampled_from(["ada", "bob", "cy", "treasury", "fees", "mint", "hold:p/j", "pending:t0", "x:"])
ids = st.sampled_from([f"t{n}" for n in range(6)])
amounts = st.one_of(st.integers(1, 60), st.sampled_from([-1, 0, 10**15, 10**15 + 1]))
kinds = st.sampled_from(["transfer", "tip", "refund", "payout", "grant", "issue", "correction", "closure"])
waits = st.sampled_from([0, 0, 1000, 2500])
legs = st.lists(st.tuples(users, amounts), min_size=1, max_size=3)
likely = st.builds(lambda id, payer, to, ms: transfer(id, payer, *to, pending_ms=ms), ids, users, legs, waits)
any_postings = st.lists(st.builds(Posting, accounts, accounts, amounts), max_size=3)
odd = st.builds(
    lambda id, kind, postings, cites, ms: Transfer(
        id, kind, postings, digest(kind, postings, ms), cites=cites, pending_ms=ms
    ),
    ids, kinds, any_postings, st.sampled_from(["", "t0", "t1", "d0"]), st.sampled_from([0, 0, 1, 1000]),
)  # fmt: skip
funding = st.builds(
    lambda id, to, amount, kind: transfer(f"g{id}", "mint", (to, amount), kind=kind),
    ids, st.sampled_from(["ada", "bob", "treasury"]), amounts, st.sampled_from(["grant", "issue"]),
)  # fmt: skip
disputes = st.sampled_from(["d0", "d1"])
against = st.sampled_from(["user:ada", "user:bob", "treasury", "hold:p/j", "nobody"])
rulings = st.sampled_from(["upheld", "upheld", "rejected", "withdrawn"])
sources = st.sampled_from(["", "", "treasury", "user:cy", "mint"])
commands: st.SearchStrategy[Any] = st.one_of(
    likely, likely, likely, odd, funding, funding,
    st.builds(PostPending, ids, st.sampled_from([0, 0, 1, 20])),
    st.builds(VoidPending, ids),
    st.just(Expire()),
    st.builds(OpenDispute, disputes, users, st.one_of(ids, st.just("none")), amounts, against),
    st.builds(RuleDispute, disputes, rulings, st.sampled_from([0, 0, 5, 10**15]), sources),
)  # fmt: skip
histories = st.lists(commands, max_size=40)
RULES = Rules(supply_cap=500)


def play(asked: list[Any]) -> Told:
    """The ledger after all of `asked`; `Told` checks every invariant after each event."""
    told = Told(RULES)
    for command in [transfer("g", "mint", ("ada", 100), kind="grant"), *asked]:
        with suppress(Refused):
            told.ask(command)
        told.now += STEP_MS
    return told


def logged(told: Told, sizes: list[int]) -> list[bytes]:
    """The log of it as messages, cut anywhere."""
    out: list[bytes] = []
    events = list(told.log)
    while events:
        size = sizes[len(out) % len(sizes)]
        now, events = events[:size], events[size:]
        decisions = [Decision([event], "u") for event, _ in now]
        out.append(catalog.encode(Message(f"m{len(out)}", now[-1][1], "w", decisions)))
    return out


@given(histories, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_who_adds_up_by_hand_finds_the_same(asked: list[Any], sizes: list[int]) -> None:
    told = play(asked)
    log = logged(told, sizes)
    audit = Audit()
    for position, data in enumerate(log, 1):
        audit.add(position, data)
    assert by_hand(log).found() == audit.finish() == told.state.books.balances
    assert -told.state.balance("mint") <= RULES.supply_cap


@given(histories)
def test_the_log_folds_to_the_state(asked: list[Any]) -> None:
    told = play(asked)
    assert save(refolded(told.log)) == save(told.state)


@given(histories, st.randoms(use_true_random=False))
def test_whatever_arrives_again_in_whatever_order_moves_nothing(asked: list[Any], drawn: random.Random) -> None:
    told = play(asked)
    done = [one for one in asked if isinstance(one, Transfer | OpenDispute) and _done(told, one)]
    again = drawn.choices(done, k=2 * len(done)) if done else []
    before = save(told.state)
    for command in again:
        assert told.ask(command) == []
    assert save(told.state) == before


def _done(told: Told, command: Transfer | OpenDispute) -> bool:
    """Whether this very command is on the log."""
    if isinstance(command, OpenDispute):
        return command.dispute in told.known
    known = told.known.get(command.transfer)
    return known is not None and known.digest == command.digest


@given(st.lists(likely, max_size=12), st.randoms(use_true_random=False))
def test_an_id_that_many_bodies_claim_is_moved_once_in_any_order(asked: list[Transfer], drawn: random.Random) -> None:
    shuffled = [*asked, *asked]
    drawn.shuffle(shuffled)
    told = play(shuffled)
    moved = [event.transfer for event, _ in told.log if isinstance(event, TransferPosted | TransferPending)]
    assert len(moved) == len(set(moved))
