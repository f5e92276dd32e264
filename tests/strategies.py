"""Generators of anything that the catalogue can hold."""

from typing import Any, cast

import msgspec
from hypothesis import strategies as st

from events.catalog import AnyEvent, Decision, Message


def struct(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a Struct, every field drawn. (Left alone, hypothesis takes msgspec's mark for `[]` as a value.)"""
    return st.builds(kind, **{field.name: st.from_type(field.type) for field in msgspec.structs.fields(kind)})


def _register(kind: type[msgspec.Struct]) -> None:
    for below in kind.__subclasses__():
        if below.__module__.startswith("events."):
            st.register_type_strategy(below, struct)
        _register(below)


_register(msgspec.Struct)


def events() -> st.SearchStrategy[AnyEvent]:
    """Any event."""
    return st.from_type(cast("type[AnyEvent]", AnyEvent))


def messages() -> st.SearchStrategy[Message]:
    """Messages of a few decisions with a few events each."""
    decisions = st.builds(
        Decision,
        st.lists(events(), min_size=1, max_size=3),
        st.text(max_size=9),
        st.text(max_size=9),
        st.text(max_size=9),
    )
    positions = st.dictionaries(st.text(max_size=5), st.integers(0, 2**50), max_size=2)
    return st.builds(
        Message,
        st.text(max_size=9),
        st.integers(0, 2**50),
        st.text(max_size=9),
        st.lists(decisions, max_size=3),
        positions,
    )
