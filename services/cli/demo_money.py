"""The demo's economy: two people whose workers earn, what the jobs are to cost, who paid whom, and a transfer."""

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from events.spec import JobSpec
from events.units import MICRO, cpt_text
from services.cli import format
from services.cli.failure import Failure
from services.cli.output import Output

if TYPE_CHECKING:
    from web.client import AsyncHive

OWNERS = ("ada", "ben")
TIP = 5 * MICRO
SETTLED_S_MAX = 30.0
LOOK_S = 0.1


class Purses:
    """Who has what."""

    def __init__(self, hive: "AsyncHive", output: Output) -> None:
        self._hive, self._output = hive, output
        self.users: dict[str, str] = {}
        """Ids by name; the submitter, `admin`, is there from the start."""
        self._before: dict[str, int] = {}

    async def owners(self) -> list[str]:
        """An API key for each of the two owners of workers, whom the first demo in a folder registers."""
        from web.client.people import Door

        people, keys = self._hive.people, list[str]()
        for name in OWNERS:
            known = await people.named(name)
            if known is None:
                invite = await people.invite(["owner", "user"])
                user = await Door(self._hive.url).register(name, secrets.token_urlsafe(16), invite=invite.text)
            else:
                user = known.user
            self.users[name] = user
            keys.append((await self._hive.access.make_key("demo", user=user, expires_in=86_400)).text)
        self.users["you"] = (await people.me()).user
        return keys

    async def quote(self, specs: list[JobSpec]) -> str:
        """What they would cost together, in words; notes what everybody has before."""
        answer = await self._hive.costs.quote(specs)
        self._before = await self._balances()
        if not answer.economy:
            return "nothing: the economy is off here"
        return f"at most {cpt_text(answer.hold)} CPT, and you have {cpt_text(answer.balance)}"

    async def _balances(self) -> dict[str, int]:
        found = {name: (await self._hive.ledger.balance(user)).balance for name, user in self.users.items()}
        theirs = {one.account: one.balance for one in (await self._hive.ledger.accounts()).accounts}
        return found | {name: theirs.get(name, 0) for name in ("fees", "treasury")}

    async def settled(self, jobs: list[str]) -> None:
        """Wait until nothing is held for these jobs any more."""
        deadline = time.monotonic() + SETTLED_S_MAX
        for job in jobs:
            while (await self._hive.job(job)).cost is not None:
                if time.monotonic() > deadline:
                    raise Failure(
                        f"{job} was not settled within {SETTLED_S_MAX:g} s", "hivectl tail shows what happens"
                    )
                await asyncio.sleep(LOOK_S)

    async def show(self) -> None:
        """Who paid, who earned."""
        now = await self._balances()
        rows = [
            (
                name,
                cpt_text(now[name] - before) if now[name] < before else f"+{cpt_text(now[name] - before)}",
                cpt_text(now[name]),
            )
            for name, before in self._before.items()
        ]
        self._output.table(("WHO", "CPT", "HAS"), rows)
        self._output.line()

    async def tip(self) -> str:
        """Pay the first owner something, for good work; what was done, in words."""
        name = OWNERS[0]
        done = await self._hive.ledger.transfer(self.users[name], TIP, "thank you", kind="tip")
        return f"Paid {name} {cpt_text(TIP)} CPT: {done.transfer}, on disk at {format.plain(done.position)}"
