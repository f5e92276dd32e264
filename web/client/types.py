"""What the client gives its callers, beside the API's own types (`web.schema`)."""

from typing import Literal, TypeAlias

import msgspec

from events.base import JobId
from events.job import JobEnd


class Job(msgspec.Struct, frozen=True, gc=False):
    """A job that was handed in. `existing`: it had been before, under the same idempotency key; `position`: where in
    the log it is known; `start`: what happens to a new one happens after this position.
    """

    job: JobId
    existing: bool = False
    position: str = ""
    start: str = ""

    def __str__(self) -> str:
        return self.job


class JobResult(msgspec.Struct, frozen=True, gc=False):
    """How a job ended, and how many of its tasks ended how."""

    job: JobId
    state: JobEnd
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ok(self) -> bool:
        """Whether every task succeeded."""
        return self.state == "succeeded"


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some bytes that a task printed, and when (ms since 1970). `mark` is said by the platform, not by the task; `emit` is
    a line of JSON that the task told of itself.
    """

    stream: Literal["stdout", "stderr", "mark", "emit"]
    data: bytes
    at: int = 0


AnyJob: TypeAlias = Job | JobId


def id_of(job: AnyJob) -> JobId:
    """The id of a job, however it is named."""
    return job if isinstance(job, str) else job.job
