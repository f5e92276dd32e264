"""Following what a task prints: from an offset, through its attempts, until it has ended and all of it was sent.

Whether it has ended is for the tables to say. While they are away the board must do: it knows that a task runs, and
that all have ended, but not more of one task out of many. What it does not know is waited for, and then given up.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from time import monotonic
from typing import TypeAlias

from events.base import JobId
from events.masking import unmask
from events.spec import TaskText
from infra.outputs import EMIT, READ_BYTES_MAX, STDERR, STDOUT, Outputs, frames
from projections.board_state import Guess
from projections.rows import ENDED_STATES, JobRow, TaskRow
from services.reads import ReadsUnavailable
from web.core import Core
from web.problems import bad_field, unavailable
from web.schema import Began, Ended, Problem
from web.stream import PING_S
from web.telling import Found, Telling

READ_BYTES = 1024 * 1024
LOOK_S = 0.1
"""How long what the tables say of a task is believed, however often its job changes."""
AWAY_S = 1.0
"""Pause before the tables are asked again when they could not answer."""
ANSWER_S_MAX = 6.0
"""How long the output waits for the tables to answer: longer than they may lag, yet some that hang do not hold it up."""
AWAY_S_MAX = 10.0
"""How long a follower waits for tables that are away when the board does not know how its task is."""
MISSING_S = 5.0
"""How long output that a report promised is waited for."""
MOVED_S = 0.02

Streams: TypeAlias = frozenset[int]
Attempt: TypeAlias = tuple[JobId, int, int]
_PLACE = re.compile(r"(\d{1,18})-(\d{1,18})\Z")


def place_of(text: str) -> tuple[int, int]:
    """Lease and offset in the id of a message. Raises Failed."""
    found = _PLACE.match(text)
    if found is None:
        raise bad_field("Last-Event-ID", f"{text[:40]!r} is no id of this stream", "leave it out to begin", status=400)
    return int(found[1]), int(found[2])


async def read_frames(
    outputs: Outputs, attempt: Attempt, offset: int
) -> AsyncIterator[list[tuple[int, int, bytes, int]]]:
    """The complete frames from `offset` on, some at a time, as `outputs.frames` gives them."""
    limit = READ_BYTES
    while data := await outputs.read(*attempt, offset, limit):
        if found := list(frames(data, offset)):
            yield found
            offset, limit = found[-1][3], READ_BYTES
        elif len(data) < limit or limit >= READ_BYTES_MAX:
            return
        else:
            limit = min(limit * 4, READ_BYTES_MAX)


async def all_bytes(
    outputs: Outputs, attempt: Attempt, streams: Streams, offset: int, end: int
) -> AsyncGenerator[bytes]:
    """What was printed, from `offset` to `end`."""
    async for found in read_frames(outputs, attempt, offset):
        yield b"".join(payload for stream, _, payload, after in found if stream in streams and after <= end)
        if found[-1][3] >= end:
            return


class _Follow:
    """One follower's place: the attempt, the offset in its output, and what the tables said of the task last."""

    def __init__(self, core: Core, job: JobId, text: TaskText, index: int, lease: int, offset: int) -> None:
        self.core, self.job, self.text, self.index = core, job, text, index
        self.lease, self.offset = lease, offset
        self.task: TaskRow | None = None
        self._looked, self._seen = 0.0, -1
        self.promised_at = 0.0
        self._away = ""
        """Why the tables cannot say how the task is; "" when they can."""
        self._guess: Guess = "unknown"
        """What the board says of it meanwhile."""
        self._printed = 0
        self._known_at = monotonic()
        self._asking: asyncio.Future[TaskRow | None] | None = None
        self._asked_of = 0

    def close(self) -> None:
        """Forget a question to the tables that is not answered yet."""
        if self._asking is not None:
            self._asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
            self._asking.cancel()

    async def look(self) -> None:
        """Ask the tables about the task, when its job changed since and they were not asked just now."""
        row = self.core.reads.live_job(self.job)
        if self._away:
            await self._ask_board(row)
        moved = self._away or row is None or row.position != self._seen
        if self._asking is None:
            if (self.task is not None and not moved) or monotonic() - self._looked < (AWAY_S if self._away else LOOK_S):
                return
            self._looked, self._asked_of = monotonic(), row.position if row else 0
            self._asking = asyncio.ensure_future(self.core.reads.task(self.job, self.index))
            await asyncio.wait([self._asking], timeout=ANSWER_S_MAX)
        if not self._asking.done():
            await self._without_tables(row, "the database does not answer")
            return
        asking, self._asking = self._asking, None
        try:
            self.task = asking.result()
            self._seen, self._away = self._asked_of, ""
        except ReadsUnavailable as error:
            await self._without_tables(row, str(error))

    async def _without_tables(self, row: JobRow | None, why: str) -> None:
        if not self._away:
            self._known_at = monotonic()
        self._away = why
        await self._ask_board(row)

    async def _ask_board(self, row: JobRow | None) -> None:
        """See what is certain without the tables: how the task is, and which attempts printed something."""
        self._guess = self.core.reads.live_task(self.job, self.index)
        self._printed = max(await self.core.outputs.leases(self.job, self.index), default=0)
        if row:
            self._seen = row.position
        if self._guess != "unknown" or self._printed > self.lease:
            self._known_at = monotonic()

    def here(self) -> str:
        """Its place, as ids say it."""
        return f"{self.lease}-{self.offset}"

    def given_up(self) -> bool:
        """Whether it was not known for too long how the task is."""
        return bool(self._away) and monotonic() - self._known_at > AWAY_S_MAX

    def problem(self) -> Problem:
        """Why that is."""
        detail = f"whether task {self.index} has ended cannot be told: {self._away}"
        return unavailable(detail, "ask again when the database is back; what was printed so far is complete").problem

    def latest(self) -> int:
        """The lease of the latest attempt, 0 when there was none."""
        return self.task.lease if self.task else 0

    def attempt_over(self) -> bool:
        """Whether nothing more will be printed in this attempt."""
        task = self.task
        if self._away and not (task and task.lease == self.lease and task.end):
            return self._printed > self.lease or self._guess not in ("running", "unknown")
        if task is None:
            return False
        if task.lease == self.lease and not task.end and task.state not in ENDED_STATES:
            return False
        promised = task.detail.out_size if task.detail and task.lease == self.lease else 0
        if self.core.outputs.size(self.job, self.index, self.lease) >= promised:
            return True
        self.promised_at = self.promised_at or monotonic()
        return monotonic() - self.promised_at > MISSING_S

    def end(self) -> Ended | None:
        """How the task ended, None while it has not."""
        task = self.task
        if task is not None and task.state in ENDED_STATES and task.lease == self.lease:
            return Ended(task.state, task.end, task.code, unmask(task.reason, self.text))
        if self._away and self._guess not in ("running", "unknown"):
            row = self.core.reads.live_job(self.job)
            reason = row.reason if row and row.count == 1 else ""
            return Ended(self._guess, "", 0, unmask(reason, self.text))
        return None

    async def wait(self) -> None:
        """Until there is more output, the job changed, or it is time to look or to ping."""
        row = self.core.reads.live_job(self.job)
        stale = bool(self.promised_at) or row is None or row.position != self._seen
        timeout = LOOK_S if stale else AWAY_S if self._away else PING_S
        waits: list[asyncio.Future[None]] = []
        if self.lease and not self.core.outputs.ended(self.job, self.index, self.lease):
            waits.append(asyncio.ensure_future(self._grown(timeout)))
        else:
            waits.append(asyncio.ensure_future(asyncio.sleep(timeout)))
        if not stale:
            waits.append(asyncio.ensure_future(self._moved()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _grown(self, timeout_s: float) -> None:
        await self.core.outputs.wait_grown(self.job, self.index, self.lease, self.offset, timeout_s)

    async def _moved(self) -> None:
        """Until the job's position is another one; looked at now and then, since the log moves far more often."""
        while (row := self.core.reads.live_job(self.job)) is not None and row.position == self._seen:
            await self.core.projector.ring.wait()
            await asyncio.sleep(MOVED_S)


async def follow_output(
    core: Core,
    job: JobId,
    text: TaskText,
    index: int,
    streams: Streams,
    lease: int,
    offset: int,
    follow: bool,
    telling: Telling,
) -> AsyncGenerator[bytes]:
    """What the task prints, as it comes."""
    with contextlib.closing(_Follow(core, job, text, index, lease, offset)) as place:
        spoke = monotonic()
        announced = False
        yield telling.ping()
        while True:
            await place.look()
            if not place.lease:
                leases = await core.outputs.leases(job, index)
                place.lease = (leases[0] if follow else leases[-1]) if leases else place.latest()
            if place.lease and not announced:
                announced = True
                yield telling.event("attempt", _began(place), place.here())
            over = place.attempt_over()
            async for found in read_frames(core.outputs, (job, index, place.lease), place.offset):
                place.offset = found[-1][3]
                if told := telling.printed(_wanted(found, streams), place.lease):
                    spoke = monotonic()
                    yield told
            if not follow:
                return
            if over:
                leases = await core.outputs.leases(job, index)
                following = [number for number in (*leases, place.latest()) if number > place.lease]
                if following:
                    place.lease, place.offset, place.promised_at, announced = min(following), 0, 0.0, False
                    continue
                if ended := place.end():
                    yield telling.event("end", ended, place.here())
                    return
            if place.given_up():
                yield telling.event("problem", place.problem(), place.here())
                return
            await place.wait()
            if monotonic() - spoke >= PING_S:
                spoke = monotonic()
                yield telling.ping()


def _began(place: _Follow) -> Began:
    task = place.task
    known = task is not None and task.lease == place.lease
    return Began(place.lease, task.attempt, task.worker) if known and task else Began(place.lease, 0, "")


def _wanted(found: Found, streams: Streams) -> Found:
    """The frames of these streams, and marks."""
    return [one for one in found if (one[0] in streams or one[0] not in (STDOUT, STDERR, EMIT)) and one[2]]
