"""Two schedulers decide on one state and both append: one wins, and the loser's second try is legal."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from events import catalog
from events.catalog import Decision, Message, pool_subject
from events.job import JobFinished, JobSubmitted, Retries
from events.log import Conflict, MemoryLog
from services.hosting import Refused
from services.pool import model
from services.pool.commands import Advance, CancelJob, Past, Place, Silent, Submit
from services.pool.state import Pool
from tests.pool_ledger import Ledger
from tests.pool_support import T0, ended, greet, normal, report, submit

SUBJECT = pool_subject("p")
COMMANDS = st.one_of(
    st.builds(Place, st.sampled_from(["w1", "w2"]), st.sampled_from([-1, 1]), st.integers(0, 1)),
    st.builds(CancelJob, st.sampled_from(["j1", "j2"])),
    st.builds(Silent, st.sampled_from(["w1", "w2"]), st.just(60_000)),
    st.just(Advance(capacity=True)),
    st.builds(lambda n: submit(f"j{n}", 2), st.integers(1, 3)),
    st.builds(
        lambda sequence, lease, code: report(sequence, ended(lease, "j1", [0, 0], code=code)),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(0, 1),
    ),
)
BEGIN = [
    greet("w1", cpus=2),
    greet("w2", cpus=2),
    submit("j1", 3, retries=Retries(exit=2, backoff_ms=0)),
    submit("j2", 2),
]


class Scheduler:
    """A control plane that decides what it is told to, and appends with the guard that it knows."""

    def __init__(self, log: MemoryLog, name: str) -> None:
        self.log, self.name, self.state, self.position = log, name, Pool("p"), 0
        self.past: dict[str, Past] = {}

    def catch_up(self) -> None:
        for entry in self.log.entries[self.position :]:
            message = catalog.decode(entry.data)
            for event in message.events():
                model.evolve(self.state, event, message.at)
                if isinstance(event, JobSubmitted | JobFinished):
                    digest = event.digest if isinstance(event, JobSubmitted) else self.past[event.job].digest
                    self.past[event.job] = Past(digest, event.state if isinstance(event, JobFinished) else "")
            self.position = entry.position

    def decide(self, command: Any, now: int) -> bytes | None:
        if isinstance(command, Submit):
            command = Submit(command.fact, self.past)
        try:
            events = list(model.decide(self.state, command, now))
        except Refused:
            return None
        return catalog.encode(Message(f"{self.name}{now}", now, self.name, [Decision(events)])) if events else None

    async def append(self, data: bytes) -> bool:
        try:
            await self.log.append(SUBJECT, data, self.position)
        except Conflict:
            return False
        return True


@given(st.lists(st.tuples(COMMANDS, COMMANDS, st.booleans()), min_size=1, max_size=12))
def test_one_of_two_schedulers_wins_and_the_other_may_try_again(rounds: list[tuple[Any, Any, bool]]) -> None:
    asyncio.run(_run(rounds))


async def _run(rounds: list[tuple[Any, Any, bool]]) -> None:
    log = MemoryLog()
    one, two = Scheduler(log, "a"), Scheduler(log, "b")
    now = T0
    for command in BEGIN:
        one.catch_up()
        data = one.decide(command, now)
        assert data is not None
        assert await one.append(data)
    for first, second, swapped in rounds:
        now += 1000
        pair = [(one, first), (two, second)]
        if swapped:
            pair.reverse()
        one.catch_up()
        two.catch_up()
        wants = [(scheduler, command, scheduler.decide(command, now)) for scheduler, command in pair]
        asked = [(scheduler, command, data) for scheduler, command, data in wants if data is not None]
        won = [await scheduler.append(data) for scheduler, _, data in asked]
        assert won == [True, False][: len(won)]
        for scheduler, command, _ in asked[1:]:
            scheduler.catch_up()
            again = scheduler.decide(command, now)
            assert again is None or await scheduler.append(again)
    books = Ledger()
    for entry in log.entries:
        books.take(catalog.decode(entry.data))
    one.catch_up()
    two.catch_up()
    model.check(one.state)
    assert normal(one.state) == normal(two.state)
