"""`prove`: folds the log from its first event, in this process, and compares with what the live hive says."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from events import catalog
from events.masking import is_of
from services.cli import format
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from events.log import Log
    from projections.board_state import Board
    from services.ledger.audit import Audit
    from services.pool.state import Pool
    from web.client import AsyncHive

TRIES = 20
PAUSE_S = 0.25
JOBS_COMPARED_MAX = 10_000
PAGE = 1000
SHOWN_MAX = 5
JOB_FIELDS = (
    *("state", "reason", "kind", "count", "queued", "leased", "running", "succeeded", "failed", "cancelled"),
    *("priority", "memory", "after", "owner", "submitted_at", "finished_at", "position"),
)
WORKER_FIELDS = ("state", "drained", "memory", "version", "leased", "finished", "failed", "since")


class Live(NamedTuple):
    """What the API said at one position: status, jobs by id, workers by id, each as plain values."""

    position: int
    pool: str
    totals: dict[str, Any]
    jobs: dict[str, dict[str, Any]]
    workers: dict[str, dict[str, Any]]


class Folded(NamedTuple):
    """What the log says up to the same position."""

    board: "Board"
    pool: "Pool"
    books: "Audit"
    messages: int = 0
    events: int = 0


@command("prove")
def prove(context: Context) -> int:
    """Fold the log again and compare it with what is live.

    Reads the log itself, so it runs on the machine of the hive. What the API says about jobs, tasks, workers, totals and
    balances must equal the fold at the same position; so must the pool's latest snapshot, and all invariants must hold.
    """
    return asyncio.run(_prove(context))


async def _prove(context: Context) -> int:
    from infra import settings as settings_
    from infra.connect import open_platform
    from infra.logging import configure
    from infra.nats_log import JetStreamLog

    configure(json=False, level="debug" if context.debug else "error")
    output, folder = context.output, context.folder()
    async with context.client() as hive:
        live = await _look(hive)
        link = await open_platform(folder, settings_.load(folder.root), "hive proof")
        try:
            folded = await fold(JetStreamLog(link), live.pool, live.position)
        finally:
            await link.close()
        balances, wrong = await _balances(hive, folded.books)
    found = [*compare(folded, live), *check_pool(folded, live, str(folder.path("snapshots"))), *wrong]
    said = {"events": folded.events, "messages": folded.messages, "position": catalog.position_text(live.position)}
    said |= {
        "jobs": len(live.jobs),
        "workers": len(live.workers),
        "balances": balances,
        "equal": not found,
        "differences": found,
    }
    if output.mode == "json":
        output.document(said)
    elif found:
        raise Failure(
            f"{format.count(len(found), 'difference')} between log and live state: {'; '.join(found[:SHOWN_MAX])}"
        )
    else:
        output.line(
            f"proved: {format.count(folded.events, 'event')}, {format.count(folded.messages, 'message')}, "
            f"state equal at position {said['position']}"
        )
        output.note(
            f"  compared: {format.count(len(live.jobs), 'job')}, {format.count(len(live.workers), 'worker')},"
            f" {format.count(balances, 'balance')}, all totals, the pool's invariants"
        )
    return Exit.JOB_FAILED if found else Exit.OK


async def _look(hive: "AsyncHive") -> Live:
    """Jobs, workers and totals, all as of one position. Raises Failure when the hive never holds still."""
    import msgspec

    for _ in range(TRIES):
        status = await hive.status()
        jobs: dict[str, dict[str, Any]] = {}
        positions = {status.position}
        cursor: str | None = ""
        while cursor is not None and len(jobs) < JOBS_COMPARED_MAX:
            page = await hive.jobs(cursor=cursor, limit=PAGE)
            jobs |= {job.job: msgspec.to_builtins(job) for job in page.jobs}
            positions.add(page.position)
            cursor = page.next
        workers = {worker.worker: msgspec.to_builtins(worker) for worker in await hive.workers()}
        positions.add((await hive.status()).position)
        if len(positions) == 1:
            totals = {"jobs": status.jobs, "tasks": status.tasks, "workers": status.workers}
            return Live(catalog.position_of(status.position), status.pool, totals, jobs, workers)
        await asyncio.sleep(PAUSE_S)
    raise Failure("the hive is too busy to be compared: its log grew during every look", "try again when less happens")


async def _balances(hive: "AsyncHive", books: "Audit") -> tuple[int, list[str]]:
    """How many balances were compared, and how the hive's differ from what the log's postings add up to."""
    from services.ledger.audit import Wrong

    try:
        mine = books.finish()
    except Wrong as error:
        return 0, [f"the ledger does not add up: {error}"]
    for _ in range(TRIES):
        theirs: dict[str, int] = {}
        positions, after = set[int](), ""
        while after is not None:
            page = await hive.ledger.accounts(after)
            theirs |= {one.account: one.balance for one in page.accounts}
            positions.add(catalog.position_of(page.position))
            after = page.next
        if positions == {books.position}:
            wrong = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
            return len(mine), [
                f"{name}: the log says {mine.get(name, 0)} µCPT, the hive {theirs.get(name, 0)}"
                for name in sorted(wrong)
            ]
        if max(positions) > books.position:
            break
        await asyncio.sleep(PAUSE_S)
    raise Failure("money moved while the proof was made", "try again when less happens")


async def fold(log: "Log", pool: str, last: int) -> Folded:
    """Fold every message up to position `last` into a board and a pool."""
    from projections.board import BOARD
    from services.ledger.audit import Audit
    from services.pool import model
    from services.pool.state import Pool

    board, state, books = BOARD.initial(), Pool(pool), Audit()
    subject = catalog.pool_subject(pool)
    messages = events = 0
    if last == 0:
        return Folded(board, state, books)
    async with contextlib.aclosing(log.read("evt.>", 1)) as batches:  # pyright: ignore[reportArgumentType] a generator
        async for batch in batches:
            for entry in batch:
                if entry.position > last:
                    return Folded(board, state, books, messages, events)
                message = catalog.decode(entry.data)
                BOARD.apply(board, message, entry.position)
                events += sum(len(decision.events) for decision in message.decisions)
                if entry.subject == subject:
                    model.fold(state, message)
                elif entry.subject == catalog.LEDGER_SUBJECT:
                    books.add(entry.position, entry.data)
                messages += 1
                if entry.position == last:
                    return Folded(board, state, books, messages, events)
    raise AssertionError("a log's reader ended")


def compare(folded: Folded, live: Live) -> list[str]:
    """How the board differs from what the API said; empty when it does not."""
    import msgspec

    found: list[str] = []
    for id, said in live.jobs.items():
        job = folded.board.find(id)
        if job is None:
            found.append(f"{id} is not in the log")
            continue
        row: dict[str, Any] = msgspec.to_builtins(job.row())
        row |= {"memory": row["memory_bytes"], "position": catalog.position_text(row["position"])}
        if is_of(said["reason"], row["reason"]):
            row["reason"] = said["reason"]
        found += _differences(id, row, said, JOB_FIELDS)
    known = [*folded.board.open, *folded.board.ended]
    found += [f"{id} is in the log and not in the list" for id in known[-JOBS_COMPARED_MAX:] if _left_out(id, live)]
    for id, worker in folded.board.workers.items():
        row = msgspec.to_builtins(worker.row())
        row |= {"memory": worker.capacity.memory_bytes}
        found += _differences(id, row, live.workers.get(id, {}), WORKER_FIELDS)
    totals: dict[str, Any] = msgspec.to_builtins(folded.board.totals())
    for name, counts in live.totals.items():
        mine = {state: count for state, count in totals[name].items() if count}
        theirs = {state: count for state, count in counts.items() if count}
        if mine != theirs:
            found.append(f"total {name}: the log says {mine}, the hive {theirs}")
    return found


def _left_out(id: str, live: Live) -> bool:
    return id not in live.jobs and len(live.jobs) < JOBS_COMPARED_MAX


def _differences(id: str, mine: dict[str, Any], theirs: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    return [
        f"{id} {field}: the log says {mine[field]!r}, the hive {theirs.get(field)!r}"
        for field in fields
        if mine[field] != theirs.get(field)
    ]


def check_pool(folded: Folded, live: Live, snapshots: str) -> list[str]:
    """How the pool's own fold contradicts itself, its snapshot, or what the API said; empty when it does not."""
    from pathlib import Path

    from services.pool import model
    from services.pool.snapshots import PoolSnapshots
    from services.pool.state import load, save

    try:
        model.check(folded.pool)
    except AssertionError as error:
        return [f"the pool's invariants do not hold: {error}"]
    found: list[str] = []
    for id, job in folded.pool.jobs.items():
        said = live.jobs.get(id)
        if said is not None and (job.succeeded, job.failed) != (said["succeeded"], said["failed"]):
            found.append(f"{id}: the pool counts {job.succeeded} + {job.failed}, the hive says otherwise")
    ended = {id for id, said in live.jobs.items() if said["finished_at"]}
    found += [f"{id} has ended and is still open in the pool" for id in ended & folded.pool.jobs.keys()]
    if (stored := PoolSnapshots(Path(snapshots), live.pool).latest(live.position)) and stored[0] == live.position:
        mine, kept = vars(load(save(folded.pool))), vars(stored[1])
        same = ("number", "order", "jobs", "workers", "leases", "text_bytes", "releasable")
        found += [f"the pool's snapshot differs in {name}" for name in same if mine[name] != kept[name]]
    return found


COMMANDS = {"prove": prove}
