"""Tasks of a job, and what they print."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.types import ASGIApp

from events.catalog import position_text
from events.masking import unmask
from events.protocol import Progress
from events.spec import TaskText
from infra.blobs import BlobMissing
from infra.outputs import EMIT, HEADER, STDERR, STDOUT, begins_frame
from projections.rows import TaskRow, TaskState
from web import schema
from web.caller import JOBS_READ, caller_of
from web.core import Core
from web.jobs import text_in, visible
from web.output import Streams, all_bytes, follow_output, place_of
from web.params import LIMIT, CoreArg, Limit, MinPosition, at_least, problems
from web.problems import Failed, bad_field, not_found
from web.stream import BytesStream, EventStream
from web.telling import FRAMES, Events, Frames

LEASES_SHOWN_MAX = 5
_emitted_of = msgspec.json.Decoder(list[schema.Emitted]).decode
STREAMS: dict[str, Streams] = {
    "both": frozenset({STDOUT, STDERR}),
    "stdout": frozenset({STDOUT}),
    "stderr": frozenset({STDERR}),
    "emit": frozenset({EMIT}),
    "all": frozenset({STDOUT, STDERR, EMIT}),
}


def task_view(row: TaskRow, text: TaskText, told: Progress | None = None) -> schema.Task:
    """The task as the API shows it; `told`: how far it says that it has come, while it runs."""
    percent = row.detail.progress if row.detail else told.percent if told else -1
    # The start of a task that ended soon after it was told with its end alone.
    started_at = row.started_at or (row.detail.started_at if row.detail else 0)
    return schema.Task(
        row.index, row.state, row.attempt, row.lease, row.worker, row.end, row.code, unmask(row.reason, text),
        row.leased_at,
        started_at, row.ended_at, row.detail, percent, told.text if told else "",
    )  # fmt: skip


@get("/v1/jobs/{job:str}/tasks", needs=JOBS_READ, summary="List the tasks of a job", responses=problems(404))
async def list_tasks(
    core: CoreArg,
    request: Request[Any, Any, State],
    job: FromPath[str],
    in_state: Annotated[TaskState | None, QueryParameter(name="state", description="Only in this state")] = None,
    after: Annotated[int, QueryParameter(ge=-1, description="Tasks with higher numbers than this")] = -1,
    limit: Limit = LIMIT,
    min_position: MinPosition = "",
) -> schema.TasksAnswer:
    """A page of tasks."""
    await at_least(core, min_position)
    text = text_in(await visible(core, caller_of(request), job, "jobs:read"), core.keys) or TaskText()
    page = await core.reads.tasks(job, in_state or "", after, limit)
    following = int(page.next) if page.next else None
    told = await core.outputs.progress([(job, row.index, row.lease) for row in page.rows if row.state == "running"])
    tasks = [task_view(row, text, told.get((job, row.index, row.lease))) for row in page.rows]
    return schema.TasksAnswer(tasks, following, position_text(page.position))


@get(
    "/v1/jobs/{job:str}/tasks/{index:int}/output",
    needs=JOBS_READ,
    summary="What a task printed, or prints",
    description="Bytes; with `Accept: text/event-stream` live events: `attempt` when an attempt begins, one without a"
    ' name for each piece ({"stream","at","data"}, data in base64), `end` when the task has ended'
    ' ({"state","end","code","reason"}); `problem` when the stream cannot go on, with a problem document. Ids say where'
    f" to go on after a break. With `Accept: {FRAMES}` the same as frames: stream (1 stdout, 2 stderr, 3 emitted, 0 a mark,"
    " 255 JSON with event, id and data), length and time (ms) as 1, 4 and 8 bytes, big-endian, then the bytes.",
    media_type="application/octet-stream",
    responses={
        200: ResponseSpec(
            bytes, generate_examples=False, description="Bytes, or events", media_type="application/octet-stream"
        ),
        **problems(404),
    },
)
async def output(
    core: CoreArg,
    job: FromPath[str],
    index: FromPath[int],
    request: Request[Any, Any, State],
    stream: Annotated[
        Literal["both", "stdout", "stderr", "emit", "all"],
        QueryParameter(description="Which: `both` is stdout and stderr, `emit` what the task told of itself"),
    ] = "both",
    offset: Annotated[int, QueryParameter(ge=0, description="Where to begin: the Hive-Next-Offset of an answer")] = 0,
    attempt_lease: Annotated[
        int, QueryParameter(ge=0, description="Of this attempt; 0: the latest one that printed")
    ] = 0,
    follow: Annotated[bool, QueryParameter(description="Events only: wait for more until the task has ended")] = True,
    last_event_id: Annotated[str, HeaderParameter(name="Last-Event-ID")] = "",
) -> ASGIApp:
    """The output."""
    row = await visible(core, caller_of(request), job, "jobs:read")
    if index >= row.count:
        raise not_found("task", f"{job}/{index}", f"the job has {row.count} tasks, numbered from 0")
    text = text_in(row, core.keys) or TaskText()
    if attempt_lease:
        await _check_attempt(core, job, index, attempt_lease)
    lease, start = place_of(last_event_id) if last_event_id else (attempt_lease, offset)
    await _check_place(core, job, index, lease, start, "Last-Event-ID" if last_event_id else "offset")
    accept = request.headers.get("accept", "")
    if FRAMES in accept or "text/event-stream" in accept:
        telling = Frames() if FRAMES in accept else Events()
        told = follow_output(core, job, text, index, STREAMS[stream], lease, start, follow, telling)
        return EventStream(told, telling.content_type)
    return await _bytes(core, job, index, STREAMS[stream], lease, start)


async def _check_attempt(core: Core, job: str, index: int, lease: int) -> None:
    """Raise Failed unless the task printed something under this lease, or has it now."""
    printed = await core.outputs.leases(job, index)
    if lease in printed:
        return
    task = await core.reads.task(job, index)
    if task is None or task.lease != lease:
        detail = f"task {job}/{index} printed nothing under an attempt with the lease {lease}"
        remedy = (
            f"it did under {', '.join(map(str, printed[-LEASES_SHOWN_MAX:]))}" if printed else "it printed nothing yet"
        )
        raise Failed(404, "not-found", detail, field="attempt_lease", remedy=f"{remedy}; leave it out for the latest")


async def _check_place(core: Core, job: str, index: int, lease: int, offset: int, field: str) -> None:
    """Raise Failed when `offset` is in the middle of something that the task printed: all the rest would be lost."""
    if not offset:
        return
    leases = [lease] if lease else await core.outputs.leases(job, index)
    begun = [begins_frame(await core.outputs.read(job, index, one, offset, HEADER.size)) for one in leases]
    if begun and not any(begun):
        remedy = "go on from the Hive-Next-Offset or the id of an answer; it counts more than the bytes that are shown"
        raise bad_field(field, f"nothing that the task printed begins at offset {offset}", remedy, status=400)


async def _bytes(core: Core, job: str, index: int, streams: Streams, lease: int, offset: int) -> BytesStream:
    lease = lease or next(reversed(await core.outputs.leases(job, index)), 0)
    size = core.outputs.size(job, index, lease)
    headers = [(b"content-type", b"application/octet-stream"), (b"x-content-type-options", b"nosniff")]
    headers += [(b"hive-next-offset", b"%d" % max(size, offset)), (b"hive-attempt-lease", b"%d" % lease)]
    return BytesStream(all_bytes(core.outputs, (job, index, lease), streams, offset, size), 200, headers)


@get(
    "/v1/jobs/{job:str}/tasks/{index:int}/emitted",
    needs=JOBS_READ,
    summary="The structured results that a task told of",
    description='A list of {"name","json"}, in the order in which it told of them; [] when it told of none, or runs.',
    responses=problems(404),
)
async def emitted(
    core: CoreArg,
    request: Request[Any, Any, State],
    job: FromPath[str],
    index: FromPath[int],
    min_position: MinPosition = "",
) -> list[schema.Emitted]:
    """What it told of."""
    await at_least(core, min_position)
    row = await visible(core, caller_of(request), job, "jobs:read")
    task = await core.reads.task(job, index) if index < row.count else None
    if task is None:
        raise not_found("task", f"{job}/{index}", f"the job has {row.count} tasks, numbered from 0")
    if task.detail is None or not task.detail.emitted:
        return []
    try:
        return _emitted_of(await core.blobs.read(task.detail.emitted))
    except BlobMissing:
        raise not_found("result", f"{job}/{index}", "it is not kept any more") from None
    except msgspec.DecodeError:
        raise Failed(502, "bad-result", f"what task {job}/{index} told of cannot be read") from None


ROUTES = [list_tasks, output, emitted]
