"""Commands to the accounts' writer from requests: done, written down with who did it and from where, and seen here."""

import secrets

from events.account import UserActed
from events.catalog import position_text
from services.accounts.commands import Administer, Command, Plain, Record
from services.asking import RefusedAnswer
from web import schema
from web.caller import Caller
from web.core import Core
from web.problems import Failed

REACHED_S = 5.0
_STATUS = {
    "no_user": 404, "no_key": 404, "no_worker": 404, "no_invite": 404, "no_enrolment": 404, "exists": 409,
    "last_admin": 409, "banned": 403, "bad_token": 403, "bad_invite": 403, "suspended": 409, "too_many": 409,
}  # fmt: skip


def acted(core: Core, caller: Caller, action: str, target: str) -> UserActed:
    """Who did what, and from where; the address is sealed."""
    return UserActed(
        caller.user, action, target, core.keys.seal(caller.user, caller.address.encode()) if caller.address else None
    )


async def administer(core: Core, caller: Caller, command: Plain, action: str, target: str) -> schema.Done:
    """Have `command` done by the accounts' writer. Raises Failed when it is refused."""
    return await tell(core, caller, Administer(command, acted(core, caller, action, target)))


async def record(core: Core, caller: Caller, action: str, target: str) -> None:
    """Write down what was done elsewhere."""
    await tell(core, caller, Record(acted(core, caller, action, target)))


async def tell(core: Core, caller: Caller, command: Command) -> schema.Done:
    """Have `command` done; what it changed holds for the next request here. Raises Failed when it is refused."""
    answer = await core.accounts.ask([command], caller.by, cause=caller.via, trace=secrets.token_hex(8))
    outcome = answer.outcomes[0]
    if isinstance(outcome, RefusedAnswer):
        code = outcome.code.replace("_", "-")
        raise Failed(_STATUS.get(outcome.code, 422), code, outcome.detail, field=outcome.field)
    await core.access.reached(answer.position, REACHED_S)
    return schema.Done(outcome.existing, position_text(answer.position))
