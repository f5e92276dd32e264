"""Tickets say what they were issued for, until they expire, and nothing else opens anything."""

import base64
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.spec import TEXT_BYTES_MAX, Input
from infra.tickets import ROOTS_MAX, BadTicket, Tickets

TICKETS = Tickets(b"k" * 32)
DIGEST = "ab" * 32
NOW = 1_700_000_000_000


def test_says_what_it_was_issued_for() -> None:
    ticket = TICKETS.check(TICKETS.issue("w1", "j1", [DIGEST, "results:j2", "put"], NOW + 1), NOW)
    assert (ticket.worker, ticket.job) == ("w1", "j1")
    assert sorted(ticket.roots) == sorted([DIGEST, "results:j2", "put"])
    assert ticket.opens(DIGEST)
    assert not ticket.opens("cd" * 32)
    assert ticket.results_of() == ["j2"]
    assert ticket.may_put


def test_without_roots_it_opens_nothing() -> None:
    ticket = TICKETS.check(TICKETS.issue("w1", "j1", [], NOW + 1), NOW)
    assert not ticket.may_put
    assert ticket.results_of() == []


@pytest.mark.parametrize("spell", ["{:064x}", "results:j{:016x}"])
def test_of_the_longest_text_fits_a_header(spell: str) -> None:
    """As many different inputs as one job's text can name."""
    roots: list[str] = []
    size = 0
    while size < TEXT_BYTES_MAX:
        root = spell.format(len(roots))
        roots.append(root)
        size += len(msgspec.msgpack.encode(Input("a", job=root[8:]) if ":" in root else Input("a", root)))
    text = TICKETS.issue("w" * 13, "j" * 17, roots, NOW)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert len(text) < 64 * 1024 - 1000
    assert TICKETS.check(text, 0).roots == roots


def test_too_many_roots_are_refused() -> None:
    with pytest.raises(ValueError, match=str(ROOTS_MAX)):
        TICKETS.issue("w1", "j1", ["put"] * (ROOTS_MAX + 1), NOW)


def test_expires() -> None:
    text = TICKETS.issue("w1", "j1", ["put"], NOW)
    assert TICKETS.check(text, NOW - 1)
    with pytest.raises(BadTicket, match="expired"):
        TICKETS.check(text, NOW)


def test_of_another_key_is_refused() -> None:
    with pytest.raises(BadTicket, match="not issued here"):
        TICKETS.check(Tickets(b"other").issue("w1", "j1", ["put"], NOW + 1), NOW)


@given(st.data())
def test_any_changed_bit_is_noticed(data: st.DataObject) -> None:
    text = TICKETS.issue("w1", "j1", [DIGEST, "put"], NOW + 1)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadTicket):
        TICKETS.check(base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), NOW)


@given(st.text(max_size=100))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadTicket):
        TICKETS.check(text, NOW)
