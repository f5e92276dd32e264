"""What the ledger's facts lead to in the pool. Pure."""

from events.job import JobFunded, JobHeld, JobRunnable, JobShort
from events.ledger import HoldExtended, HoldPlaced, HoldRefused, HoldShort, job_of
from events.units import cpt_text
from services.hosting import React
from services.pool.job import JobFact, cancel
from services.pool.reach import unplaceable
from services.pool.state import Job, Pool

WANTED = (HoldPlaced, HoldRefused, HoldExtended, HoldShort)


def next_hold(state: Pool, job: Job) -> JobHeld | JobRunnable:
    """What comes after the ledger's word: another reason to wait, or none."""
    if job.waits_for:
        return JobHeld(job.id, "dependencies")
    if why := unplaceable(state, job.shape):
        return JobHeld(job.id, "capacity", why)
    return JobRunnable(job.id)


def decide_react(state: Pool, command: React, now: int) -> list[JobFact]:
    """What a fact of the ledger leads to; nothing when the job is another pool's, or over."""
    event = command.event
    if not isinstance(event, WANTED):
        return []
    pool, name = job_of(event.hold)
    job = state.jobs.get(name) if pool == state.pool else None
    if job is None or job.meter is None or job.cancelled:
        return []
    if isinstance(event, HoldPlaced):
        if job.held != "funds":
            return []
        if why := state.releasable.get(name):  # what it depends on failed, and this is due: now is as good as then
            return [*cancel(job, why)]
        return [next_hold(state, job)]
    if isinstance(event, HoldRefused):
        why = f"it may cost {cpt_text(event.total)} CPT, and its owner has {cpt_text(event.missing)} less"
        return [*cancel(job, why)] if job.held == "funds" else []
    if isinstance(event, HoldExtended):
        return [JobFunded(name, event.total)] if event.total > job.meter.total else []
    if event.stops_at <= now:
        return [*cancel(job, f"its owner ran out of CPT: {cpt_text(event.missing)} more were needed for it to go on")]
    return [JobShort(name, event.missing, event.stops_at)]
