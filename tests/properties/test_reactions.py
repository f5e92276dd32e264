"""Reactions under everything at once: two writers race, are killed, fenced and lose answers; each fact counts once."""

import asyncio
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from events.log import MemoryLog
from services.hosting import Item
from tests.reaction_support import TARGET, Reactor, echoed, folded, happen, noise, submitted
from tests.writer_support import settled, until

STEPS = ("happen", "happen", "many", "noise", "switch", "kill", "fault", "late", "ask", "hold")


class Life:
    """One run, drawn from a seed."""

    def __init__(self, seed: int, steps: list[str]) -> None:
        self.random, self.steps = Random(seed), steps
        self.log = MemoryLog()
        self.count = 0
        self.planes: list[tuple[Reactor, asyncio.Task[None]]] = []

    def start(self) -> Reactor:
        plane = Reactor(self.log, f"p{self.random.getrandbits(32)}", self.random.choice([0, 1000, 60_000]))
        self.planes.append((plane, asyncio.create_task(plane.run())))
        return plane

    def names(self, most: int) -> list[str]:
        self.count += 1
        kinds = ("j", "j", "j", "ignored-")
        return [f"{self.random.choice(kinds)}{self.count}x{n}" for n in range(self.random.randint(1, most))]

    async def kill(self) -> None:
        plane, task = self.planes.pop(self.random.randrange(len(self.planes)))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await plane.log.arrive()  # what was on its way arrives after its death

    async def step(self, step: str) -> None:
        plane = self.random.choice(self.planes)[0]
        if step == "happen":
            await happen(self.log, *[self.names(3) for _ in range(self.random.randint(1, 3))])
        elif step == "many":
            await happen(self.log, self.names(30))
        elif step == "noise":
            await noise(self.log, self.random.randint(1, 20))
        elif step == "switch":
            plane.turn.free.set()
        elif step == "kill":
            await self.kill()
            self.start()
        elif step == "fault":
            plane.log.faults.append(self.random.choice(["lost_ack", "not_sent", "late"]))
        elif step == "late":
            await plane.log.arrive()
        elif step == "ask":  # what leads to nothing is answered when the log says that this one still has its place
            plane.writer.offer(Item(["ignored"], lambda outcomes, position: None))
        elif step == "hold":
            plane.log.hold()
            await settled()
            plane.log.release()
        for _ in range(self.random.randint(0, 30)):
            await asyncio.sleep(0)

    async def live(self) -> None:
        for _ in range(2):
            self.start()
        try:
            for step in self.steps:
                await self.step(step)
                assert all(not task.done() for _, task in self.planes), "one ended by itself"
            self.planes[0][0].turn.free.set()
            wanted = [job for job in submitted(self.log) if not job.startswith("ignored")]
            await until(lambda: len(echoed(self.log)) >= len(wanted) and any(p.writer.leads for p, _ in self.planes))
            await settled()
            assert echoed(self.log) == wanted, "each once, and in order"
            for plane, _ in self.planes:
                if plane.writer.position == await self.log.last(TARGET):
                    assert plane.writer.state.cursors == folded(self.log).cursors
        finally:
            while self.planes:
                await self.kill()


@given(st.integers(0, 2**32), st.lists(st.sampled_from(STEPS), max_size=40))
def test_every_fact_is_reacted_to_once_and_in_order(seed: int, steps: list[str]) -> None:
    asyncio.run(Life(seed, steps).live())
