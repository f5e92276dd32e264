"""Variables in commands and environments: `{{index}}` becomes the task's index on the machine that runs it. Pure.

A name that means nothing is refused at submission, never passed on. `{{!name}}` stands for the text `{{name}}` itself;
braces around anything but a name are left alone.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

OPEN = "{{"
NAMES = {
    "job": "the job's id",
    "index": "the task's index in its job, from 0",
    "count": "how many tasks the job has",
    "attempt": "which attempt at the task this is, from 1",
    "task": "the task's name, JOB.INDEX",
    "run": "the attempt's name, which no other attempt in the pool has",
    "folder": "the task's work folder",
    "cpus": "how many CPUs the task asked for",
    "memory": "how many bytes of memory the task asked for; 0: it did not say",
    "gpus": "the UUIDs of the GPUs that are free for the task, with commas between",
    "gpu_count": "how many those are",
}
FAMILIES = {"input": "where the input with this path is", "param": "the parameter of this name"}
"""Names followed by a dot and what is meant."""
_FOUND = re.compile(r"\{\{\s*(!?)([A-Za-z_][A-Za-z0-9_]*)(?:\.([^{}\s][^{}]*?))?\s*\}\}")


class Unknown(Exception):
    """A variable that means nothing; the text is its name."""


def names(text: str) -> list[str]:
    """The variables in `text`, as written."""
    if OPEN not in text:
        return []
    return [_name(found) for found in _FOUND.finditer(text) if not found[1]]


def unknown(texts: Iterable[str], members: Mapping[str, Collection[str]]) -> str:
    """The first variable in `texts` that means nothing for a task whose families have these members; "": there is none."""
    for text in texts:
        for name in names(text):
            family, dot, rest = name.partition(".")
            if dot and family in FAMILIES:
                if rest in members[family]:
                    continue
            elif name in NAMES:
                continue
            return name
    return ""


def render(text: str, value_of: Callable[[str], str]) -> str:
    """`text` with its variables replaced; `value_of(name)` raises Unknown."""
    if OPEN not in text:
        return text
    return _FOUND.sub(lambda found: f"{{{{{_name(found)}}}}}" if found[1] else value_of(_name(found)), text)


def has_any(texts: Iterable[str]) -> bool:
    """Whether rendering any of these could change it."""
    return any(OPEN in text for text in texts)


def _name(found: re.Match[str]) -> str:
    return f"{found[2]}.{found[3]}" if found[3] else found[2]
