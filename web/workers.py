"""Workers: who there is, taking in a new one, draining, letting go; and the hive at a glance."""

import secrets

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from events.catalog import position_text
from projections.rows import WorkerRow
from services.pool.commands import DrainWorker
from web import schema
from web.core import BY
from web.jobs import done
from web.params import CoreArg, MinPosition, at_least, problems
from web.problems import bad_field, not_found, unavailable


def worker_view(row: WorkerRow) -> schema.WorkerView:
    """The worker as the API shows it."""
    capacity = row.capacity
    return schema.WorkerView(
        row.worker, row.state, row.drained, capacity.cpus_milli / 1000, capacity.memory_bytes, list(capacity.kinds),
        row.version, row.leased, row.finished, row.failed, row.since,
    )  # fmt: skip


@get("/v1/workers", summary="List workers", responses=problems())
async def list_workers(core: CoreArg, min_position: MinPosition = "") -> schema.WorkersAnswer:
    """Every worker."""
    await at_least(core, min_position)
    return schema.WorkersAnswer([worker_view(row) for row in core.reads.workers()], position_text(core.reads.position))


@get("/v1/workers/{worker:str}", summary="Show a worker", responses=problems(404))
async def show_worker(core: CoreArg, worker: FromPath[str], min_position: MinPosition = "") -> schema.WorkerView:
    """One worker."""
    await at_least(core, min_position)
    row = core.reads.worker(worker)
    if row is None:
        raise not_found("worker", worker, "list them with GET /v1/workers; an enrolled one shows once it has connected")
    return worker_view(row)


@post(
    "/v1/workers",
    summary="Take a worker in",
    description="The machine makes its own NATS key and sends the public half. Asking twice is safe.",
    responses=problems(409, 422),
)
async def enrol(core: CoreArg, data: JSONBody[schema.EnrolBody]) -> schema.EnrolAnswer:
    """Let a machine connect."""
    try:
        enrolled = await core.enrol(data.name, data.public_key)
    except ValueError as error:
        raise bad_field("public_key", str(error)) from None
    return schema.EnrolAnswer(enrolled.worker, enrolled.pool, enrolled.nats_url)


@post("/v1/workers/{worker:str}/drain", status_code=200, summary="Drain a worker", responses=problems(404, 409))
async def drain(core: CoreArg, worker: FromPath[str], data: JSONBody[schema.DrainBody | None] = None) -> schema.Done:
    """Give it nothing new, or work again."""
    trace = secrets.token_hex(8)
    command = DrainWorker(worker, data.on if data else True)
    answer = await core.ask.ask([command], BY, cause=f"http:{trace}", trace=trace)
    return done(answer.outcomes[0], answer.position, "worker", worker)


@delete("/v1/workers/{worker:str}", summary="Let a worker go", responses=problems(404, 409))
async def forget(core: CoreArg, worker: FromPath[str]) -> None:
    """Its key opens nothing any more, and it is disconnected; what it ran is given to others."""
    if not await core.forget(worker):
        raise not_found("worker", worker, "list them with GET /v1/workers")


@get("/v1/status", summary="The hive at a glance", responses=problems())
async def status(core: CoreArg, min_position: MinPosition = "") -> schema.Status:
    """Counts, position, and what is the matter."""
    await at_least(core, min_position)
    totals, state = core.reads.totals(), core.projector.status()
    return schema.Status(
        core.pool, core.version, position_text(state.position), totals.jobs, totals.tasks, totals.workers,
        state.behind, state.database, core.disk().why() or "ok",
    )  # fmt: skip


@get("/ready", summary="Whether requests are served in full", responses=problems())
async def ready(core: CoreArg) -> schema.Health:
    """503 while the log is still being read."""
    if not core.projector.caught_up:
        raise unavailable(f"the log is still being read, up to position {position_text(core.reads.position)} so far")
    return schema.Health()


@get("/health", summary="Whether the process answers; needs no key")
async def health() -> schema.Health:
    """Always, while it runs."""
    return schema.Health()


ROUTES = [list_workers, show_worker, enrol, drain, forget, status, ready, health]
