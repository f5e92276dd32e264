"""What a job may be asked with, as keyword arguments, and how they become a JobSpec."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from events.base import Digest
from events.inputs import Param
from events.job import Kind
from events.limits import Network, Pull
from events.spec import Each, Input, JobSpec, RetrySpec, SecretUse, StopSignal
from projections.rows import JobState
from web import schema
from web.client import codec
from web.client.http import Query
from web.client.types import AnyJob, Job, id_of

Command: TypeAlias = str | Sequence[str]
"""Words, or one text that is split as a shell would split it; no shell runs it."""
Source: TypeAlias = Path | bytes | Digest | Job
"""What an input is made of: a file or folder, bytes, a blob that is there, or all results of a job."""
Item: TypeAlias = str | int | float | Sequence[str] | Each
"""What one task of `map` has of its own: one argument after the command's, several, or an Each."""
Stream: TypeAlias = Literal["both", "stdout", "stderr", "emit", "all"]


class Fields(TypedDict, total=False):
    """See `events.spec.JobSpec`. `after` takes jobs or ids, `inputs` also a mapping from paths to what lies there."""

    kind: Kind
    image: str
    count: int
    name: str
    labels: dict[str, str]
    env: dict[str, str]
    cwd: str
    priority: int
    cpus: float
    memory: int
    gpus: float
    gpu_memory: int
    gpu_model: str
    time_limit: float
    lost_after: float
    retries: RetrySpec
    after: Sequence[AnyJob]
    inputs: Sequence[Input] | Mapping[str, Source]
    each: Digest
    results: list[str]
    params: Mapping[str, Param]
    ref: str
    secrets: Sequence[SecretUse]
    commands: list[str]
    entry: str
    pull: Pull
    image_secret: str
    network: Network
    hosts: list[str]
    disk: int
    pids: int
    swap: int
    max_cpt: float
    stop_signal: StopSignal
    grace: float


class JobsWanted(TypedDict, total=False):
    """Which jobs a page lists: those in one of these states, of a kind, with a name (`*` at its end: any that begins so),
    with all these labels (value "": any). `cursor`: the `next` of the page before; `limit`: rows, 100 unless told, 1000
    at most.
    """

    state: Sequence[JobState] | JobState
    kind: Kind | str
    name: str
    labels: Mapping[str, str] | None
    cursor: str
    limit: int


class EventsWanted(TypedDict, total=False):
    """Which events a stream has: from the position `start` or the moment `since` on (ms since 1970, or such as `15m`), of
    these types, about this job or entity; as they happen unless `follow` is False.
    """

    start: str
    since: int | str
    types: Sequence[str]
    job: str
    entity: str
    follow: bool


def jobs_query(
    *,
    state: Sequence[JobState] | JobState = (),
    kind: Kind | str = "",
    name: str = "",
    labels: Mapping[str, str] | None = None,
    cursor: str = "",
    limit: int = schema.LIMIT_DEFAULT,
) -> Query:
    """JobsWanted as the API takes it."""
    states = [state] if isinstance(state, str) else state
    query: Query = [("state", one) for one in states]
    query += [("label", f"{key}={value}") for key, value in (labels or {}).items()]
    query += [(key, value) for key, value in (("kind", kind), ("name", name), ("cursor", cursor)) if value]
    return [*query, ("limit", str(limit))]


def events_query(
    *,
    start: str = "",
    since: int | str = 0,
    types: Sequence[str] = (),
    job: str = "",
    entity: str = "",
    follow: bool = True,
) -> Query:
    """EventsWanted as the API takes it."""
    query: Query = [("type", name) for name in types]
    known = (("from", start), ("since", str(since or "")), ("job", job), ("entity", entity))
    query += [(key, value) for key, value in known if value]
    return [*query, ("follow", codec.flag(follow))]


def spec_of(command: Command, fields: Fields, inputs: list[Input] | None) -> JobSpec:
    """The spec; `inputs` are those of the fields when they were a mapping."""
    more: dict[str, Any] = {**fields}
    if "after" in more:
        more["after"] = [id_of(job) for job in more["after"]]
    if inputs is not None:
        more["inputs"] = inputs
    if "params" in more:
        more["params"] = dict(more["params"])
    return JobSpec(shlex.split(command) if isinstance(command, str) else [*command], **more)


def each_of(item: Item) -> Each:
    """What a task has of its own."""
    if isinstance(item, Each):
        return item
    return Each([str(item)] if isinstance(item, (str, int, float)) else [str(word) for word in item])
