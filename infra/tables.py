"""The `read` schema: tables that are folded from the log and may be deleted at any time, as data.

Each build of the tables has a schema of its own, `read_<n>`; the views in `read` show the build that is live, so a
rebuild grows beside it and is switched to in one transaction. `read.builds` says how far each build has come.
Times are ms since 1970, sizes bytes; `number` is position * 65536 + place in the message: one order over all facts.
"""

from dataclasses import dataclass
from typing import Literal

LOCK = 0x48495645
"""Key of the advisory lock under which builds are made and switched."""


@dataclass(frozen=True)
class Table:
    """A table: its columns as (name, type) in the order in which rows give them, and its indexes' columns."""

    name: str
    columns: tuple[tuple[str, str], ...]
    indexes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [name for name, _ in self.columns]

    def ddl(self, schema: str) -> str:
        """The statements that create it. No index is unique: an odd fact in the log must not stop the tables."""
        columns = ", ".join(
            f'"{name}" {kind} NOT NULL' if kind != "jsonb" else f'"{name}" {kind}' for name, kind in self.columns
        )
        statements = [f"CREATE TABLE {schema}.{self.name} ({columns})"]
        statements += [f"CREATE INDEX ON {schema}.{self.name} ({columns})" for columns in self.indexes]
        return ";\n".join(statements)


JOBS = Table(
    "jobs",
    (
        ("job", "text"),
        ("owner", "text"),
        ("state", "text"),
        ("reason", "text"),
        ("kind", "text"),
        ("count", "bigint"),
        ("priority", "bigint"),
        ("cpus_milli", "bigint"),
        ("memory_bytes", "bigint"),
        ("succeeded", "bigint"),
        ("failed", "bigint"),
        ("cancelled", "bigint"),
        ("text_key", "text"),
        ("text_data", "bytea"),
        ("after", "text[]"),
        ("submitted_at", "bigint"),
        ("finished_at", "bigint"),
        ("number", "bigint"),
        ("position", "bigint"),
        ("by", "text"),
        ("trace", "text"),
    ),
    ("job", "state, number"),
)
"""One row a job. Until it has ended its state is held, queued or cancelling and its counts are 0: what runs right now
is in the control plane's memory."""

JOB_HISTORY = Table(
    "job_history",
    (
        ("job", "text"),
        ("kind", "text"),
        ("at", "bigint"),
        ("reason", "text"),
        ("by", "text"),
        ("cause", "text"),
        ("trace", "text"),
        ("number", "bigint"),
    ),
    ("job",),
)
"""What befell a job between its submission and its end: held, runnable, cancelled."""

TASK_HISTORY = Table(
    "task_history",
    (
        ("job", "text"),
        ("first", "bigint"),
        ("last", "bigint"),
        ("lease", "bigint"),
        ("attempt", "bigint"),
        ("worker", "text"),
        ("kind", "text"),
        ("at", "bigint"),
        ("leased_at", "bigint"),
        ("started_at", "bigint"),
        ("not_before", "bigint"),
        ("end", "text"),
        ("code", "bigint"),
        ("reason", "text"),
        ("details", "jsonb"),
        ("number", "bigint"),
    ),
    ("job, first",),
)
"""One row a run of tasks and fact about their attempt. `details` is a list, one entry a task of the run."""

RESULTS = Table(
    "results",
    (
        ("job", "text"),
        ("index", "bigint"),
        ("n", "bigint"),
        ("digest", "text"),
        ("size", "bigint"),
        ("files", "bigint"),
    ),
    ("job, index",),
)
"""The files that ended tasks left."""

WORKER_HISTORY = Table(
    "worker_history",
    (
        ("worker", "text"),
        ("kind", "text"),
        ("at", "bigint"),
        ("session", "text"),
        ("boot", "text"),
        ("cpus_milli", "bigint"),
        ("memory_bytes", "bigint"),
        ("kinds", "text[]"),
        ("version", "text"),
        ("by", "text"),
        ("number", "bigint"),
    ),
    ("worker, number",),
)
"""What befell the workers."""

ENTRIES = Table(
    "entries",
    (
        ("id", "text"),
        ("n", "bigint"),
        ("tag", "text"),
        ("kind", "text"),
        ("debit", "text"),
        ("credit", "text"),
        ("amount", "bigint"),
        ("at", "bigint"),
        ("cites", "text"),
        ("memo_key", "text"),
        ("memo_data", "bytea"),
        ("by", "text"),
        ("number", "bigint"),
    ),
    ("id", "debit, number, n", "credit, number, n", "at"),
)
"""One row a posting of the ledger, in µCPT; `n` is its place in its fact."""

TABLES = (JOBS, JOB_HISTORY, TASK_HISTORY, RESULTS, WORKER_HISTORY, ENTRIES)

WORKERS_VIEW = """
CREATE VIEW read.workers AS
SELECT last.worker, last.kind AS state, last.at AS since, seen.session, seen.cpus_milli, seen.memory_bytes, seen.version
FROM (SELECT DISTINCT ON (worker) * FROM {schema}.worker_history
      WHERE kind NOT IN ('worker.drained', 'worker.undrained') ORDER BY worker, number DESC) AS last
LEFT JOIN (SELECT DISTINCT ON (worker) * FROM {schema}.worker_history
      WHERE kind = 'worker.registered' ORDER BY worker, number DESC) AS seen USING (worker)
"""

PREPARE = """
CREATE SCHEMA IF NOT EXISTS read;
CREATE TABLE IF NOT EXISTS read.builds (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    version bigint NOT NULL,
    origin text NOT NULL,
    live boolean NOT NULL DEFAULT false,
    position bigint NOT NULL DEFAULT 0,
    at bigint NOT NULL DEFAULT 0
)
"""

FIND_BUILDS = f"""
SELECT id, version, origin, live, position,
    (SELECT count(*) = {len(TABLES)} FROM pg_tables WHERE schemaname = 'read_' || id) AND
    (NOT live OR (SELECT count(*) = {len(TABLES) + 1} FROM pg_views WHERE schemaname = 'read')) AS whole
FROM read.builds ORDER BY live DESC, id DESC"""
"""The live one first, then the newest; `whole`: nobody removed a table of it, or a view that shows it."""
ADD_BUILD = "INSERT INTO read.builds (version, origin) VALUES ($1, $2) RETURNING id"
DROP_BUILD = "DELETE FROM read.builds WHERE id = $1"
LOCK_BUILD = "SELECT position FROM read.builds WHERE id = $1 FOR UPDATE"
MOVE_BUILD = "UPDATE read.builds SET position = $2, at = $3 WHERE id = $1"
SET_LIVE = "UPDATE read.builds SET live = (id = $1)"
LIVE_POSITION = "SELECT position, id FROM read.builds WHERE live"
LOCK_LIVE = "SELECT position, version FROM read.builds WHERE live FOR UPDATE"


def schema_of(build: int) -> str:
    """The schema of a build."""
    return f"read_{build}"


def create(build: int) -> str:
    """The statements that make a build's empty tables."""
    schema = schema_of(build)
    return ";\n".join([drop(build), f"CREATE SCHEMA {schema}", *(table.ddl(schema) for table in TABLES)])


def drop(build: int) -> str:
    """The statement that removes a build and the views that show it."""
    return f"DROP SCHEMA IF EXISTS {schema_of(build)} CASCADE"


def show(build: int) -> str:
    """The statements that point the views at a build."""
    schema = schema_of(build)
    names = [table.name for table in TABLES]
    statements = [f"DROP VIEW IF EXISTS read.{name}" for name in ("workers", *names)]
    statements += [f"CREATE VIEW read.{name} AS SELECT * FROM {schema}.{name}" for name in names]
    return ";\n".join([*statements, WORKERS_VIEW.format(schema=schema)])


def update_jobs(build: int) -> str:
    """Change rows of jobs: $1 job, $2 state or '', $3 reason or NULL, $4 reason if there is none, $5-$7 counts,
    $8 finished_at, $9 position; each a list.
    """
    return f"""
UPDATE {schema_of(build)}.jobs AS j SET
    state = CASE u.state WHEN '' THEN j.state ELSE u.state END,
    reason = CASE WHEN u.reason IS NOT NULL THEN u.reason WHEN j.reason = '' THEN u.first_reason ELSE j.reason END,
    succeeded = u.succeeded, failed = u.failed, cancelled = u.cancelled,
    finished_at = u.finished_at, position = u.position
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[]) AS u (job, state, reason, first_reason, succeeded, failed, cancelled, finished_at, position)
WHERE j.job = u.job"""


_JOB = (
    "job, owner, state, reason, kind, count, priority, cpus_milli, memory_bytes, succeeded, failed, cancelled, "
    "text_key, text_data, after, submitted_at, finished_at, number, position"
)
FIND_JOB = f"SELECT {_JOB} FROM read.jobs WHERE job = $1 ORDER BY number LIMIT 1"


def list_jobs(states: int) -> str:
    """Jobs in any of `states` states, newest first: $1 below this number, $2 at most, $3 kind or '', $4 owner or '',
    then the states. One index range a state.
    """
    ranges = [
        f"(SELECT {_JOB} FROM read.jobs WHERE state = ${5 + at} AND number < $1 AND ($3 = '' OR kind = $3) "
        "AND ($4 = '' OR owner = $4) ORDER BY number DESC LIMIT $2)"
        for at in range(states)
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(ranges)}) AS ranges ORDER BY number DESC LIMIT $2"


TASK_FACTS = """
SELECT first, last, lease, attempt, worker, kind, at, leased_at, started_at, "end", code, reason, number
FROM read.task_history WHERE job = $1 AND first > $2 AND first <= $3 AND last >= $4 ORDER BY first LIMIT $5"""
"""$1 job, $2 a run's length below the lowest task, $3 the highest, $4 the lowest, $5 at most."""

TASK_DETAILS = """
SELECT number, first, details::text FROM read.task_history
WHERE job = $1 AND first = ANY($2::bigint[]) AND number = ANY($3::bigint[]) AND details IS NOT NULL"""

LIST_RESULTS = """
SELECT DISTINCT ON (index, n) index, n, digest, size, files FROM read.results
WHERE job = $1 AND (index, n) > ($2, $3) ORDER BY index, n LIMIT $4"""


_ENTRY = 'id, n, tag, kind, debit, credit, amount, at, cites, memo_key, memo_data, "by", number'


def list_entries(order: Literal["ASC", "DESC"] = "DESC") -> str:
    """Postings of account $1, in one order: (number, n) beyond ($2, $3), numbers from $4 on and below $5, $6 at most."""
    beyond = "<" if order == "DESC" else ">"
    sides = [
        f"(SELECT {_ENTRY} FROM read.entries WHERE {side} = $1 AND (number, n) {beyond} ($2, $3) "
        f"AND number >= $4 AND number < $5 ORDER BY number {order}, n {order} LIMIT $6)"
        for side in ("debit", "credit")
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(sides)}) AS sides ORDER BY number {order}, n {order} LIMIT $6"


FIND_ENTRIES = f"SELECT {_ENTRY} FROM read.entries WHERE id = $1 ORDER BY number, n LIMIT $2"
SUM_ENTRIES = """
SELECT coalesce((SELECT sum(amount) FROM read.entries WHERE credit = $1 AND number >= $2 AND number < $3), 0)::bigint,
    coalesce((SELECT sum(amount) FROM read.entries WHERE debit = $1 AND number >= $2 AND number < $3), 0)::bigint"""
"""What came to account $1 and what went from it, in facts with numbers from $2 on and below $3."""
FIRST_ENTRY_SINCE = "SELECT number FROM read.entries WHERE at >= $1 ORDER BY at, number LIMIT 1"
"""`at` never goes back from one fact to the next."""

KEPT_RESULTS = """
SELECT r.digest, bool_or(r.files >= 0) FROM read.results r JOIN read.jobs j ON j.job = r.job
WHERE (j.finished_at = 0 OR j.finished_at >= $1) AND r.digest > $2 GROUP BY r.digest ORDER BY r.digest LIMIT $3"""
"""The blobs that tasks left, of jobs that are open or ended since $1, and whether each is a list of files: from the one
after $2 on, at most $3.
"""

KEPT_EMITTED = """
SELECT DISTINCT d->>'emitted' FROM read.task_history h JOIN read.jobs j ON j.job = h.job,
jsonb_array_elements(h.details) d
WHERE h.details IS NOT NULL AND (j.finished_at = 0 OR j.finished_at >= $1) AND d->>'emitted' > $2
ORDER BY 1 LIMIT $3"""
"""Likewise the blobs of what tasks told of themselves."""
