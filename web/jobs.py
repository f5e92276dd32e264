"""Jobs: submit, list, show, cancel."""

import contextlib
import re
import secrets
import time
from functools import partial
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter, RawBody

from events.base import Digest
from events.catalog import ACCOUNTS_SUBJECT, pool_subject, position_text
from events.job import Kind
from events.log import LogUnavailable
from events.masking import unmask
from events.spec import JobSpec, TaskText
from infra.sealing import KeyAway, KeyDestroyed, Keys
from projections.rows import JobRow, JobState
from services.asking import Accepted, Outcome, RefusedAnswer, Unavailable
from services.pool.commands import CancelJob, Submit
from services.reads import BadCursor, JobFilter, ReadsUnavailable
from web import schema
from web.administer import record
from web.blobs import unseen
from web.caller import JOBS_READ, Caller, caller_of
from web.core import Core
from web.costs import cost_of, costs_of
from web.inline import stored
from web.openapi import SubmitOperation
from web.params import LIMIT, CoreArg, Limit, MinPosition, at_least, problems
from web.problems import AnyRequest, Failed, bad_field, encode, failed_of, not_found
from web.refs import Place
from web.submit import BODY_BYTES_MAX, Request, blobs_of, build, check_key, parse, size_of

ASK_BYTES_MAX = 640 * 1024
"""Of the commands in one question to the pool: it must fit in a NATS message (1 MiB)."""
SCAN_PAGE = 500
SCAN_ROWS_MAX = 5000
"""How many jobs one request looks at for a name or label; the page may then be short."""
CURSOR_CHARS_MAX = 1000

FRESH_S = 2.0
_text_of = msgspec.json.Decoder(TaskText).decode
_AFTER = re.compile(r"after\[(\d+)\]\Z")
_STATUS = {"different_body": 409, "pool_full": 503, "quota": 429}

Key = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        description="Makes asking twice safe: the same key never makes two jobs, also a year later",
    ),
]


@post(
    "/v1/jobs",
    needs="jobs:own",
    summary="Submit jobs",
    description="One job, or a list of up to 1000. What is answered with 201 is on disk.",
    responses=problems(402, 409, 413, 422, 429, 507),
    operation_class=SubmitOperation,
    request_max_body_size=BODY_BYTES_MAX,
)
async def submit(core: CoreArg, request: AnyRequest, body: RawBody, idempotency_key: Key = "") -> Response[bytes]:
    """Take jobs in."""
    caller = caller_of(request)
    if core.disk().state == "full":
        raise Failed(507, "disk-full", core.disk().why(), remedy="free some space on the hive's disk")
    check_key(idempotency_key)
    specs, place = parse(body)
    costs = await costs_of(core, caller, specs, place, idempotency_key)
    specs = await stored(core, caller, specs)
    asked = build(specs, place, caller.user, idempotency_key, core.keys, core.limits_of(caller.user), costs)
    await _check_jobs(core, caller, asked, place)
    await _check_secrets(core, caller, asked, place)
    await _check_blobs(core, caller, asked, place)
    answer = await _ask(core, caller, asked, place)
    return Response(encode(answer), status_code=201, media_type="application/json")


async def _check_jobs(core: Core, caller: Caller, asked: Request, place: Place) -> None:
    """Other jobs that these wait for, or take results from, must be the caller's to see."""
    if caller.may("jobs:read"):
        return
    mine = set(asked.ids)
    for number, spec in enumerate(asked.specs):
        for at, job in enumerate(spec.after):
            if job in mine:
                continue
            row = await find(core, job)
            if row is None or not caller.sees(row.owner):
                refused = RefusedAnswer("unknown_job", f"after[{at}]", f"there is no job {job!r}")
                raise bad_field(f"{place(number)}{_field_of(refused, spec)}", refused.detail)


async def _check_secrets(core: Core, caller: Caller, asked: Request, place: Place) -> None:
    """The secrets that these name must be there, and the caller's own."""
    known, id_of = core.access.state.secrets, core.people.secrets.id_of
    for number, spec in enumerate(asked.specs):
        named = [(f"secrets[{at}].name", secret.name) for at, secret in enumerate(spec.secrets)]
        for at, secret in [*named, ("image_secret", spec.image_secret)] if spec.image_secret else named:
            name = id_of(caller.user, secret)
            if name not in known:
                # It may have been set a moment ago, at another control plane.
                await core.access.reached(await core.log.last(ACCOUNTS_SUBJECT), FRESH_S)
            if name not in known:
                remedy = "set it first: hivectl secret set NAME, or PUT /v1/secrets/{name}"
                field = f"{place(number)}{at}"
                raise bad_field(field, f"{field}: you have no secret {secret!r}", remedy)


async def _check_blobs(core: Core, caller: Caller, asked: Request, place: Place) -> None:
    named = blobs_of(asked.specs, place)
    if not named:
        return
    missing: list[Digest] = await unseen(core, caller, named)
    if missing:
        field = named[missing[0]]
        raise bad_field(field, f"{field}: there is no blob {missing[0]}", f"upload it: PUT /v1/blobs/{missing[0]}")
    for number, spec in enumerate(asked.specs):
        if spec.each:
            await core.manifests.check(f"{place(number)}each", spec.each, spec.count, partial(unseen, core, caller))
        for at, file in enumerate(spec.inputs):
            if file.form == "folder":
                await core.folders.check(f"{place(number)}inputs[{at}]", file.digest, partial(unseen, core, caller))


async def _ask(core: Core, caller: Caller, asked: Request, place: Place) -> schema.SubmitAnswer:
    """Ask the pool, in as few questions as fit in messages. Raises Failed when any job was not accepted."""
    trace = secrets.token_hex(8)
    outcomes: list[Outcome] = []
    start = position = 0
    for part in _parts(asked.commands):
        try:
            answer = await core.ask.ask([*part], caller.by, cause=caller.via, trace=trace)
        except Unavailable as error:
            if not outcomes:
                raise
            raise _not_all(asked, place, outcomes, failed_of(error)) from None
        outcomes += answer.outcomes
        position = answer.position
        start = start or position
    if any(isinstance(outcome, RefusedAnswer) for outcome in outcomes):
        raise _not_all(asked, place, outcomes, None)
    jobs = [schema.Submitted(job) for job in asked.ids]
    for number, outcome in zip(asked.order, outcomes, strict=True):
        if isinstance(outcome, Accepted) and outcome.existing:
            jobs[number] = schema.Submitted(asked.ids[number], existing=True)
    return schema.SubmitAnswer(jobs, position_text(position), position_text(start))


def _parts(commands: list[Submit]) -> list[list[Submit]]:
    parts: list[list[Submit]] = [[]]
    size = 0
    for command in commands:
        size += size_of(command)
        if size > ASK_BYTES_MAX and parts[-1]:
            parts.append([])
            size = size_of(command)
        parts[-1].append(command)
    return parts


def _not_all(asked: Request, place: Place, outcomes: list[Outcome], away: Failed | None) -> Failed:
    """The problem of a request of which not all was accepted: it says of each job what became of it."""
    jobs = [schema.JobOutcome(False, code="unknown", detail="the pool gave no answer") for _ in asked.ids]
    first: tuple[RefusedAnswer, str] | None = None
    for number, outcome in zip(asked.order, outcomes, strict=False):
        if isinstance(outcome, Accepted):
            jobs[number] = schema.JobOutcome(True, asked.ids[number], outcome.existing)
            continue
        field = f"{place(number)}{_field_of(outcome, asked.specs[number])}".rstrip(".")
        jobs[number] = schema.JobOutcome(False, code=outcome.code, field=field, detail=outcome.detail)
        first = first or (outcome, field)
    accepted = sum(job.accepted for job in jobs)
    why = f"{first[1]}: {first[0].detail}".lstrip(": ") if first else str(away)
    if len(jobs) == 1:
        detail, jobs = why, []
    elif not accepted:
        detail = f"none of the {len(jobs)} jobs was accepted; {why}"
    else:
        others = len(jobs) - accepted
        detail = f"{accepted} of {len(jobs)} jobs were accepted and will run, {others} were not (see `jobs`); {why}"
    if first is None:
        remedy = "send the same again: with the same Idempotency-Key it makes no job twice"
        return Failed(503, "unavailable", detail, remedy=remedy, headers={"Retry-After": "1"}, jobs=jobs)
    remedy = "correct the refused jobs and send only those, under another Idempotency-Key" if jobs else ""
    status = _STATUS.get(first[0].code, 422)
    field = "Idempotency-Key" if first[0].code == "different_body" else first[1]
    return Failed(status, first[0].code.replace("_", "-"), detail, field=field, remedy=remedy, jobs=jobs)


def _field_of(refused: RefusedAnswer, spec: JobSpec) -> str:
    """The field as its user wrote it: a job whose results are an input stands in `after` too, put there by us."""
    if found := _AFTER.match(refused.field):
        job = spec.after[int(found[1])]
        for at, file in enumerate(spec.inputs):
            if file.job == job:
                return f"inputs[{at}].job"
    return refused.field


def text_in(row: JobRow, keys: Keys) -> TaskText | None:
    """What the job's user typed; None when it was erased. Raises KeyAway."""
    try:
        return _text_of(keys.open(row.text))
    except KeyDestroyed:
        return None


def job_view(row: JobRow, keys: Keys, full: bool, cost: schema.JobCost | None = None) -> schema.Job:
    """The job as the API shows it, its text opened. Raises KeyAway, but not for one of many."""
    try:
        opened = text_in(row, keys)
    except KeyAway:
        if full:
            raise
        opened = TaskText()
    text, erased = opened or TaskText(), opened is None
    shown = text if full else TaskText()
    return schema.Job(
        row.job, row.state, unmask(row.reason, text), row.kind, row.count, row.queued, row.leased, row.running, row.succeeded,
        row.failed, row.cancelled, text.name, text.labels, text.command, text.image, row.priority,
        row.cpus_milli / 1000, row.memory_bytes, row.after, row.owner, row.submitted_at, row.finished_at,
        position_text(row.position), shown.env, shown.cwd,
        shown.inputs, shown.each, shown.results, erased, shown.secrets, shown.params,
        shown.commands,
        shown.entry, shown.pull, shown.network, shown.hosts, shown.disk, shown.pids, shown.swap,
        shown.gpus, shown.gpu_memory, shown.gpu_model, cost, shown.stop_signal, shown.grace,
    )  # fmt: skip


@get("/v1/jobs", needs=JOBS_READ, summary="List jobs, newest first", responses=problems())
async def list_jobs(
    core: CoreArg,
    request: AnyRequest,
    states: Annotated[list[JobState] | None, QueryParameter(name="state", description="In any of these states")] = None,
    kind: FromQuery[Kind | None] = None,
    name: Annotated[str, QueryParameter(description="With this name; `train*`: names that begin so")] = "",
    label: Annotated[
        list[str] | None, QueryParameter(description="With all of these labels: `key=value` or `key`")
    ] = None,
    owner: Annotated[str, QueryParameter(description="Of this user; who may not read others' jobs gets its own")] = "",
    cursor: Annotated[str, QueryParameter(max_length=CURSOR_CHARS_MAX, description="The `next` of a page")] = "",
    limit: Limit = LIMIT,
    min_position: MinPosition = "",
) -> schema.JobsAnswer:
    """A page of jobs."""
    await at_least(core, min_position)
    position = position_text(core.reads.position)
    caller = caller_of(request)
    wanted = JobFilter(tuple(states or ()), kind or "", owner if caller.may("jobs:read") else caller.user)
    try:
        if not name and not label:
            page = await core.reads.jobs(wanted, cursor, limit)
            return schema.JobsAnswer(
                [job_view(row, core.keys, False) for row in page.rows], page.next or None, position
            )
        return await _scan(core, wanted, name, label or [], cursor, limit, position)
    except BadCursor as error:
        raise bad_field("cursor", str(error), status=400) from None


async def _scan(
    core: Core, wanted: JobFilter, name: str, labels: list[str], cursor: str, limit: int, position: str
) -> schema.JobsAnswer:
    """Names and labels are sealed, so the jobs are opened one after the other, a bounded number of them."""
    found: list[schema.Job] = []
    for _ in range(SCAN_ROWS_MAX // SCAN_PAGE):
        page = await core.reads.jobs(wanted, cursor, SCAN_PAGE)
        for at, row in enumerate(page.rows):
            job = job_view(row, core.keys, False)
            if not _matches(job, name, labels):
                continue
            found.append(job)
            if len(found) == limit:
                more = at + 1 < len(page.rows) or page.next
                return schema.JobsAnswer(found, str(row.number) if more else None, position)
        cursor = page.next
        if not cursor:
            break
    return schema.JobsAnswer(found, cursor or None, position)


def _matches(job: schema.Job, name: str, labels: list[str]) -> bool:
    if name and not (job.name.startswith(name[:-1]) if name.endswith("*") else job.name == name):
        return False
    for label in labels:
        key, equals, value = label.partition("=")
        if key not in job.labels or (equals and job.labels[key] != value):
            return False
    return True


@get("/v1/jobs/{job:str}", needs=JOBS_READ, summary="Show a job", responses=problems(404))
async def show_job(
    core: CoreArg, request: AnyRequest, job: FromPath[str], min_position: MinPosition = ""
) -> schema.Job:
    """One job, with everything its user asked for."""
    await at_least(core, min_position)
    row = await visible(core, caller_of(request), job, "jobs:read")
    return job_view(row, core.keys, True, await cost_of(core, row, time.time_ns() // 1_000_000))


async def find(core: Core, job: str) -> JobRow | None:
    """The job; None not before the board has folded all there is in the log by now."""
    row = await core.reads.job(job)
    if row is None:
        with contextlib.suppress(LogUnavailable):
            await core.reads.reached(await core.log.last(pool_subject(core.pool)), FRESH_S)
            row = await core.reads.job(job)
    return row


async def visible(core: Core, caller: Caller, job: str, *scopes: str) -> JobRow:
    """The job. Raises Failed when there is none, or `caller` may not know of it: its own, or with one of `scopes`."""
    row = await find(core, job)
    if row is None or not caller.sees(row.owner, *scopes):
        raise not_found(
            "job", job, "list the jobs with GET /v1/jobs; after a submit, give its position as min_position"
        )
    return row


@post(
    "/v1/jobs/{job:str}/cancel",
    needs=("jobs:own", "jobs:all"),
    status_code=200,
    summary="Cancel a job",
    description="Queued tasks end now, running ones are told to stop.",
    responses=problems(404, 409),
)
async def cancel(core: CoreArg, request: AnyRequest, job: FromPath[str]) -> schema.Done:
    """End a job."""
    caller = caller_of(request)
    owner = "" if caller.may("jobs:all") else (await visible(core, caller, job)).owner
    if not owner:
        with contextlib.suppress(ReadsUnavailable):  # an open job is known without the tables
            owner = row.owner if (row := await core.reads.job(job)) is not None else ""
    trace = secrets.token_hex(8)
    answer = await core.ask.ask([CancelJob(job)], caller.by, cause=caller.via, trace=trace)
    shown = done(answer.outcomes[0], answer.position, "job", job)
    if owner not in ("", caller.user) and not shown.existing:
        await record(core, caller, "job.cancel", job)
    return shown


def done(outcome: Outcome, position: int, what: str, name: str) -> schema.Done:
    """The answer to a single command. Raises Failed when it was refused."""
    if isinstance(outcome, RefusedAnswer):
        if outcome.code.startswith("unknown"):
            raise not_found(what, name, f"list them with GET /v1/{what}s")
        raise Failed(409, outcome.code.replace("_", "-"), outcome.detail, field=outcome.field)
    return schema.Done(outcome.existing, position_text(position))


ROUTES = [submit, list_jobs, show_job, cancel]
