"""What people type as sizes, durations and pairs."""

import pytest

from events.spec import RetrySpec
from services.cli.options import parse_duration, parse_input, parse_pair, parse_retry, parse_size, retries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000000", 1_000_000),
        ("512MB", 512_000_000),
        ("512M", 512_000_000),
        ("2GiB", 2 * 1024**3),
        ("2gib", 2 * 1024**3),
        ("1.5 KiB", 1536),
        ("1TB", 10**12),
        ("64b", 64),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "GB", "2 Gallons", "1e9", "nan", "512 M B", "2i", "2iB"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="512MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2D", 172800),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "-5m", "5 m", "m", "5x", "inf"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="90s"):
        parse_duration(text)


def test_pairs_keep_later_equals_signs() -> None:
    assert parse_pair("URL=a=b") == ("URL", "a=b")
    assert parse_pair("EMPTY=") == ("EMPTY", "")


@pytest.mark.parametrize("text", ["", "novalue", "=x"])
def test_what_is_not_a_pair(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_pair(text)


def test_an_input_without_a_name_takes_that_of_its_file() -> None:
    assert parse_input("data/a.csv") == ("data/a.csv", "a.csv")
    assert parse_input("data/a.csv=in/b.csv") == ("data/a.csv", "in/b.csv")


@pytest.mark.parametrize("text", ["", "=x", "x="])
def test_what_is_not_an_input(text: str) -> None:
    with pytest.raises(ValueError, match="PATH"):
        parse_input(text)


def test_retries_count_for_what_a_task_itself_causes() -> None:
    assert retries(None, ()) == RetrySpec()
    assert retries(2, ()) == RetrySpec(exit=2, oom=2, timeout=2)
    assert retries(2, (("oom", 0), ("lost", 9))) == RetrySpec(exit=2, oom=0, timeout=2, lost=9)


@pytest.mark.parametrize("text", ["", "exit", "exit=-1", "exit=x", "boredom=1", "backoff=1"])
def test_what_is_not_a_retry(text: str) -> None:
    with pytest.raises(ValueError, match="CAUSE=N"):
        parse_retry(text)
