"""How values look, and that output cannot be steered by what it shows."""

import io
import json

import pytest

from events.units import size_text
from services.cli import format
from services.cli.failure import Failure
from services.cli.output import Output


def outputs(mode: str = "text") -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(mode, out, err), out, err  # pyright: ignore[reportArgumentType] a mode by name


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**28, "256 MiB"),
        (3 * 2**40, "3 TiB"),
        (5 * 2**50, "5120 TiB"),
    ],
)
def test_sizes(count: int, expected: str) -> None:
    assert size_text(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-1, "0.0s"), (0.25, "0.2s"), (42, "42s"), (300, "5m"), (7300, "2h"), (200_000, "2d")]
)
def test_spans(seconds: float, expected: str) -> None:
    assert format.span(seconds) == expected


def test_columns_line_up_with_wide_characters() -> None:
    lines = format.table(["NAME", "N"], [["日本", "1"], ["a", "22"]])
    assert lines == ["NAME  N", "日本  1", "a     22"]


def test_a_table_is_cut_to_the_terminal() -> None:
    assert format.table(["A"], [["x" * 50]], 10)[1] == "x" * 9 + "…"


def test_an_empty_table_is_a_remark_not_a_head_without_rows() -> None:
    output, out, err = outputs()
    output.table(["NAME"], [], empty="nobody yet")
    assert (out.getvalue(), err.getvalue()) == ("", "nobody yet\n")


def test_control_characters_are_shown_not_sent() -> None:
    output, out, _ = outputs()
    output.table(["NAME"], [["\x1b[2Jgone"]])
    output.facts([("name", "a\nb")])
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[2Jgone" in out.getvalue()
    assert "a\\nb" in out.getvalue()


def test_a_failure_is_what_and_remedy_on_standard_error() -> None:
    output, out, err = outputs("json")
    output.failure(Failure("no hive here", "hivectl up"))
    assert out.getvalue() == ""
    assert err.getvalue() == "error: no hive here\n  try: hivectl up\n"


def test_quiet_says_no_remarks_but_results() -> None:
    output, out, err = outputs("quiet")
    output.note("by the way")
    output.line("j1")
    assert (out.getvalue(), err.getvalue()) == ("j1\n", "")


def test_documents_are_json() -> None:
    output, out, _ = outputs("json")
    output.document({"a": [1, "é"]})
    assert json.loads(out.getvalue()) == {"a": [1, "é"]}


def test_task_output_goes_out_byte_for_byte() -> None:
    raw = io.BytesIO()
    output = Output("text", io.TextIOWrapper(raw), io.StringIO())
    output.raw(b"\xff\x00 half a ")
    output.raw(b"line")
    assert raw.getvalue() == b"\xff\x00 half a line"


def test_no_colour_without_a_terminal() -> None:
    output, out, _ = outputs()
    output.table(["STATE"], [["failed"]], state=0)
    assert out.getvalue() == "STATE\nfailed\n"


def test_progress_without_a_terminal_is_a_line_a_tenth() -> None:
    output, _, err = outputs()
    with output.progress("index", 100) as bar:
        for done in range(101):
            bar.update(done)
    lines = err.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "  index  0/100"
    assert lines[-1] == "  index  100/100"


def test_a_terminal_that_knows_few_characters_gets_question_marks() -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii")
    Output("text", terminal, io.StringIO()).line("naïve")
    assert raw.getvalue() == b"na?ve\n"
