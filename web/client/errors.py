"""What can go wrong, as one tree: HiveError > Refused (> NotFound), Unauthorized, Unavailable, Untrusted, Broken,
JobFailed.
"""

import msgspec

from web.client.types import JobResult
from web.schema import JobOutcome, Problem

_problem_of = msgspec.json.Decoder(Problem).decode


class HiveError(Exception):
    """The base of all. `field`, `detail` and `remedy` are what the hive said; `status` is that of the answer, or 0;
    `jobs`: what became of each job of a submission that was not accepted as a whole.
    """

    def __init__(
        self,
        detail: str,
        *,
        field: str = "",
        remedy: str = "",
        status: int = 0,
        code: str = "",
        trace: str = "",
        jobs: list[JobOutcome] | None = None,
    ) -> None:
        super().__init__(f"{detail}; {remedy}" if remedy else detail)
        self.detail, self.field, self.remedy = detail, field, remedy
        self.status, self.code, self.trace = status, code, trace
        self.jobs = jobs or []


class Refused(HiveError):
    """The request cannot be done as it is; asking again would be refused again."""


class NotFound(Refused):
    """There is no such thing."""


class Unauthorized(HiveError):
    """The key is missing, wrong, or does not open this."""


class Unavailable(HiveError):
    """No hive answers there, or a part of it is away, for longer than the client tried."""


class Untrusted(HiveError):
    """Who answers there cannot prove to be the hive that was meant. Nothing was sent to it."""


class Broken(HiveError):
    """A mistake of the hive, or an answer that is none of a hive; `trace` names the entry in the hive's log."""


class JobFailed(HiveError):
    """A job did not succeed. `result` says how it ended."""

    def __init__(self, result: JobResult) -> None:
        ended = f"{result.succeeded} succeeded, {result.failed} failed, {result.cancelled} cancelled"
        super().__init__(f"job {result.job} {result.state}: {ended}", remedy="see its tasks and their output")
        self.result = result


def of_answer(status: int, body: bytes) -> HiveError:
    """The error in an answer with a status of 400 or more."""
    try:
        problem = _problem_of(body)
    except msgspec.DecodeError:
        text = body[:200].decode(errors="replace").strip()
        return _kind(status, "")(f"the answer was {status}: {text}", status=status, remedy="is this the URL of a hive?")
    return of_problem(problem)


def of_problem(problem: Problem) -> HiveError:
    """The error that a problem document means."""
    code = problem.type.rpartition(":")[2]
    return _kind(problem.status, code)(
        problem.detail,
        field=problem.field,
        remedy=problem.remedy,
        status=problem.status,
        code=code,
        trace=problem.trace,
        jobs=problem.jobs,
    )


def _kind(status: int, code: str) -> type[HiveError]:
    if status in (401, 403):
        return Unauthorized
    if status == 404:
        return NotFound
    # Of a quota the remedy is the user's: to wait for jobs that may take days is not for the client to decide.
    if status in (429, 502, 503, 504) and code != "quota":
        return Unavailable
    return Refused if status < 500 or status == 507 else Broken
