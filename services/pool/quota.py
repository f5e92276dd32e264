"""How much of a pool one user may have: decided here, where all of that user's requests meet. Pure."""

from services.hosting import Refused
from services.pool.commands import Submit
from services.pool.state import Owned, Pool

_NOTHING = Owned()
REMEDY = "wait until some have ended, cancel some, or ask an admin for a higher limit"


def check(state: Pool, command: Submit) -> None:
    """Raise Refused when the job's owner would have more open jobs or queued tasks than allowed."""
    if not (command.open_jobs_max or command.queued_tasks_max):
        return
    fact = command.fact
    owned = state.owned.get(fact.owner, _NOTHING)
    if 0 < command.open_jobs_max <= owned.open_jobs:
        detail = (
            f"you have {owned.open_jobs} open jobs, and your limit `open_jobs` is {command.open_jobs_max}; {REMEDY}"
        )
        raise Refused("quota", "", detail)
    if 0 < command.queued_tasks_max < owned.queued_tasks + fact.count:
        detail = (
            f"{fact.count} more would make {owned.queued_tasks + fact.count} queued tasks, and your limit "
            f"`queued_tasks` is {command.queued_tasks_max}; {REMEDY}"
        )
        raise Refused("quota", "count", detail)
