"""Reasons without what a user typed. A worker says why a task could not run in words that may quote the command, a
path or an image; the log holds those only sealed. So a reason on the log names the field instead, as `{command[0]}`
(`{=command[0]}` where it stood without quotes), and whoever may read the text puts the words back.
"""

import re
from collections.abc import Iterator

from events.spec import TaskText

BARE_CHARS_MIN = 4
"""A shorter text is only taken for the user's when it stands in quotes."""
_PLACE = re.compile(r"\{(=?)([a-z]+(?:\[\d+\])?)\}")


def _typed(text: TaskText) -> Iterator[tuple[str, str]]:
    yield "image", text.image
    yield "cwd", text.cwd
    yield "entry", text.entry
    for at, line in enumerate(text.commands):
        yield f"commands[{at}]", line
    for at, host in enumerate(text.hosts):
        yield f"hosts[{at}]", host
    for at, word in enumerate(text.command):
        yield f"command[{at}]", word
    for at, file in enumerate(text.inputs):
        yield f"inputs[{at}]", file.path
    for at, path in enumerate(text.results):
        yield f"results[{at}]", path


def mask(reason: str, text: TaskText) -> str:
    """`reason` with every text of the user's replaced by the name of its field."""
    if not reason:
        return reason
    places: dict[str, str] = {}
    for place, value in _typed(text):
        if value:
            places.setdefault(repr(value), f"{{{place}}}")
        if len(value) >= BARE_CHARS_MIN:
            places.setdefault(value, f"{{={place}}}")
    if not places:
        return reason
    # In one pass, so that nothing is looked for in what was put in; the longest first.
    wanted = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(wanted, lambda found: places[found[0]], reason)


def unmask(reason: str, text: TaskText) -> str:
    """`reason` as it was said, for who may read `text`. A field that is not there any more keeps its name."""
    if "{" not in reason:
        return reason
    values = dict(_typed(text))

    def word(found: re.Match[str]) -> str:
        value = values.get(found[2])
        return (value if found[1] else repr(value)) if value else found[0]

    return _PLACE.sub(word, reason)


def is_of(said: str, reason: str) -> bool:
    """Whether `said` is `reason` with words, whatever they are, put back where it names a field."""
    around = _PLACE.split(reason)[:: _PLACE.groups + 1]
    pattern = ".*".join(map(re.escape, around))
    return re.fullmatch(pattern, said, re.DOTALL) is not None
