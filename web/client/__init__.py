"""The Python client: `Hive` for ordinary programs, `AsyncHive` for asyncio."""

from events.spec import Each, Input, JobSpec, RetrySpec
from web.client.async_client import AsyncHive
from web.client.errors import Broken, HiveError, JobFailed, NotFound, Refused, Unauthorized, Unavailable, Untrusted
from web.client.sync_client import Hive
from web.client.types import Job, JobResult, Piece

__all__ = [
    "AsyncHive",
    "Broken",
    "Each",
    "Hive",
    "HiveError",
    "Input",
    "Job",
    "JobFailed",
    "JobResult",
    "JobSpec",
    "NotFound",
    "Piece",
    "Refused",
    "RetrySpec",
    "Unauthorized",
    "Unavailable",
    "Untrusted",
]
