"""Reasons without what a user typed. A worker says why a task could not run in words that may quote the command, a
path or an image; the log holds those only sealed. So a reason on the log names the field instead, as `{command[0]}`,
and whoever may read the text puts the words back.
"""

import re
from collections.abc import Iterator

from events.spec import TaskText

BARE_CHARS_MIN = 4
"""A shorter text is only taken for the user's when it stands in quotes."""
_PLACE = re.compile(r"\{([a-z]+)(?:\[(\d+)\])?\}")


def _typed(text: TaskText) -> Iterator[tuple[str, str]]:
    yield "{image}", text.image
    yield "{cwd}", text.cwd
    for at, word in enumerate(text.command):
        yield f"{{command[{at}]}}", word
    for at, file in enumerate(text.inputs):
        yield f"{{inputs[{at}]}}", file.path
    for at, path in enumerate(text.results):
        yield f"{{results[{at}]}}", path


def mask(reason: str, text: TaskText) -> str:
    """`reason` with every text of the user's replaced by the name of its field."""
    if not reason:
        return reason
    for place, value in sorted(_typed(text), key=lambda one: -len(one[1])):
        if value:
            reason = reason.replace(repr(value), place)
            if len(value) >= BARE_CHARS_MIN:
                reason = reason.replace(value, place)
    return reason


def unmask(reason: str, text: TaskText) -> str:
    """`reason` as it was said, for who may read `text`. A field that is not there any more keeps its name."""
    if "{" not in reason:
        return reason
    values = dict(_typed(text))
    return _PLACE.sub(lambda found: repr(values[found[0]]) if values.get(found[0]) else found[0], reason)
