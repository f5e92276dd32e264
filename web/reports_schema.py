"""What goes out of the routes of workers' signed reports."""

import msgspec

from events.base import Digest, WorkerId


class ReportView(msgspec.Struct, frozen=True, gc=False):
    """A report as its worker sent it (`body`, msgpack, in base64) with its ed25519 `signature` (base64) by `key` over
    `hive.report.1 <pool> <worker> <digest>`. `position`: where its facts are in the log. `is_its_key`: whether the worker has this
    key now.
    """

    digest: Digest
    position: str
    pool: str
    worker: WorkerId
    key: str
    is_its_key: bool
    signature: str
    body: str


class TaskReport(msgspec.Struct, frozen=True, gc=False):
    """The report that one attempt's end, or what came too late, was recorded from. `digest` "": it was signed by nobody, as
    when a worker was lost, or of a version before signed reports.
    """

    attempt: int
    lease: int
    worker: WorkerId
    kind: str
    end: str
    code: int
    position: str
    digest: Digest


class TaskReports(msgspec.Struct, frozen=True, gc=False):
    """Of one task, in the order of the log."""

    reports: list[TaskReport]
