"""Which events somebody may see who may not see all: about its own jobs and their tasks, its own workers, its money,
itself and its own keys. What nothing here knows any more, such as a job that ended long ago, is not shown; ask for it by `job`.
"""

from collections import OrderedDict
from typing import Any

from events.base import JobId, UserId
from events.job import JobSubmitted
from events.ledger import job_of, user_account
from projections.ledger import postings_of
from web.core import Core

JOBS_KEPT_MAX = 10_000


class Mine:
    """Of one stream of one user."""

    def __init__(self, core: Core, user: UserId) -> None:
        self._core, self._user = core, user
        self._jobs: OrderedDict[JobId, bool] = OrderedDict()

    def takes(self, event: Any) -> bool:
        """Whether the user may see it."""
        if isinstance(event, JobSubmitted):
            self._keep(event.job, event.owner == self._user)
        job, worker = getattr(event, "job", ""), getattr(event, "worker", "")
        if (job and self._is_my_job(job)) or (worker and self._is_my_worker(worker)):
            return True
        if self._is_my_money(event):
            return True
        state, key = self._core.access.state, getattr(event, "key", "")
        return getattr(event, "user", "") == self._user or (key in state.keys and state.keys[key].user == self._user)

    def _is_my_money(self, event: Any) -> bool:
        """Whether it moves the user's money, or holds it."""
        account = user_account(self._user)
        if any(account in (posting.debit, posting.credit) for posting in postings_of(event)):
            return True
        hold = getattr(event, "hold", "")
        return bool(hold) and self._is_my_job(job_of(hold)[1])

    def _is_my_job(self, job: JobId) -> bool:
        known = self._jobs.get(job)
        if known is None:
            row = self._core.reads.live_job(job)
            known = self._keep(job, row is not None and row.owner == self._user)
        return known

    def _keep(self, job: JobId, mine: bool) -> bool:
        self._jobs[job] = mine
        if len(self._jobs) > JOBS_KEPT_MAX:
            self._jobs.popitem(last=False)
        return mine

    def _is_my_worker(self, worker: str) -> bool:
        known = self._core.access.state.workers.get(worker)
        return known is not None and known.owner == self._user
