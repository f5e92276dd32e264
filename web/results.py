"""The files that a job's tasks left: those of folders and patterns one by one, as if each had been declared."""

from typing import Annotated

from litestar import get
from litestar.params import FromPath, QueryParameter

from events.base import JobId
from events.catalog import position_text
from events.inputs import BadSpec
from events.spec import TaskText
from infra.blobs import BlobMismatch, BlobMissing
from projections.rows import ResultRow
from services.reads import BadCursor, after_of
from web import schema
from web.caller import JOBS_READ, caller_of
from web.core import Core
from web.jobs import CURSOR_CHARS_MAX, text_in, visible
from web.params import LIMIT, CoreArg, Limit, MinPosition, at_least, problems
from web.problems import AnyRequest, bad_field


async def results_page(core: Core, job: JobId, text: TaskText, cursor: str, limit: int) -> schema.ResultsAnswer:
    """A page of results by task, declared result and path, under the names in `text`. Raises BadCursor."""
    place, skip = _place_of(cursor)
    found: list[schema.Result] = []
    position, following = 0, ""
    while len(found) < limit:
        page = await core.reads.results(job, place, limit - len(found))
        position = page.position
        for row in page.rows:
            files = await _files(core, row, text)
            room = limit - len(found)
            found += files[skip : skip + room]
            if skip + room < len(files):
                return schema.ResultsAnswer(found, f"{row.index}/{row.n}/{skip + room}", position_text(position))
            skip, place = 0, (row.index, row.n)
        following = page.next
        if not following:
            break
    return schema.ResultsAnswer(found, following or None, position_text(position))


def _place_of(cursor: str) -> tuple[tuple[int, int] | None, int]:
    """After which result, and after how many files of the next, a page begins. Raises BadCursor."""
    if cursor.count("/") != 2:
        return after_of(cursor), 0
    row, _, skip = cursor.rpartition("/")
    place = after_of(row)
    if place is None or not skip.isdecimal() or len(skip) > 9:
        raise BadCursor(f"{cursor!r} is not a cursor; use the `next` that a page gave")
    return (place[0], place[1] - 1), int(skip)


async def _files(core: Core, row: ResultRow, text: TaskText) -> list[schema.Result]:
    name = text.results[row.n] if row.n < len(text.results) else f"result-{row.n}"
    if row.files >= 0:
        try:
            files = (await core.folders.load(row.digest)).files
        except (BadSpec, BlobMissing, BlobMismatch):
            pass  # expired: what is known of it is its name
        else:
            return [
                schema.Result(row.index, file.path, file.digest, file.size, core.blobs.size(file.digest) is None)
                for file in files
                if file.digest
            ]
    return [schema.Result(row.index, name, row.digest, row.size, core.blobs.size(row.digest) is None)]


@get(
    "/v1/jobs/{job:str}/results",
    needs=JOBS_READ,
    summary="List the files that a job left",
    responses=problems(404),
)
async def list_results(
    core: CoreArg,
    request: AnyRequest,
    job: FromPath[str],
    after: Annotated[str, QueryParameter(max_length=CURSOR_CHARS_MAX, description="The `next` of a page")] = "",
    limit: Limit = LIMIT,
    min_position: MinPosition = "",
) -> schema.ResultsAnswer:
    """A page of results."""
    await at_least(core, min_position)
    caller = caller_of(request)
    row = await visible(core, caller, job, "jobs:read")
    try:
        answer = await results_page(core, job, text_in(row, core.keys) or TaskText(), after, limit)
    except BadCursor as error:
        raise bad_field("after", str(error), status=400) from None
    if not caller.ticket and not caller.may("jobs:read"):
        await core.references.add(caller.user, [file.digest for file in answer.results])
    return answer


ROUTES = [list_results]
