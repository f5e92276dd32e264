"""The catalogue: permanent tags, a codec that loses nothing, and no change that makes an old log unreadable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import catalog, describe
from events.base import Event, Sealed, check_runs, expand, runs_of, size_of, tag_of
from events.catalog import BY_TAG, EVENTS, AnyEvent, Message, Unknown
from events.compatibility import Schema, breaks
from events.job import JobHeld, JobSubmitted
from events.task import Detail, TasksFinished
from tests.strategies import events, messages

GOLDEN = Path(__file__).parent / "golden" / "events.schema.json"
DIGEST = "0123456789abcdef" * 4


def _subclasses(kind: type[Event]) -> set[type[Event]]:
    return {kind} | {below for child in kind.__subclasses__() for below in _subclasses(child)}


def test_every_event_is_in_the_union() -> None:
    declared = {
        kind for kind in _subclasses(Event) if kind.__struct_config__.tag and kind.__module__.startswith("events.")
    }
    named = {kind for kind in declared if "." in tag_of(kind)}
    assert named == set(EVENTS), "an event is registered by its place in its file's union"


def test_tags_are_unique() -> None:
    assert len(BY_TAG) == len(EVENTS)


@pytest.mark.parametrize("kind", EVENTS, ids=tag_of)
def test_a_tag_names_its_entity_and_the_first_field_is_an_id(kind: type[Any]) -> None:
    entity, _, fact = tag_of(kind).partition(".")
    assert entity == kind.entity
    assert fact.replace("_", "").isalpha()
    first = kind.__struct_fields__[0]
    assert first == ("job" if entity == "task" else entity)
    assert msgspec.structs.fields(kind)[0].type is str


@pytest.mark.parametrize("kind", EVENTS, ids=tag_of)
def test_every_event_says_what_happened(kind: type[Event]) -> None:
    assert (kind.__doc__ or "").strip(), "the docstring is its description in docs/events.md"


@given(messages())
def test_a_message_survives_the_log(message: Message) -> None:
    assert catalog.decode(catalog.encode(message)) == message


def _written(*events: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"id": "m1", "at": 1, "writer": "c1", "decisions": [{"events": events, "by": "u1"}]})


def test_unknown_tags_are_kept_as_unknown_and_the_rest_of_the_message_is_read() -> None:
    message = catalog.decode(_written({"type": "job.blessed", "job": "j1"}, {"type": "job.runnable", "job": "j1"}))
    unknown, known = message.events()
    assert unknown == Unknown("job.blessed", {"type": "job.blessed", "job": "j1"})
    assert type(known) is BY_TAG["job.runnable"]
    assert message.decisions[0].by == "u1"


def test_unknown_fields_are_ignored() -> None:
    (event,) = catalog.decode(_written({"type": "job.runnable", "job": "j1", "mood": "good"})).events()
    assert event == BY_TAG["job.runnable"](job="j1")  # pyright: ignore[reportCallIssue]


def test_a_malformed_known_event_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="count"):
        catalog.decode(_written({"type": "job.submitted", "job": "j1", "count": "many"}))


def test_what_is_on_some_log_can_still_be_read() -> None:
    wrong = breaks(msgspec.json.decode(GOLDEN.read_bytes()), describe.json_schema())
    assert not wrong, "facts that some log may hold would be lost: " + "; ".join(wrong)


def _drop(schema: Schema, name: str) -> None:
    del schema["$defs"][name]


def _property(schema: Schema, name: str, field: str) -> dict[str, Any]:
    return schema["$defs"][name]["properties"][field]


CHANGES: list[tuple[str, Callable[[Schema], Any], str]] = [
    ("removed event", lambda s: _drop(s, "JobHeld"), "job.held is gone"),
    ("other tag", lambda s: _property(s, "JobHeld", "type").update(enum=["job.stopped"]), "job.held is gone"),
    ("removed field", lambda s: s["$defs"]["JobHeld"]["properties"].pop("detail"), "job.held.detail is gone"),
    (
        "other type",
        lambda s: _property(s, "JobHeld", "detail").update(type="integer"),
        "job.held.detail has another type",
    ),
    ("other default", lambda s: _property(s, "JobSubmitted", "count").update(default=2), "count has another default"),
    (
        "fewer values",
        lambda s: _property(s, "JobHeld", "reason").update(enum=["capacity"]),
        "no longer takes dependencies",
    ),
    ("now required", lambda s: s["$defs"]["JobHeld"]["required"].append("detail"), "job.held.detail has no default"),
    ("now optional", lambda s: s["$defs"]["JobHeld"]["required"].remove("reason"), "job.held.reason got a default"),
]


@pytest.mark.parametrize(("change", "says"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_breaking_change_is_named(change: Callable[[Schema], Any], says: str) -> None:
    new = describe.json_schema()
    change(new)
    assert any(says in reason for reason in breaks(describe.json_schema(), new))


def test_additions_and_new_class_names_break_nothing() -> None:
    old, new = describe.json_schema(), describe.json_schema()
    _drop(old, "WorkerLost")
    union = old["$defs"]["Decision"]["properties"]["events"]["items"]["anyOf"]
    union.remove({"$ref": "#/$defs/WorkerLost"})
    del old["$defs"]["JobSubmitted"]["properties"]["after"]
    _property(old, "JobHeld", "reason").update(enum=["capacity"])
    old["$defs"]["WasHeld"] = old["$defs"].pop("JobHeld")
    union[union.index({"$ref": "#/$defs/JobHeld"})] = {"$ref": "#/$defs/WasHeld"}
    assert breaks(old, new) == []


@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_hold_the_numbers_they_were_made_of(numbers: set[int]) -> None:
    runs = runs_of(sorted(numbers))
    assert list(expand(runs)) == sorted(numbers)
    assert size_of(runs) == len(numbers)
    assert check_runs(runs, 61) is None


@pytest.mark.parametrize("runs", [[], [1], [3, 2], [0, 1, 1, 2], [5, 9], [-1, 0]])
def test_malformed_runs_are_named(runs: list[int]) -> None:
    assert check_runs(runs, 9)


AT = 1_700_000_000_000


def test_a_line_says_what_differs_from_the_defaults() -> None:
    submitted = JobSubmitted("j1", "u1", DIGEST, Sealed("k1", b"secret"), count=3, after=["j0"])
    assert describe.line(42, AT, "u1", submitted, 3600) == (
        "23:13:20 job.submitted j1 owner=u1 digest=0123456789ab text=<sealed> count=3 after=[j0] by u1 @1.42"
    )
    finished = TasksFinished("j1", [0, 2, 7, 7], 5, "w1", 1, [Detail(out_size=5)])
    assert describe.line(43, AT, "", finished) == (
        "22:13:20 task.finished j1 tasks=0-2,7 lease=5 worker=w1 details=[{started_at=0 out_size=5}] @1.43"
    )


def test_a_line_of_an_unknown_event_shows_its_fields_but_nothing_sealed() -> None:
    body = {"type": "job.blessed", "job": "j1", "tasks": [1, 2], "text": {"key": "k1", "data": "c2VjcmV0"}}
    assert describe.line(7, AT, "", Unknown("job.blessed", body)) == (
        "22:13:20 job.blessed job=j1 tasks=1-2 text=<sealed> @1.7"
    )


@given(events(), st.text())
def test_a_line_is_one_line_that_cannot_steer_a_terminal(event: AnyEvent, by: str) -> None:
    assert describe.line(1, AT, by, event).isprintable()


def test_a_line_cuts_what_is_long() -> None:
    text = describe.line(1, AT, "", JobHeld("j1", "capacity", "x" * 5000))
    assert len(text) < 300
    assert "…" in text
