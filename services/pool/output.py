"""Takes in what running tasks print: pieces by offset, on disk in batches before the answer says how much is safe."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable

import structlog

from events import protocol
from events.base import JobId, WorkerId
from events.protocol import Denied, Output, Piece, Progress, Stored
from infra.outputs import Outputs

WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
WAITING_EACH_MAX = 4
"""Messages of one worker; an agent has one on its way, and sends it again when its answer is late."""
NOT_WANTED = -1
PROGRESS_MAX = 10_000
"""Attempts whose progress waits to be written down; more is left out."""

_log = structlog.get_logger()


class OutputDesk:
    """Stores pieces of current attempts; says that the others' are not wanted once that is certain.

    What arrives while too much waits already, of all or of this worker, is dropped unanswered: the worker keeps it and
    sends it again.
    """

    def __init__(
        self,
        outputs: Outputs,
        say: Callable[[WorkerId, str, Output, Stored | Denied], None],
        is_current: Callable[[WorkerId, Piece | Progress], bool],
        may_return: Callable[[WorkerId, Piece], bool],
        when_certain: Callable[[Callable[[], None]], None],
    ) -> None:
        self._outputs, self._say, self._is_current, self._when_certain = outputs, say, is_current, when_certain
        self._may_return = may_return
        self._progress: dict[tuple[JobId, int], Progress] = {}
        self._waiting: deque[tuple[WorkerId, str, Output]] = deque()
        self._of: Counter[WorkerId] = Counter()
        self._bytes = 0
        self._wake = asyncio.Event()

    def take(self, worker: WorkerId, reply: str, output: Output) -> None:
        """Queue a worker's pieces."""
        size = sum(len(piece.data) for piece in output.pieces)
        if self._bytes + size > WAITING_BYTES_MAX or self._of[worker] >= WAITING_EACH_MAX:
            return
        if len(output.pieces) > protocol.OUTPUT_PIECES_MAX:
            detail = f"{len(output.pieces)} pieces at once; the limit is {protocol.OUTPUT_PIECES_MAX}"
            self._say(worker, reply, output, Denied("malformed", detail))
            return
        self._note(worker, output.progress)
        self._bytes += size
        self._of[worker] += 1
        self._waiting.append((worker, reply, output))
        self._wake.set()

    def _note(self, worker: WorkerId, told: list[Progress]) -> None:
        """Keep how far attempts have come, the latest of each; it goes to disk with what they printed."""
        for one in told[: protocol.OUTPUT_PIECES_MAX]:
            if self._is_current(worker, one) and len(self._progress) < PROGRESS_MAX:
                percent = min(max(one.percent, -1), 100)
                text = one.text[: protocol.PROGRESS_TEXT_CHARS_MAX]
                self._progress[one.job, one.index] = Progress(one.lease, one.job, one.index, percent, text)

    async def run(self) -> None:
        """Store what waits, one batch after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._progress:
                told, self._progress = list(self._progress.values()), {}
                await self._outputs.note(told)
            while self._waiting:
                await self._store(self._next())

    def _next(self) -> list[tuple[WorkerId, str, Output]]:
        batch: list[tuple[WorkerId, str, Output]] = []
        size = 0
        while self._waiting and size < BATCH_BYTES_MAX:
            entry = self._waiting.popleft()
            size += sum(len(piece.data) for piece in entry[2].pieces)
            self._of[entry[0]] -= 1
            if not self._of[entry[0]]:
                del self._of[entry[0]]
            batch.append(entry)
        self._bytes -= size
        return batch

    async def _store(self, batch: list[tuple[WorkerId, str, Output]]) -> None:
        wanted = [[self._is_current(worker, piece) for piece in output.pieces] for worker, _, output in batch]
        pieces = [
            piece
            for (_, _, output), flags in zip(batch, wanted, strict=True)
            for piece, flag in zip(output.pieces, flags, strict=True)
            if flag
        ]
        try:
            safe = iter(await self._outputs.append_many(pieces) if pieces else [])
        except OSError as error:
            _log.error("output.not_stored", why=str(error), pieces=len(pieces))
            return
        for (worker, reply, output), flags in zip(batch, wanted, strict=True):
            offsets = [next(safe) if flag else NOT_WANTED for flag in flags]
            if all(flags):
                self._say(worker, reply, output, Stored(offsets))
            else:
                self._when_certain(lambda w=worker, r=reply, o=output, s=offsets: self._refuse(w, r, o, s))

    def _refuse(self, worker: WorkerId, reply: str, output: Output, offsets: list[int]) -> None:
        """Answer with what is not wanted, unless it turned out to be wanted after all, or may be once the worker has said
        hello: then it is to be sent again.
        """
        unwanted = [piece for piece, offset in zip(output.pieces, offsets, strict=True) if offset == NOT_WANTED]
        if not any(self._is_current(worker, piece) or self._may_return(worker, piece) for piece in unwanted):
            self._say(worker, reply, output, Stored(offsets))
