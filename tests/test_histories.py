"""Recorded logs of real hives must fold to what they folded to when they were recorded: see tests/histories/README.md.

`python -m tests.test_histories` writes what each folds to now; a diff in review is then the question whether it may.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import catalog
from events.catalog import Message, Unknown
from projections.board import fold
from projections.board_state import Board
from services.pool import model
from services.pool.state import Pool, load, save

FOLDER = Path(__file__).parent / "histories"
GOOD = sorted(path for path in FOLDER.glob("*.jsonl") if not path.name.startswith("bad-"))


def messages(path: Path) -> list[Message]:
    """The messages of a history, one a line."""
    return [catalog.decode(line) for line in path.read_bytes().splitlines()]


def pool_of(history: list[Message]) -> Pool:
    """The pool's state, every invariant checked after every message."""
    state = Pool("default")
    for message in history:
        model.fold(state, message)
        model.check(state)
    return state


def summary(history: list[Message]) -> dict[str, Any]:
    """What a history folds to, as people can compare it."""
    board = Board()
    for position, message in enumerate(history, 1):
        fold(board, message, position)
    jobs = {**board.open, **board.ended}
    state = pool_of(history)
    return {
        "jobs": {name: [job.state, job.succeeded, job.failed, job.cancelled, job.reason] for name, job in jobs.items()},
        "workers": {name: [w.state, w.drained, w.finished, w.failed] for name, w in board.workers.items()},
        "totals": msgspec.to_builtins(board.totals()),
        "open": {name: [job.held, job.ready, len(job.active)] for name, job in state.jobs.items()},
        "number": state.number,
    }


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_folds_to_what_it_did(path: Path) -> None:
    assert summary(messages(path)) == json.loads(path.with_suffix(".state.json").read_text())


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_any_cut_goes_on_through_a_snapshot(path: Path) -> None:
    history = messages(path)
    whole = save(pool_of(history))
    for cut in range(len(history)):
        state = load(save(pool_of(history[:cut])))
        for message in history[cut:]:
            model.fold(state, message)
        model.check(state)
        assert sorted(load(save(state)).jobs) == sorted(load(whole).jobs)
        assert state.number == load(whole).number


def test_a_history_that_cannot_be_is_found_out() -> None:
    with pytest.raises((AssertionError, KeyError)):
        pool_of(messages(FOLDER / "bad-twice.jsonl"))


def test_a_newer_history_is_not_led_but_shown() -> None:
    history = messages(FOLDER / "bad-newer.jsonl")
    with pytest.raises(model.NewerFormat, match="upgrade"):
        pool_of(history)
    board = Board()
    for position, message in enumerate(history, 1):
        fold(board, message, position)
    unknown = sum(isinstance(event, Unknown) for message in history for event in message.events())
    assert unknown and board.unknown == unknown


def main() -> None:
    """Write what the good histories fold to now."""
    for path in GOOD:
        text = json.dumps(summary(messages(path)), indent=1, sort_keys=True)
        path.with_suffix(".state.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
