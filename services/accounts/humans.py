"""Whether a human asks, where a hive wants to know: when somebody registers, asks for a link, or was wrong too often."""

import structlog

from infra.human_check import CheckAway, HumanCheck
from services.hosting import Refused

ACCOUNT_UNCHECKED_MAX = 3
"""So often somebody may be wrong about one account before a human is wanted there, within the throttle's window."""
ADDRESS_UNCHECKED_MAX = 10
"""The same from one address, from where several people may come."""

_log = structlog.get_logger()


class Humans:
    """Without a `check` everybody passes. `required`: nobody does while the service that checks is away."""

    def __init__(self, check: HumanCheck | None = None, *, required: bool = True) -> None:
        self._check, self._required = check, required

    async def confirm(self, response: str, address: str) -> None:
        """Raise Refused unless `response` is what the check gave to a human at `address`."""
        if self._check is None:
            return
        if not response:
            raise Refused("human_needed", "human", "the hive wants to know that a human asks")
        try:
            passed = await self._check.passed(response, address)
        except CheckAway as error:
            _log.warning("people.human_check_away", why=str(error), then="refused" if self._required else "let through")
            if self._required:
                raise Refused("human_check_away", "", "whether a human asks cannot be checked at the moment") from None
            return
        if not passed:
            raise Refused("not_human", "human", "the check was not passed, or its answer is too old or was used before")
