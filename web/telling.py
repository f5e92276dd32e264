"""The two ways in which output is told as it comes: server-sent events, for browsers and people, and frames, for programs.

Frames are those of `infra.outputs`, bytes as they are: events need them in base64, which costs a reader ten times as much.
Between them are frames of stream CONTROL, whose bytes are JSON: `event` and `data` as server-sent events have them ("": a
ping, or only a place), and `id`, the place up to where all was told. What follows the last place is told again after a
break.
"""

import base64
from typing import Any, Literal, Protocol

import msgspec

from infra.outputs import HEADER
from web.schema import Printed
from web.stream import EVENTS, PING, message

CONTROL = 255
FRAMES = "application/vnd.hive.frames"

Found = list[tuple[int, int, bytes, int]]
"""Frames as `infra.outputs.frames` gives them."""
NAMES: dict[int, Literal["stdout", "stderr", "mark", "emit"]] = {0: "mark", 1: "stdout", 2: "stderr", 3: "emit"}

_encode = msgspec.json.Encoder().encode


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is between the frames."""

    event: str = ""
    id: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class Telling(Protocol):
    """A way to tell it."""

    content_type: str

    def ping(self) -> bytes:
        """Nothing, to be heard."""
        ...

    def event(self, name: str, data: Any, place: str) -> bytes:
        """Something that happened, at this place."""
        ...

    def printed(self, found: Found, lease: int) -> bytes:
        """These frames."""
        ...


class Events:
    """As server-sent events."""

    content_type = EVENTS

    def ping(self) -> bytes:
        return PING

    def event(self, name: str, data: Any, place: str) -> bytes:
        return message(_encode(data), place, name)

    def printed(self, found: Found, lease: int) -> bytes:
        return b"".join(
            message(
                _encode(Printed(NAMES.get(stream, "mark"), at, base64.b64encode(payload).decode())), f"{lease}-{after}"
            )
            for stream, at, payload, after in found
        )


class Frames:
    """As frames."""

    content_type = FRAMES

    def ping(self) -> bytes:
        return self._control(Control())

    def event(self, name: str, data: Any, place: str) -> bytes:
        return self._control(Control(name, place, msgspec.Raw(_encode(data))))

    def printed(self, found: Found, lease: int) -> bytes:
        if not found:
            return b""
        parts: list[bytes] = []
        for stream, at, payload, _ in found:
            parts += (HEADER.pack(stream, len(payload), at), payload)
        parts.append(self._control(Control(id=f"{lease}-{found[-1][3]}")))
        return b"".join(parts)

    @staticmethod
    def _control(control: Control) -> bytes:
        data = _encode(control)
        return HEADER.pack(CONTROL, len(data), 0) + data
