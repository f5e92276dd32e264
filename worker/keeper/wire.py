"""What an agent and its keeper say to each other over a socket of this machine: lists of messages as msgpack, each list
behind its length in four bytes. An agent may meet a keeper of another version, so fields are only added, with defaults,
and what is not understood is not said: `PROTOCOL` is raised when a message gets a new meaning.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from events.protocol import Run
from events.task import AttemptEnd
from worker.executors.base import Box

PROTOCOL = 1
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""Of one list of messages: a Welcome tells of every attempt with its order."""
_LENGTH = struct.Struct(">I")


class Attach(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="attach"):
    """An agent takes over: its session, and the subject that output goes to. An agent before it is not heard any more."""

    protocol: int
    worker: str
    session: str
    subject: str


class Launch(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="launch"):
    """Start this task. `number` != 0: answer Began or Refused; else only a task that cannot be started is told of, Ended."""

    order: Run
    index: int
    folder: str
    args: list[str]
    env: dict[str, str]
    number: int = 0
    box: Box | None = None


class Kill(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="kill"):
    """End this attempt with all that it started; `grace_ms` after the signal it is killed (0: at once)."""

    lease: int
    index: int
    end: AttemptEnd
    reason: str
    grace_ms: int = 0


class Write(msgspec.Struct, frozen=True, gc=False, tag="write"):
    """This belongs to what the attempt prints, which is still being prepared."""

    order: Run
    index: int
    stream: int
    data: bytes


class Fail(msgspec.Struct, frozen=True, gc=False, tag="fail"):
    """This attempt ended before it was launched, as if it had exited with `code`."""

    order: Run
    index: int
    folder: str
    code: int
    reason: str


class Drop(msgspec.Struct, frozen=True, gc=False, tag="drop"):
    """Nobody wants what this attempt prints."""

    lease: int
    index: int


class Forget(msgspec.Struct, frozen=True, gc=False, tag="forget"):
    """The ends of these attempts (lease, index) are safe with the agent: they need not be told of again."""

    attempts: list[tuple[int, int]]


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="answer"):
    """What the platform answered to an Ask; `failed`: that nothing came."""

    number: int
    data: bytes = b""
    failed: bool = False


class Leave(msgspec.Struct, frozen=True, gc=False, tag="leave"):
    """End everything and go: this worker stops."""


Order: TypeAlias = Attach | Launch | Kill | Write | Fail | Drop | Forget | Answer | Leave


class Ended(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="ended"):
    """Nothing of this attempt runs any more (see executors.base.Ran). `output`: it printed something; Settled follows."""

    lease: int
    index: int
    end: AttemptEnd
    code: int = 0
    reason: str = ""
    started_at: int = 0
    wall_ms: int = 0
    cpu_ms: int = 0
    memory_peak: int = 0
    output: bool = False
    memory_avg: int = 0


class Settled(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="settled"):
    """What an ended attempt printed is safe: its digest and size; or nobody wants it, or it is `lost`, and why."""

    lease: int
    index: int
    digest: str = ""
    size: int = 0
    lost: str = ""


class Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="kept"):
    """An attempt that runs, or whose end was not forgotten: it was launched `age_ms` ago, and is in this folder."""

    order: Run
    index: int
    folder: str
    age_ms: int
    ended: Ended | None = None
    settled: Settled | None = None
    container: str = ""


class Welcome(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="welcome"):
    """The keeper is this agent's from now on, and has these."""

    protocol: int
    version: str
    pid: int
    kept: list[Kept] = []


class Refusal(msgspec.Struct, frozen=True, gc=False, tag="refusal"):
    """The keeper is not for this agent: why."""

    reason: str


class Began(msgspec.Struct, frozen=True, gc=False, tag="began"):
    """The launch with this number runs, in this container, if it is one."""

    number: int
    container: str = ""


class Refused(msgspec.Struct, frozen=True, gc=False, tag="refused"):
    """The launch with this number could not be started as it was asked for."""

    number: int
    reason: str


class Ask(msgspec.Struct, frozen=True, gc=False, tag="ask"):
    """Request this of the platform on the subject for output, and Answer within `timeout_ms`."""

    number: int
    data: bytes
    timeout_ms: int


Word: TypeAlias = Welcome | Refusal | Began | Refused | Ended | Settled | Ask

_encoder = msgspec.msgpack.Encoder()
orders_of = msgspec.msgpack.Decoder(list[Order]).decode
words_of = msgspec.msgpack.Decoder(list[Word]).decode


class BadFrame(Exception):
    """The other side says what cannot be."""


def frame(messages: Sequence[Order | Word]) -> bytes:
    """These messages as they go over the socket."""
    data = _encoder.encode(messages)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The whole frames after `data`. Raises BadFrame."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > FRAME_BYTES_MAX:
                raise BadFrame(f"a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(buffer[at + _LENGTH.size : end])
            at = end
        del buffer[:at]
