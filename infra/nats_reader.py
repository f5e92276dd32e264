"""Reading a stream: a raw pull consumer that is thrown away and made anew at any doubt.

The consumer acknowledges nothing and lives in the server's memory; the reader's position is the only cursor. Requests
for messages are kept ahead of need. A gap in the consumer's own numbering, silence, a lost link or a refusal all have
one cure: another consumer from the position after the last entry.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import structlog

from events.log import READ_BATCH_MAX, Entry, LogUnavailable
from infra.link import Link, LinkDown, LinkTimeout, NoResponders, Subscription
from infra.nats_client import Received

PULL_BYTES_MAX = 4 * 1024 * 1024
"""What one request may bring; above any single message, or the request could never be met."""
AHEAD_MAX = READ_BATCH_MAX * 2
"""Entries held and asked for, together."""
PULL_S = 30
HEARTBEAT_S = 1
SILENCE_S = 3.0
CREATE_S = 3.0
INACTIVE_S = 30
RETRY_S_MIN = 0.05
RETRY_S_MAX = 2.0
NANO = 1_000_000_000
IDLE_HEARTBEAT = 100
NO_MESSAGES = 404
EXPIRED = 408
CONFLICT = 409
PULL_ENDED = ("message size exceeds maxbytes", "batch completed")
"""Reasons of a 409 that end one request and leave the consumer well."""
PENDING_MESSAGES = "Nats-Pending-Messages"
ACK_TOKENS_V1 = 9
ACK_SEQUENCE_V1 = 5
ACK_SEQUENCE_V2 = 7

_log: Any = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class _Info(msgspec.Struct, frozen=True, gc=False):
    num_pending: int = 0
    error: dict[str, Any] | None = None


_info_of = msgspec.json.Decoder(_Info).decode


def ack_numbers(reply: str) -> tuple[int, int, int]:
    """The stream's sequence, the consumer's, and how many wait after this one, from a message's reply subject."""
    tokens = reply.split(".")
    at = ACK_SEQUENCE_V1 if len(tokens) == ACK_TOKENS_V1 else ACK_SEQUENCE_V2
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3])


class _Consumer:
    """One server-side consumer, from its making to the first doubt. `doubt` says what is wrong, "" while well."""

    def __init__(self, reader: "Reader") -> None:
        self._reader = reader
        self._link = reader.link
        self._name = f"hive-{secrets.token_hex(8)}"
        self._inbox = self._link.new_inbox()
        self._subscription: Subscription | None = None
        self._next_pull = f"$JS.API.CONSUMER.MSG.NEXT.{reader.stream}.{self._name}"
        self._sequence = 0
        self._asked = 0
        self._heard = 0.0
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._end_states = self._link.on_state(self._on_state)
        self.doubt = ""

    async def create(self, start: int) -> int:
        """Make it on the server, delivering from `start` on; how many messages wait."""
        self._subscription = await self._link.subscribe_raw(self._inbox, self._received)
        reader = self._reader
        config = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": reader.subject,
            "inactive_threshold": INACTIVE_S * NANO,
            "num_replicas": 1,
            "mem_storage": True,
        }
        body = _encode({"stream_name": reader.stream, "config": config, "action": "create"})
        subject = f"$JS.API.CONSUMER.CREATE.{reader.stream}.{self._name}.{reader.subject}"
        info = _info_of((await self._link.request(subject, body, CREATE_S)).data)
        if info.error:
            raise LinkTimeout(str(info.error.get("description", info.error)))
        self._heard = self._loop.time()
        self._watch = self._loop.call_later(HEARTBEAT_S, self._check)
        return info.num_pending

    def pull(self, held: int) -> None:
        """Ask for more when what is held and what was asked for leaves room."""
        while not self.doubt and held + self._asked <= AHEAD_MAX - READ_BATCH_MAX:
            self._asked += READ_BATCH_MAX
            try:
                self._link.send(self._next_pull, PULL, self._inbox)
            except LinkDown as error:
                self._doubt(str(error))

    def _received(self, message: Received) -> None:
        self._heard = self._loop.time()
        if self.doubt:
            return
        if message.status:
            self._status(message)
            return
        position, sequence, pending = ack_numbers(message.reply)
        if sequence != self._sequence + 1:
            self._doubt(f"message {sequence} came after {self._sequence}")
            return
        self._sequence = sequence
        self._asked -= 1
        self._reader.take(Entry(position, message.subject, message.data), pending)

    def _status(self, message: Received) -> None:
        if message.status == IDLE_HEARTBEAT:
            return
        headers = message.headers or {}
        why = headers.get("Description", "").lower()
        ended = message.status in (NO_MESSAGES, EXPIRED) or (message.status == CONFLICT and why in PULL_ENDED)
        unmet = headers.get(PENDING_MESSAGES, "")
        if not ended or not unmet.isdecimal():
            self._doubt(f"{message.status} {why}")
            return
        # The server serves open requests in turns; what this one did not bring is all that can be said of it.
        self._asked -= int(unmet)
        self._reader.wake()

    def _check(self) -> None:
        if self._asked > 0 and self._loop.time() - self._heard > SILENCE_S:
            self._doubt(f"nothing heard for {SILENCE_S:g} s")
        elif not self.doubt:
            self._watch = self._loop.call_later(HEARTBEAT_S, self._check)

    def _on_state(self, connected: bool) -> None:
        if not connected:
            self._doubt("the link went down")

    def _doubt(self, why: str) -> None:
        self.doubt = self.doubt or why
        self._reader.wake()

    def close(self) -> None:
        """Forget it, here and on the server."""
        self.doubt = self.doubt or "closed"
        self._end_states()
        if self._watch is not None:
            self._watch.cancel()
        if self._subscription is not None:
            self._subscription.close()
        try:
            # JetStream ignores a request that wants no answer; nobody listens on the inbox any more.
            self._link.send(f"$JS.API.CONSUMER.DELETE.{self._reader.stream}.{self._name}", b"", self._inbox)
        except LinkDown:
            return  # it ends by itself after INACTIVE_S


PULL = _encode(
    {
        "batch": READ_BATCH_MAX,
        "max_bytes": PULL_BYTES_MAX,
        "expires": PULL_S * NANO,
        "idle_heartbeat": HEARTBEAT_S * NANO,
    }
)


class Reader:
    """One `Log.read`: what it holds ahead of its caller, and the consumer that feeds it."""

    def __init__(self, link: Link, stream: str, subject: str, start: int) -> None:
        self.link = link
        self.stream = stream
        self.subject = subject
        self._next = max(start, 1)
        self._held: list[Entry] = []
        self._caught_up = False
        self._waker: asyncio.Future[None] | None = None

    def take(self, entry: Entry, pending: int) -> None:
        """Hold an entry for the caller; `pending` more wait at the server."""
        # A start beyond the end is moved back to the end by the server.
        if entry.position >= self._next:
            self._next = entry.position + 1
            self._held.append(entry)
        self._caught_up = pending == 0
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def batches(self) -> AsyncGenerator[list[Entry], None]:
        """See `Log.read`. A generator: closing it ends the consumer. Raises LogUnavailable once the link is closed."""
        failures = 0
        told = False
        while True:
            consumer = _Consumer(self)
            try:
                try:
                    await self.link.wait_connected()
                    self._caught_up = await consumer.create(self._next) == 0
                    failures = 0
                except (LinkDown, LinkTimeout, NoResponders, msgspec.DecodeError) as error:
                    if self.link.closed:
                        raise LogUnavailable(str(error)) from error
                    consumer.doubt = str(error)
                    failures += 1
                while not consumer.doubt or self._held:
                    consumer.pull(len(self._held))
                    if self._held:
                        batch, self._held = self._held[:READ_BATCH_MAX], self._held[READ_BATCH_MAX:]
                        told = False
                        yield batch
                    elif self._caught_up and not told:
                        told = True
                        yield []
                    else:
                        self._waker = asyncio.get_running_loop().create_future()
                        await self._waker
            finally:
                consumer.close()
            _log.info("log.reader_renewed", subject=self.subject, next=self._next, why=consumer.doubt)
            pause = min(RETRY_S_MAX, RETRY_S_MIN * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
