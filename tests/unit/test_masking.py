"""What a user typed does not get into the log by way of a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.masking import is_of, mask, unmask
from events.spec import Input, TaskText

TEXT = TaskText(
    ["secret-tool", "-x", "a"], image="acme/private:1", inputs=[Input("data/in.csv", "0" * 64)], results=["out/r.json"]
)


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("command not found: 'secret-tool' is not in PATH", "command not found: {command[0]} is not in PATH"),
        ("no such image: acme/private:1", "no such image: {=image}"),
        ("input 'data/in.csv' could not be fetched", "input {inputs[0]} could not be fetched"),
        ("declared result 'out/r.json' was not written", "declared result {results[0]} was not written"),
        ("a task said -x twice", "a task said -x twice"),
        ("", ""),
    ],
)
def test_reasons_name_fields(said: str, logged: str) -> None:
    assert mask(said, TEXT) == logged
    assert is_of(said, logged)
    assert not is_of(f"not {said}", logged)


def test_whoever_may_read_the_text_gets_the_words_back() -> None:
    said = "command not found: 'secret-tool' is not in PATH"
    assert unmask(mask(said, TEXT), TEXT) == said
    said = "command not found: 'command', and no links but command[0]"
    for text in (TaskText(["command", "nothing"], results=["link"]), TaskText(["not found", "command"])):
        assert unmask(mask(said, text), text) == said
    assert unmask("{command[0]} ended", TaskText()) == "{command[0]} ended"
    assert unmask("{env[0]} {oddly} {command[99]}", TEXT) == "{env[0]} {oddly} {command[99]}"


@given(st.text(), st.lists(st.text(min_size=4), max_size=3))
def test_nothing_typed_of_some_length_is_left(around: str, command: list[str]) -> None:
    text = TaskText(command)
    logged = mask(around.join(["x", *command, *map(repr, command)]), text)
    for word in command:
        assert word not in logged or any(
            word in place for at in range(3) for place in (f"{{command[{at}]}}", f"{{=command[{at}]}}")
        )
