"""The log on JetStream: one stream, guarded appends, reads from any position.

Appending is one request that ends in a definite answer or in Unsettled. An unsettled append may still happen: its bytes
may lie in a socket, or in the server, after we stopped waiting. That is why a writer settles it by sending the same
bytes with the same guard until the answer is definite: of the two, the guard lets one in. A Conflict can therefore
be the echo of our own earlier try; the message after the guard says so by its id.

JetStream's direct get may answer from a replica that lags, so `last` and `get` ask the stream's leader.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import structlog

from events.log import Conflict, Entry, LogUnavailable, Unsettled
from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from infra.nats_reader import Reader

EVENTS_STREAM = "EVENTS"
APPEND_S = 2.0
GET_S = 2.0
WRONG_LAST_SEQUENCE = 10071
IN_FLIGHT = 10164
"""Three replicas: another append to the subject is in flight, so this one was not let in."""
NO_MESSAGE = 10037
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_STREAM = "Nats-Expected-Stream"

_log: Any = structlog.get_logger()


class _Error(msgspec.Struct, frozen=True, gc=False):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct, frozen=True, gc=False):
    seq: int = 0
    error: _Error | None = None


class _Stored(msgspec.Struct, frozen=True, gc=False):
    subject: str
    seq: int
    data: bytes = b""


class _Got(msgspec.Struct, frozen=True, gc=False):
    message: _Stored | None = None
    error: _Error | None = None


_ack_of = msgspec.json.Decoder(_Ack).decode
_got_of = msgspec.json.Decoder(_Got).decode
_encode = msgspec.json.Encoder().encode


class JetStreamLog:
    """`events.log.Log` over a link whose user is in the account that holds the stream."""

    def __init__(self, link: Link, stream: str = EVENTS_STREAM) -> None:
        self._link = link
        self._stream = stream

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        """See `Log.append`. Takes 2 s at most. Conflict: nothing was appended by this call."""
        headers = {EXPECTED: str(expected), EXPECTED_STREAM: self._stream}
        try:
            reply = await self._link.request(subject, data, APPEND_S, headers)
            ack = _ack_of(reply.data)
        except (LinkDown, LinkTimeout, NoResponders) as error:
            raise Unsettled(f"{subject} after {expected}: {error}") from error
        except msgspec.DecodeError as error:
            raise Unsettled(f"{subject} after {expected}: not an answer of JetStream: {error}") from error
        if ack.error is None and ack.seq > 0:
            return ack.seq
        problem = ack.error or _Error()
        if problem.err_code in (WRONG_LAST_SEQUENCE, IN_FLIGHT):
            raise Conflict(f"{subject}: not at {expected} ({problem.description})")
        # A full disk, a stream that is gone: definite today, but trying again is safe and may succeed.
        _log.error("log.append_refused", subject=subject, error=problem.description, code=problem.err_code)
        raise Unsettled(f"{subject} after {expected}: {self._stream} refused: {problem.description}")

    def read(self, subject: str, start: int) -> AsyncGenerator[list[Entry], None]:
        """See `Log.read`. At most about a thousand entries are held ahead of the caller."""
        return Reader(self._link, self._stream, subject, start).batches()

    async def last(self, subject: str) -> int:
        """See `Log.last`."""
        entry = await self._get({"last_by_subj": subject})
        return entry.position if entry else 0

    async def get(self, subject: str, start: int) -> Entry | None:
        """See `Log.get`."""
        return await self._get({"seq": max(start, 1), "next_by_subj": subject})

    async def _get(self, query: dict[str, Any]) -> Entry | None:
        try:
            reply = await self._link.request(f"$JS.API.STREAM.MSG.GET.{self._stream}", _encode(query), GET_S)
            got = _got_of(reply.data)
        except (LinkDown, LinkTimeout, NoResponders, msgspec.DecodeError) as error:
            raise LogUnavailable(f"{self._stream} does not answer: {error}") from error
        if got.message is not None:
            return Entry(got.message.seq, got.message.subject, got.message.data)
        if got.error is not None and got.error.err_code == NO_MESSAGE:
            return None
        raise LogUnavailable(f"{self._stream}: {got.error.description if got.error else 'an empty answer'}")
