"""Looks at every message the moment it is in the log, and at what everyone was told: nothing may be said that is not so.

Each accepted message must extend the fold of its predecessor: the books, the model and the board take it, agree, and
keep every invariant.
"""

from events import catalog
from events.base import expand
from events.catalog import LEDGER_SUBJECT, Message, pool_subject
from events.job import JobSubmitted
from events.log import MemoryLog
from events.task import TasksFinished
from events.worker import WorkerRegistered, WorkerReported
from projections.board import BOARD
from services.pool import model
from services.pool.state import Pool
from tests.pool_ledger import Ledger
from tests.pool_support import normal
from tests.simulation.money import Accounts


class AuditedLog(MemoryLog):
    """The one log, with its auditor."""

    def __init__(self, auditor: "Auditor") -> None:
        super().__init__()
        self._auditor = auditor

    async def append(self, subject: str, data: bytes, expected: int) -> int:
        position = await super().append(subject, data, expected)
        self._auditor.take(subject, catalog.decode(data), position)
        return position


class Auditor:
    """Its own folds of the log, and what was promised to whom."""

    def __init__(self) -> None:
        self.ledger, self.state, self.board = Ledger(), Pool("p"), BOARD.initial()
        self.log, self.money, self._subject = AuditedLog(self), Accounts(), pool_subject("p")
        self.recorded: dict[tuple[str, str, int], int] = {}
        self.ran: dict[tuple[str, int, int], tuple[str, int]] = {}
        self.wrong: list[str] = []
        self.outputs: dict[tuple[str, int, int], bytes] = {}
        self.refused: set[str] = set()
        self._sessions: dict[str, str] = {}
        self._submitted: dict[str, int] = {}

    def take(self, subject: str, message: Message, position: int) -> None:
        """Check a message that was appended. A finding is kept: the writer that appended must not be the one to see it."""
        try:
            if subject == LEDGER_SUBJECT:
                self.money.take(message)
            if subject != self._subject:
                BOARD.apply(self.board, message, position)
                return
            self.state.cursors.update(message.marks())
            self.ledger.take(message)
            for event in message.events():
                model.evolve(self.state, event, message.at)
                if isinstance(event, WorkerRegistered):
                    self._sessions[event.worker] = event.session
                elif isinstance(event, WorkerReported):
                    self.recorded[event.worker, self._sessions[event.worker], event.sequence] = position
                elif isinstance(event, JobSubmitted):
                    self._submitted[event.job] = position
                    self.money.submitted(event)
                elif isinstance(event, TasksFinished):
                    self._really_ran(event)
            BOARD.apply(self.board, message, position)
            model.check(self.state)
            self._agree()
        except (AssertionError, KeyError) as error:
            self.wrong.append(f"message {position}: {type(error).__name__}: {error}: {message}")

    def _really_ran(self, event: TasksFinished) -> None:
        for index in expand(event.tasks):
            how = self.ran.get((event.job, index, event.lease))
            assert how == ("exit", 0), f"{event} but it ended {how}"

    def _agree(self) -> None:
        """The board's counts are the model's."""
        assert self.board.open.keys() == self.state.jobs.keys()
        for name, job in self.state.jobs.items():
            shown = self.board.open[name]
            assert shown.leased + shown.running == len(job.active), name
            assert shown.running == len(job.running), name
            assert (shown.succeeded, shown.failed, shown.cancelled) == (job.succeeded, job.failed, job.dropped), name
        assert not self.board.strays

    # What others were told

    def told_recorded(self, worker: str, session: str, sequence: int, position: int) -> None:
        """A worker was told to forget this report."""
        where = self.recorded.get((worker, session, sequence))
        if where is None or where > position:
            self.wrong.append(f"{worker} was told to forget report {sequence} of {session}: it is at {where}")

    def told_accepted(self, job: str, position: int) -> None:
        """A user was told that this job is taken in."""
        where = self._submitted.get(job)
        if where is None or where > position:
            self.wrong.append(f"{job} was acknowledged at {position}: it is at {where}")

    def told_refused(self, job: str) -> None:
        """A user was told that this job is not taken in."""
        self.refused.add(job)
        if job in self._submitted:
            self.wrong.append(f"{job} was refused: it is at {self._submitted[job]}")

    def told_stored(self, job: str, index: int, lease: int, data: bytes) -> None:
        """A worker was told that so much of an attempt's output is safe."""
        if not self.outputs.get((job, index, lease), b"").startswith(data):
            self.wrong.append(f"output of {job}/{index} under {lease}: {len(data)} bytes are not stored")

    def open_jobs(self) -> list[str]:
        """Jobs that have not ended."""
        return list(self.state.jobs)

    def refold(self) -> None:
        """Everything folded again from the first message is what was folded as it came."""
        state, board = Pool("p"), BOARD.initial()
        for entry in self.log.entries:
            message = catalog.decode(entry.data)
            if entry.subject == self._subject:
                model.fold(state, message)
            BOARD.apply(board, message, entry.position)
        assert normal(state) == normal(self.state)
        assert board == self.board

    def check(self) -> None:
        """Raise AssertionError for the first thing that was wrong."""
        assert not self.wrong, self.wrong[0]
