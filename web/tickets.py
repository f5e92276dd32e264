"""What a worker's ticket opens: the blobs it names, those that the manifest it names lists, results of jobs, and the
secrets of its own job."""

import re
import time
from collections import OrderedDict

import msgspec

from events.base import Digest, JobId
from events.catalog import pool_subject
from events.spec import TaskText
from infra.sealing import KeyDestroyed
from infra.tickets import PUT, SECRETS, BadTicket, Ticket
from web.core import Core
from web.problems import Failed, unauthorized
from web.results import results_page

RESULTS_KEPT_MAX = 200_000
"""How many digests of jobs' results are remembered: about 30 MB."""
RESULTS_PAGE = 1000
REACHED_S = 5.0

_BLOB = re.compile(r"/v1/blobs/([^/]+)\Z")
_RESULTS = re.compile(r"/v1/jobs/([^/]+)/results\Z")
_SECRETS = re.compile(r"/v1/jobs/([^/]+)/secrets\Z")
_text_of = msgspec.json.Decoder(TaskText).decode


class TicketDoor:
    """Checks tickets."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._results: OrderedDict[JobId, set[bytes]] = OrderedDict()
        self._kept = 0
        self._each: OrderedDict[JobId, Digest] = OrderedDict()

    async def check(self, method: str, path: str, text: str) -> Ticket:
        """The ticket. Raises Failed unless it allows the request."""
        try:
            ticket = self._core.tickets.check(text, time.time_ns() // 1_000_000)
        except BadTicket as error:
            raise unauthorized(str(error)) from None
        if blob := _BLOB.match(path):
            await self._check_blob(method, blob[1], ticket)
            return ticket
        if (
            (wanted := _SECRETS.match(path))
            and method == "POST"
            and wanted[1] == ticket.job
            and SECRETS in ticket.roots
        ):
            return ticket
        found = _RESULTS.match(path)
        if found is None or method != "GET" or found[1] not in ticket.results_of():
            raise _closed(f"this ticket does not open {method} {path[:100]}")
        return ticket

    async def _check_blob(self, method: str, digest: Digest, ticket: Ticket) -> None:
        if method == "PUT" and PUT in ticket.roots:
            return
        if method in ("GET", "HEAD") and (ticket.opens(digest) or await self._reaches(digest, ticket)):
            return
        raise _closed(f"this ticket does not open {method} of the blob {digest[:80]}")

    async def _reaches(self, digest: Digest, ticket: Ticket) -> bool:
        for folder in ticket.folders():
            if await self._core.folders.holds(folder, digest):
                return True
        for job in ticket.results_of():
            if await self._is_result(job, digest):
                return True
        each = await self._each_of(ticket.job)
        return bool(each) and ticket.opens(each) and await self._core.manifests.names(each, digest)

    async def _each_of(self, job: JobId) -> Digest:
        """The manifest of the ticket's job, "" when it has none."""
        if (each := self._each.get(job)) is not None:
            return each
        if self._core.reads.live_job(job) is None:
            # The worker can be quicker than our reading of the log.
            await self._core.reads.reached(await self._core.log.last(pool_subject(self._core.pool)), REACHED_S)
        row = await self._core.reads.job(job)
        if row is None:
            return ""
        try:
            each = _text_of(self._core.keys.open(row.text)).each
        except KeyDestroyed:
            each = ""
        self._each[job] = each
        if len(self._each) > RESULTS_PAGE:
            self._each.popitem(last=False)
        return each

    async def _is_result(self, job: JobId, digest: Digest) -> bool:
        try:
            wanted = bytes.fromhex(digest)
        except ValueError:
            return False
        known = self._results.get(job)
        if known is not None and wanted in known:
            self._results.move_to_end(job)
            return True
        cursor = ""
        while True:
            page = await results_page(self._core, job, TaskText(), cursor, RESULTS_PAGE)
            self._keep(job, {bytes.fromhex(file.digest) for file in page.results})
            if any(file.digest == digest for file in page.results):
                return True
            if not (cursor := page.next or ""):
                return False

    def _keep(self, job: JobId, digests: set[bytes]) -> None:
        known = self._results.setdefault(job, set())
        self._results.move_to_end(job)
        before = len(known)
        known |= digests
        self._kept += len(known) - before
        while self._kept > RESULTS_KEPT_MAX and len(self._results) > 1:
            self._kept -= len(self._results.popitem(last=False)[1])
        if self._kept > RESULTS_KEPT_MAX:
            self._results.clear()
            self._kept = 0


def _closed(detail: str) -> Failed:
    return Failed(403, "forbidden", detail, remedy="a ticket opens the blobs of its own job; use an API key")
