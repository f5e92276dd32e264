"""Amounts and payees as people type them."""

from pathlib import Path

import pytest

from services.cli.failure import Failure
from services.cli.ledger import cpt, parse_amount, parse_leg
from services.cli.ledger_rule import read_legs


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("5", 5_000_000),
        ("1.25", 1_250_000),
        ("0.000001", 1),
        ("0", 0),
        (" 7 ", 7_000_000),
        ("1234567890", 1234567890 * 10**6),
    ],
)
def test_an_amount_is_exact(text: str, amount: int) -> None:
    assert parse_amount(text) == amount
    assert parse_amount(cpt(amount)) == amount


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1.2345678", ".5", "5.", "1,5", "five", "12345678901", "٣"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_amount(text)


def test_a_payee_is_named_before_the_last_equals_sign() -> None:
    assert parse_leg("bob=1.5") == ("bob", 1_500_000)
    assert parse_leg("a=b=2") == ("a=b", 2_000_000)
    for wrong in ("bob", "=5", "bob="):
        with pytest.raises(ValueError, match="not"):
            parse_leg(wrong)


def test_a_file_of_payees(tmp_path: Path) -> None:
    file = tmp_path / "payees"
    file.write_text("# november\nbob=1.5\n\n  ada=2   # for the demo\n")
    assert read_legs(file) == [("bob", 1_500_000), ("ada", 2_000_000)]
    file.write_text("bob=1.5\nada\n")
    with pytest.raises(Failure, match="line 2"):
        read_legs(file)
    with pytest.raises(Failure, match="cannot be read"):
        read_legs(tmp_path / "none")
