"""What people type as values of options: sizes, durations, pairs. Pure; the errors name the accepted forms."""

import math
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import click

from events.inputs import DIGEST, PARAM_NAME, Input, Param, why_no_url
from events.spec import RetrySpec

T = TypeVar("T")

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_UNITS = {n: 1000**p for n, p in _POWERS.items()} | {f"{n}i": 1024**p for n, p in _POWERS.items() if n}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\Z")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_ENV_NAME = re.compile(r"[^=\0]+\Z")
PARAM_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "text": str}
PARAM_SUCH_AS = {"int": "3", "float": "0.1", "bool": "true"}
WHOLE_DIGITS = 19
"""A longer whole number may not fit into 64 bits; it is text."""
RETRY_CAUSES = RetrySpec.__struct_fields__[:-1]


def parse_size(text: str) -> int:
    """Bytes in a size such as 512MB, 2GiB or 1000000. Raises ValueError."""
    found = _SIZE.match(text.strip())
    if not found or found[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write it like 512MB, 2GiB or 1000000 (bytes)")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds in a duration such as 90s, 5m, 1h30m or 90. Raises ValueError."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not _DURATION.match(text):
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 5m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_pair(text: str) -> tuple[str, str]:
    """Name and value of NAME=VALUE. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals or not _ENV_NAME.match(name):
        raise ValueError(f"{text!r} is not NAME=VALUE, such as MODE=fast")
    return name, value


def parse_secret(text: str) -> tuple[str, str]:
    """Variable and the name of the secret, from VAR=NAME, or from NAME, which is both. Raises ValueError."""
    variable, equals, name = text.partition("=")
    if not variable or (equals and not name):
        raise ValueError(f"{text!r} is not NAME or VAR=NAME, such as PGPASSWORD=db-password")
    return variable, name or variable


def parse_input(text: str) -> tuple[str, str]:
    """Local path and the name it gets in the task's folder, from PATH or PATH=NAME. Raises ValueError."""
    path, equals, name = text.partition("=")
    if not path or (equals and not name):
        raise ValueError(f"{text!r} is not PATH or PATH=NAME, such as data/a.csv=a.csv")
    return path, name or path.rstrip("/").rsplit("/", 1)[-1]


def parse_unpack(text: str) -> tuple[str, str]:
    """Local path of an archive and the folder it is unpacked in, from PATH or PATH=FOLDER. Raises ValueError."""
    path, equals, name = text.partition("=")
    if not path or (equals and not name):
        raise ValueError(f"{text!r} is not PATH or PATH=FOLDER, such as data.zip=data")
    return path, name.rstrip("/") or "."


def parse_fetch(text: str) -> Input:
    """An input from NAME=URL#SHA256; NAME/ unpacks it there. Raises ValueError."""
    name, equals, where = text.partition("=")
    url, mark, digest = where.rpartition("#")
    digest = digest.removeprefix("sha256=").lower()
    if not (name and equals and mark and DIGEST.match(digest)):
        raise ValueError(f"{text[:200]!r} is not NAME=URL#SHA256; `curl -L URL | sha256sum` tells the digest")
    if why := why_no_url(url):
        raise ValueError(f"{url[:200]!r} {why}")
    if name.endswith("/"):
        return Input(name.rstrip("/") or ".", digest, form="archive", url=url)
    return Input(name, digest, url=url)


def parse_from(text: str) -> tuple[str, str]:
    """A job and the folder for its results, from JOB or JOB=FOLDER. Raises ValueError."""
    job, equals, name = text.partition("=")
    if not job or (equals and not name):
        raise ValueError(f"{text!r} is not JOB or JOB=FOLDER, such as jq3v5mnbd2krw7aef=parts")
    return job, name.rstrip("/") or job


def parse_param(text: str) -> tuple[str, Param]:
    """Name and value of NAME=VALUE or NAME:TYPE=VALUE. Without a type numbers, true and false are what they look like,
    all else is text. Raises ValueError.
    """
    name, equals, value = text.partition("=")
    name, colon, kind = name.partition(":")
    if not equals or not PARAM_NAME.match(name) or (colon and kind not in PARAM_TYPES):
        raise ValueError(f"{text!r} is not NAME=VALUE or NAME:TYPE=VALUE; types are {', '.join(PARAM_TYPES)}")
    if kind == "text":
        return name, value
    found = _scalar(value)
    if not kind:
        return name, found
    wanted = PARAM_TYPES[kind]
    if kind == "float" and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if type(found) is not wanted:
        raise ValueError(f"{value!r} is no {kind}, such as {PARAM_SUCH_AS[kind]}")
    return name, found


def _scalar(value: str) -> Param:
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"[+-]?\d+", value) and len(value) < WHOLE_DIGITS:
        return int(value)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) and math.isfinite(float(value)):
        return float(value)
    return value


def parse_retry(text: str) -> tuple[str, int]:
    """Cause and number of CAUSE=N. Raises ValueError."""
    cause, _, number = text.partition("=")
    if cause not in RETRY_CAUSES or not number.isdecimal():
        raise ValueError(f"{text!r} is not CAUSE=N with a cause out of {', '.join(RETRY_CAUSES)}")
    return cause, int(number)


def retries(number: int | None, by_cause: tuple[tuple[str, int], ...]) -> RetrySpec:
    """The retry policy: `number` for what the task itself causes (exit, oom, timeout), then each named cause."""
    wanted: dict[str, Any] = {}
    if number is not None:
        wanted = dict.fromkeys(("exit", "oom", "timeout"), number)
    return RetrySpec(**(wanted | dict(by_cause)))


class Parsed(click.ParamType[T], Generic[T]):
    """An option's value read by one of the functions above."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Parsed("SIZE", parse_size)
DURATION = Parsed("DURATION", parse_duration)
PAIR = Parsed("NAME=VALUE", parse_pair)
SECRET = Parsed("[VAR=]NAME", parse_secret)
UNPACK = Parsed("PATH[=FOLDER]", parse_unpack)
FETCH = Parsed("NAME=URL#SHA256", parse_fetch)
FROM = Parsed("JOB[=FOLDER]", parse_from)
PARAM = Parsed("NAME[:TYPE]=VALUE", parse_param)
INPUT = Parsed("PATH[=NAME]", parse_input)
RETRY = Parsed("CAUSE=N", parse_retry)
