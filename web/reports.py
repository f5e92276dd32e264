"""Workers' reports as they signed them. For whoever reads the whole log, and for a worker's owner: one report speaks of
tasks of many users.
"""

import base64

from litestar import get
from litestar.params import FromPath

from events.base import Digest, JobId, holds
from events.catalog import decode, pool_subject, position_text
from events.spec import DIGEST
from events.task import LeaseEvent, TasksFailed, TasksFinished, TasksLate, TasksRetried
from events.worker import WorkerReported
from projections.base import position_in
from projections.tasks import Fact
from web.caller import Caller, caller_of
from web.core import Core
from web.params import CoreArg, problems
from web.problems import AnyRequest, not_found
from web.reports_schema import ReportView, TaskReport, TaskReports

REPORTS_READ = ("events:all", "workers:own")
GONE = "the oldest reports go when the archive is full (`report_archive_bytes_max`); the process that runs the pool has them"
_ENDS = (TasksFinished, TasksFailed, TasksRetried, TasksLate)


@get(
    "/v1/reports/{digest:str}",
    needs=REPORTS_READ,
    summary="Show a worker's report as it was signed",
    responses=problems(404),
)
async def show_report(core: CoreArg, request: AnyRequest, digest: FromPath[str]) -> ReportView:
    """Who asks checks the signature; nothing here needs to be believed."""
    found = await core.reports.find(digest) if DIGEST.match(digest) else None
    if found is None or not _sees(core, caller_of(request), found.worker):
        raise not_found("report", digest, GONE)
    known = core.access.state.workers.get(found.worker)
    return ReportView(
        digest, position_text(found.position), found.pool, found.worker, found.key,
        known is not None and known.public_key == found.key,
        base64.b64encode(found.signature).decode(), base64.b64encode(found.body).decode(),
    )  # fmt: skip


@get(
    "/v1/jobs/{job:str}/tasks/{index:int}/reports",
    needs=REPORTS_READ,
    summary="List the reports that say how a task's attempts ended",
    responses=problems(404),
)
async def task_reports(core: CoreArg, request: AnyRequest, job: FromPath[str], index: FromPath[int]) -> TaskReports:
    """What to ask for by digest."""
    caller = caller_of(request)
    attempts = [one for one in await core.reads.ends(job, index) if _sees(core, caller, one.worker)]
    if not attempts:
        raise not_found("report of task", f"{job}/{index}", "it is told when an attempt has ended")
    return TaskReports([await _told(core, job, index, one) for one in attempts])


def _sees(core: Core, caller: Caller, worker: str) -> bool:
    known = core.access.state.workers.get(worker)
    return caller.may("events:all") or (known is not None and known.owner == caller.user)


async def _told(core: Core, job: JobId, index: int, attempt: Fact) -> TaskReport:
    digest: Digest = ""
    position = position_in(attempt.number)
    entry = await core.log.get(pool_subject(core.pool), position)
    if entry is not None and entry.position == position:
        # Facts follow the report that they were recorded from.
        for decision in decode(entry.data).decisions:
            said = ""
            for event in decision.events:
                if isinstance(event, WorkerReported):
                    said = event.digest if event.worker == attempt.worker else ""
                elif isinstance(event, _ENDS) and _is_about(event, job, index, attempt.lease):
                    digest = said or digest
    return TaskReport(
        attempt.attempt, attempt.lease, attempt.worker, attempt.kind, attempt.end, attempt.code,
        position_text(position), digest,
    )  # fmt: skip


def _is_about(event: LeaseEvent, job: JobId, index: int, lease: int) -> bool:
    return event.job == job and event.lease == lease and holds(event.tasks, index)


ROUTES = [show_report, task_reports]
