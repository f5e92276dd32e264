"""Workers: who there is, taking in a new one, draining, letting go; and the hive at a glance."""

import contextlib
import secrets
import time

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody

from events.base import WorkerId
from events.catalog import position_text
from infra.nkey import BadKey
from infra.sealing import KeyAway, KeyDestroyed, SealBroken
from projections.access import Identity
from projections.levels import level_of
from projections.rows import WorkerRow
from services.accounts.commands import BanWorker, Enrol, ForgetWorker, RenameWorker
from services.pool.commands import ConfigureWorker, DrainWorker
from web import schema
from web.administer import administer, record
from web.caller import ANYBODY, NOBODY, WORKERS_CHANGE, Caller, caller_of, forbidden
from web.core import Core
from web.jobs import done
from web.params import CoreArg, MinPosition, at_least, problems
from web.problems import AnyRequest, bad_field, not_found, unavailable
from web.usage_schema import InventoryView, UsageAnswer, UsageView, gpu_view, inventory_view, points, usage_view

NAMES_ALL = ("workers:all", "users:read")
"""Who is shown the names of others' workers: what their owners typed."""
CONTESTED_SHOWN_MS = 60 * 60_000
CONTESTED = (
    "lately another machine came with this worker's key, and was refused; if its folder was copied, `hivectl worker rekey` "
    "on the machine that is to stay makes the copy useless, and `hivectl worker ban` shuts out both"
)

_labels_of = msgspec.json.Decoder(dict[str, str]).decode


def worker_view(core: Core, caller: Caller, worker: WorkerId, row: WorkerRow | None) -> schema.WorkerView:
    """The worker as the API shows it; `row` None: it never connected."""
    known = core.access.state.workers.get(worker)
    name, owner, since = "", known.owner if known else "", known.since if known else 0
    shown = caller.sees(owner, *NAMES_ALL)
    if known is not None and known.name is not None and shown:
        with contextlib.suppress(KeyAway, KeyDestroyed, SealBroken):
            name = core.keys.open(known.name).decode("utf-8", "replace")
    labels: dict[str, str] = {}
    if known is not None and known.labels is not None and shown:
        with contextlib.suppress(KeyAway, KeyDestroyed, SealBroken, msgspec.DecodeError):
            labels = _labels_of(core.keys.open(known.labels))
    banned = known is not None and known.banned
    if row is None:
        return schema.WorkerView(
            worker, "enrolled", False, 0, 0, [], "", 0, 0, 0, since, name, owner, banned, labels=labels
        )
    capacity = row.capacity
    return schema.WorkerView(
        row.worker, row.state, row.drained, capacity.cpus_milli / 1000, capacity.memory_bytes, list(capacity.kinds),
        row.version, row.leased, row.finished, row.failed, row.since, name, owner, banned,
        CONTESTED if shown and time.time_ns() // 1_000_000 - row.contested_at < CONTESTED_SHOWN_MS else "",
        list(capacity.features),
        list(map(gpu_view, capacity.gpus)), *(_heard(core, worker) if shown else (None, None)), labels,
        level_of(standing.credited_us).name if (standing := core.money.view.rewards.standings.get(worker)) else "",
    )  # fmt: skip


def _heard(core: Core, worker: WorkerId) -> tuple[UsageView | None, InventoryView | None]:
    """What the machine said of itself lately."""
    heard = core.beats.of(worker)
    if heard is None:
        return None, None
    return usage_view(heard.beats[-1]), inventory_view(heard.inventory) if heard.inventory else None


@get("/v1/workers", needs="workers:read", summary="List workers", responses=problems())
async def list_workers(core: CoreArg, request: AnyRequest, min_position: MinPosition = "") -> schema.WorkersAnswer:
    """Every worker."""
    await at_least(core, min_position)
    rows = {row.worker: row for row in core.reads.workers()}
    names = sorted({*rows, *core.access.state.workers})
    views = [worker_view(core, caller_of(request), name, rows.get(name)) for name in names]
    return schema.WorkersAnswer(views, position_text(core.reads.position))


@get("/v1/workers/{worker:str}", needs="workers:read", summary="Show a worker", responses=problems(404))
async def show_worker(
    core: CoreArg, request: AnyRequest, worker: FromPath[str], min_position: MinPosition = ""
) -> schema.WorkerView:
    """One worker."""
    await at_least(core, min_position)
    row = core.reads.worker(worker)
    if row is None and worker not in core.access.state.workers:
        raise not_found("worker", worker, "list them with GET /v1/workers")
    return worker_view(core, caller_of(request), worker, row)


@get(
    "/v1/workers/{worker:str}/usage",
    needs="workers:read",
    summary="What a machine used lately",
    description="For its owner, and who looks after workers.",
    responses=problems(404),
)
async def usage(core: CoreArg, request: AnyRequest, worker: FromPath[str]) -> UsageAnswer:
    """The last ten minutes."""
    known = core.access.state.workers.get(worker)
    if not caller_of(request).sees(known.owner if known else "", *NAMES_ALL):
        raise not_found("worker", worker, "list them with GET /v1/workers; only who owns one may see what it uses")
    if known is None and core.reads.worker(worker) is None:
        raise not_found("worker", worker, "list them with GET /v1/workers")
    return UsageAnswer(worker, points(core.beats.of(worker)))


@post(
    "/v1/workers",
    needs=WORKERS_CHANGE,
    summary="Take a worker in",
    description="The machine makes its own NATS key and sends the public half. Asking twice is safe.",
    responses=problems(409, 422),
)
async def enrol(core: CoreArg, request: AnyRequest, data: JSONBody[schema.EnrolBody]) -> schema.EnrolAnswer:
    """Let a machine of the caller's connect."""
    caller = caller_of(request)
    try:
        worker = core.worker_id(data.public_key)
    except BadKey as error:
        raise bad_field("public_key", str(error)) from None
    url = core.workers_url()
    name = core.keys.seal(caller.user, data.name.encode()) if data.name else None
    command = Enrol(worker, data.public_key, core.pool, owner=caller.user, name=name)
    await administer(core, caller, command, "worker.enrol", worker)
    return schema.EnrolAnswer(worker, core.pool, url, core.network.nats_ca)


@post(
    "/v1/workers/{worker:str}/drain",
    needs=WORKERS_CHANGE,
    status_code=200,
    summary="Drain a worker",
    responses=problems(404, 409),
)
async def drain(
    core: CoreArg, request: AnyRequest, worker: FromPath[str], data: JSONBody[schema.DrainBody | None] = None
) -> schema.Done:
    """Give it nothing new, or work again."""
    caller, on = caller_of(request), data.on if data else True
    own(core, caller, worker)
    trace = secrets.token_hex(8)
    command = DrainWorker(worker, on, trace)
    answer = await core.ask.ask([command], caller.by, cause=caller.via, trace=trace)
    shown = done(answer.outcomes[0], answer.position, "worker", worker)
    if not shown.existing:
        await record(core, caller, "worker.drain" if on else "worker.undrain", worker)
    return shown


@post(
    "/v1/workers/{worker:str}/configure",
    needs=WORKERS_CHANGE,
    status_code=200,
    summary="Configure a worker",
    responses=problems(404, 409, 422),
)
async def configure(
    core: CoreArg, request: AnyRequest, worker: FromPath[str], data: JSONBody[schema.ConfigureBody]
) -> schema.Done:
    """Have it measure its machine more often, or less."""
    caller, trace = caller_of(request), secrets.token_hex(8)
    own(core, caller, worker)
    command = ConfigureWorker(worker, round(data.heartbeat * 1000), trace)
    answer = await core.ask.ask([command], caller.by, cause=caller.via, trace=trace)
    shown = done(answer.outcomes[0], answer.position, "worker", worker)
    if not shown.existing:
        await record(core, caller, "worker.configure", worker)
    return shown


def own(core: Core, caller: Caller, worker: WorkerId) -> Identity | None:
    """The worker, None when it is known to the pool alone. Raises Failed unless the caller looks after it."""
    known = core.access.state.workers.get(worker)
    if not caller.may("workers:all") and (known is None or known.owner != caller.user):
        raise not_found("worker", worker, "list them with GET /v1/workers; only who owns one may change it")
    return known


@delete("/v1/workers/{worker:str}", needs=WORKERS_CHANGE, summary="Let a worker go", responses=problems(404, 409))
async def forget(core: CoreArg, request: AnyRequest, worker: FromPath[str]) -> None:
    """Its key opens nothing any more, and it is disconnected; what it ran is given to others."""
    await _shut_out(core, caller_of(request), worker, ForgetWorker(worker), "worker.forget")


@post(
    "/v1/workers/{worker:str}/ban",
    needs=WORKERS_CHANGE,
    status_code=200,
    summary="Ban a worker",
    description="As letting it go; besides, its key can never be enrolled again.",
    responses=problems(404, 409),
)
async def ban(core: CoreArg, request: AnyRequest, worker: FromPath[str]) -> schema.Done:
    """Shut it out for good."""
    caller = caller_of(request)
    reason = "operator" if caller.may("workers:all") else "owner"
    return await _shut_out(core, caller, worker, BanWorker(worker, reason), "worker.ban")


async def _shut_out(
    core: Core, caller: Caller, worker: WorkerId, command: ForgetWorker | BanWorker, action: str
) -> schema.Done:
    known = own(core, caller, worker)
    if known is None:
        raise not_found("worker", worker, "list them with GET /v1/workers")
    if known.banned and not caller.may("workers:all"):
        raise forbidden("it is banned; an operator may let it go")
    shown = await administer(core, caller, command, action, worker)
    await core.revoke(known.public_key)
    return shown


@patch(
    "/v1/workers/{worker:str}",
    needs=WORKERS_CHANGE,
    summary="Rename a worker",
    responses=problems(404, 409, 422),
)
async def rename(
    core: CoreArg, request: AnyRequest, worker: FromPath[str], data: JSONBody[schema.RenameBody]
) -> schema.Done:
    """Give it another name."""
    caller = caller_of(request)
    known = own(core, caller, worker)
    command = RenameWorker(worker, core.keys.seal(known.owner if known else caller.user, data.name.encode()))
    return await administer(core, caller, command, "worker.rename", worker)


@get("/v1/status", needs="hive:read", summary="The hive at a glance", responses=problems())
async def status(core: CoreArg, min_position: MinPosition = "") -> schema.Status:
    """Counts, position, and what is the matter."""
    await at_least(core, min_position)
    totals, state = core.reads.totals(), core.projector.status()
    return schema.Status(
        core.pool, core.version, position_text(state.position), totals.jobs, totals.tasks, totals.workers,
        state.behind, state.database, core.disk().why() or "ok",
    )  # fmt: skip


@get("/ready", needs=ANYBODY, summary="Whether requests are served in full", responses=problems())
async def ready(core: CoreArg) -> schema.Health:
    """503 while the log is still being read."""
    if not core.projector.caught_up:
        raise unavailable(f"the log is still being read, up to position {position_text(core.reads.position)} so far")
    return schema.Health()


@get("/health", needs=NOBODY, summary="Whether the process answers; needs no key", responses=problems())
async def health() -> schema.Health:
    """Always, while it runs."""
    return schema.Health()


ROUTES = [list_workers, show_worker, usage, enrol, drain, configure, forget, ban, rename, status, ready, health]
