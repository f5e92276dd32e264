"""One simulated hive and what befalls it: everything is drawn from one seed.

Each run draws which faults it has (some only, so that rare ones are not drowned), lets them rage for a while, then
heals everything. After that all work must come to its end.
"""

import asyncio
import random as global_random
from pathlib import Path
from random import Random

import msgspec

from events import catalog
from events.catalog import pool_subject
from events.job import JobSubmitted, Retries
from events.spec import TaskText
from events.worker import Capacity
from services.asking import Accepted, Unavailable
from services.pool import model
from services.pool.client import pool_client
from services.pool.commands import CancelJob, Command, DrainWorker, Submit
from services.pool.state import Pool
from tests.pool_support import GIB, normal
from tests.simulation.agent import Agent, Disk, Trade
from tests.simulation.auditor import Auditor
from tests.simulation.money import cost_of, enrol
from tests.simulation.network import Net, SimLink
from tests.simulation.plane import POOL, SEALER, Outputs, Plane, Snapshots

RAGE_S = 90.0
END_S = 900.0
CLIENT_TIMEOUT_S = 5.0
AGENT_DOWN_S = 3.0
FAULTS = (
    "loss", "twice", "slow", "partition", "plane_crash", "plane_pause", "agent_crash", "agent_stop", "log_down",
    "append_faults", "cancel", "drain", "snapshots",
)  # fmt: skip
TEXT = SEALER.seal(msgspec.json.encode(TaskText(["true"])))


class World:
    """A hive: two control planes, some workers, a client, a log."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random = Random(seed)
        self.faults = {name for name in FAULTS if random.random() < 0.4}
        self.net, self.auditor = Net(random), Auditor()
        self.outputs, self.snapshots = Outputs(), Snapshots()
        self.auditor.outputs = self.outputs.data
        self.planes = [
            Plane(self.net, self.auditor.log, name, folder, self.outputs, self.snapshots, random, money=True)
            for name in ("a", "b")[: random.choice([1, 2, 2, 2])]
        ]
        self.client_link = SimLink(self.net, "client")
        self.client = pool_client(self.client_link, POOL)  # pyright: ignore[reportArgumentType]
        self.trade = Trade(random)
        self.names = [f"w{n}" for n in range(1, random.randint(1, 3) + 1)]
        self.capacities = {
            name: Capacity(random.choice([1000, 2000, 4000]), random.choice([GIB, 4 * GIB]), ("process", "noop"))
            for name in self.names
        }
        self.disks = {name: Disk() for name in self.names}
        self.agents: dict[str, Agent] = {}
        self.asked: dict[str, JobSubmitted] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Live through it, then check everything."""
        await enrol(self.auditor.log)
        for plane in self.planes:
            plane.start()
        for name in self.names:
            self._start_agent(name)
        self._weather()
        loop = asyncio.get_running_loop()
        users = [loop.create_task(self._user(n)) for n in range(2)]
        fates = [loop.create_task(self._fate(fault)) for fault in sorted(self.faults)]
        self._tasks = users + fates
        await self._until(RAGE_S)
        for fate in fates:
            fate.cancel()
        await asyncio.gather(*fates, return_exceptions=True)
        await self._heal()
        await asyncio.gather(*users)
        await self._finish()
        await self._agree()
        self.check()
        await self._end()

    async def _until(self, time: float) -> None:
        while asyncio.get_running_loop().time() < time:
            await asyncio.sleep(1.0)
            self.check()

    def check(self) -> None:
        """Raise for the first thing that is wrong."""
        self.auditor.check()
        if self.net.failed:
            raise self.net.failed[0]

    def _weather(self) -> None:
        weather = self.net.weather
        weather.delay_s = self.random.choice([0.001, 0.01])
        weather.loss = 0.1 if "loss" in self.faults else 0.0
        weather.twice = 0.1 if "twice" in self.faults else 0.0
        weather.slow = 0.05 if "slow" in self.faults else 0.0
        if "append_faults" in self.faults:
            for plane in self.planes:
                bad = plane.troubles
                bad.lost_ack, bad.not_sent, bad.late = 0.05, 0.05, 0.05
                bad.delay_s = self.random.choice([0.002, 0.05])

    def _start_agent(self, name: str) -> None:
        agent = Agent(self.net, self.auditor, self.disks[name], name, self.capacities[name], self.trade)
        self.agents[name] = agent
        agent.start()

    # Users

    async def _user(self, user: int) -> None:
        for n in range(self.random.randint(3, 8)):
            await asyncio.sleep(self.random.uniform(0, 10))
            commands: list[Command] = [Submit(self._job(f"u{user}n{n}x{m}")) for m in range(self.random.randint(1, 4))]
            await self._ask(commands)
            if "cancel" in self.faults and self.random.random() < 0.3:
                await asyncio.sleep(self.random.uniform(0, 3))
                await self._ask([CancelJob(self.random.choice([*self.asked]))])

    def _job(self, name: str) -> JobSubmitted:
        random = self.random
        known = [*self.asked]
        after = [random.choice(known)] if known and random.random() < 0.3 else []
        count = random.choice([1, 1, 4, 20])
        fact = JobSubmitted(
            name, "u1", f"digest of {name}", TEXT,
            count=count,
            cost=cost_of(random, count, 0),
            priority=random.choice([1, 5, 10]),
            cpus_milli=random.choice([250, 1000]),
            memory_bytes=random.choice([0, GIB // 2]),
            lost_after_ms=random.choice([15_000, 60_000]),
            retries=Retries(exit=random.choice([0, 2]), oom=1, lost=random.choice([0, 5]), backoff_ms=500),
            after=after,
        )  # fmt: skip
        self.asked[name] = fact
        return fact

    async def _ask(self, commands: list[Command]) -> None:
        """Ask until there is an answer; what is acknowledged must be in the log."""
        while True:
            try:
                answer = await self.client.ask(commands, "u1", timeout_s=CLIENT_TIMEOUT_S)
            except Unavailable:
                continue
            break
        for command, outcome in zip(commands, answer.outcomes, strict=True):
            if isinstance(command, Submit):
                if isinstance(outcome, Accepted):
                    self.auditor.told_accepted(command.fact.job, answer.position)
                else:
                    assert outcome.code in ("dependency_failed", "unknown_job"), outcome
                    self.auditor.told_refused(command.fact.job)

    # Fate

    async def _fate(self, fault: str) -> None:
        act = getattr(self, f"_{fault}", None)
        while act is not None:
            await asyncio.sleep(self.random.uniform(0.5, 20))
            await act()

    async def _partition(self) -> None:
        links = [self.client_link, *(p.link for p in self.planes), *(a.link for a in self.agents.values())]
        some = [link for link in links if self.random.random() < 0.4]
        for link in some:
            if not link.cut and link.paused is None:
                link.cut_off(noticed=self.random.random() < 0.5)
        await asyncio.sleep(self.random.choice([0.5, 5, 20, 70]))
        for link in some:
            if link.paused is None:
                link.heal()

    async def _plane_crash(self) -> None:
        plane = self.random.choice(self.planes)
        if plane.alive:
            await plane.crash()
            await asyncio.sleep(self.random.choice([0.0, 1, 20]))
            plane.start()

    async def _plane_pause(self) -> None:
        plane = self.random.choice(self.planes)
        link = plane.link
        if plane.alive and link.paused is None and plane.way is not None:
            plane.pause()
            await asyncio.sleep(self.random.choice([0.1, 2, 5, 30]))
            if plane.link is link:
                plane.heal()

    async def _agent_crash(self) -> None:
        name = self.random.choice(self.names)
        self.agents[name].crash()
        await asyncio.sleep(AGENT_DOWN_S + self.random.choice([0, 5, 30, 80]))
        self._start_agent(name)

    async def _agent_stop(self) -> None:
        name = self.random.choice(self.names)
        agent = self.agents[name]
        if agent.alive:
            agent.stop()
            await asyncio.sleep(AGENT_DOWN_S + self.random.choice([0, 5, 30]))
            if self.agents[name] is agent:
                agent.crash()
                self._start_agent(name)

    async def _log_down(self) -> None:
        ways = [plane.way for plane in self.planes if plane.way is not None]
        for way in ways:
            way.down = True
        await asyncio.sleep(self.random.choice([0.1, 1, 10]))
        for way in ways:
            way.down = False

    async def _drain(self) -> None:
        name = self.random.choice(self.names)
        await self._ask([DrainWorker(name, True)])
        await asyncio.sleep(self.random.uniform(0, 10))
        await self._ask([DrainWorker(name, False)])

    async def _snapshots(self) -> None:
        """A follower folds some part of the log and saves it."""
        position = self.random.randint(0, len(self.auditor.log.entries))
        state = Pool(POOL)
        at = 0
        for entry in self.auditor.log.entries[:position]:
            if entry.subject == pool_subject(POOL):
                model.fold(state, catalog.decode(entry.data))
                at = entry.position
        if at:
            self.snapshots.keep(at, state)

    # The end

    async def _heal(self) -> None:
        weather = self.net.weather
        weather.loss = weather.twice = weather.slow = 0.0
        self.client_link.heal()
        for plane in self.planes:
            bad = plane.troubles
            bad.lost_ack = bad.not_sent = bad.late = 0.0
            if not plane.alive:
                plane.start()
            plane.heal()
        for name, agent in self.agents.items():
            if not agent.alive:
                await asyncio.sleep(AGENT_DOWN_S)
                self._start_agent(name)
            agent.link.heal()
        await asyncio.sleep(5)  # what was on its way has arrived, an old "drain" too
        await self._ask([DrainWorker(name, False) for name in self.names])

    async def _finish(self) -> None:
        """None is lost while a worker lives: everything that was taken in comes to an end."""
        self.trade.seconds = min(self.trade.seconds, 0.5)
        while self.auditor.open_jobs():
            await asyncio.sleep(1.0)
            self.check()
            for name, agent in self.agents.items():
                if not agent.alive:  # it had been asked to stop, and was done
                    assert agent.exit_code == 0, f"{name} gave up with {agent.exit_code}"
                    await asyncio.sleep(AGENT_DOWN_S)
                    self._start_agent(name)
            if asyncio.get_running_loop().time() > END_S:
                raise AssertionError(self._stuck())

    def _stuck(self) -> str:
        jobs = {
            name: (job.held, job.ready, dict(job.active), list(job.delayed), job.cancelled)
            for name, job in self.auditor.state.jobs.items()
        }
        workers = {
            name: (w.state, w.drained, w.session, list(w.leases)) for name, w in self.auditor.state.workers.items()
        }
        leads = {plane.name: (plane.alive, plane.leads()) for plane in self.planes}
        agents = {name: (a.alive, a.exit_code, a.state.last, len(a.state.running)) for name, a in self.agents.items()}
        return f"never ends: jobs {jobs}\nworkers {workers}\nplanes {leads}\nagents {agents}"

    async def _agree(self) -> None:
        """All folds are one: both control planes', the auditor's, and one from the first message; the money is settled."""
        while self.auditor.money.state.books.holds and asyncio.get_running_loop().time() < END_S:
            await asyncio.sleep(0.5)
        self.auditor.money.conclude()
        self.auditor.refold()
        for plane in self.planes:
            for _ in range(60):
                if plane.service and normal(plane.service.writer.state) == normal(self.auditor.state):
                    break
                await asyncio.sleep(0.5)
                self.check()
            else:
                raise AssertionError(f"{plane.name} does not agree with the log: {self._difference(plane)}")
        for name in self.asked:
            assert name in self.auditor.ledger.jobs or name in self.auditor.refused, f"{name} was never answered"

    def _difference(self, plane: Plane) -> str:
        assert plane.service is not None
        writer, log = plane.service.writer, self.auditor
        here, there = normal(writer.state), normal(log.state)
        parts = [f"{key}: {here[key]}\nnot {there[key]}" for key in here if here[key] != there[key]]
        return "\n".join([f"at {writer.position} of {len(log.log.entries)}, leads: {writer.leads}", *parts])

    async def _end(self) -> None:
        for agent in self.agents.values():
            agent.crash()
        for plane in self.planes:
            await plane.crash()


async def live(seed: int, folder: Path) -> World:
    """A whole run."""
    global_random.seed(seed)  # what the parts themselves draw: pauses before they try again
    world = World(seed, folder)
    await world.run()
    return world
