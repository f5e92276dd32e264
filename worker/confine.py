"""How this machine shuts tasks in: what its owner allows and what it can do, so what it advertises, and the box that each
task gets. What it cannot hold a task to it does not advertise, and refuses.
"""

import asyncio
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from events import needs
from events.limits import HOST, covers
from events.protocol import Run
from worker import volumes
from worker.executors import bubblewrap, cgroups
from worker.executors.base import Box, Rejected
from worker.executors.bubblewrap import HOME, Sandbox
from worker.executors.cgroups import Cgroups
from worker.executors.container_config import HOME as CONTAINER_HOME
from worker.volumes import Volumes

Isolation = Literal["auto", "none", "bwrap"]
FULL = "full"
USERS_FROM, USERS_EACH, USERS_WORKERS = 2_000_000_000, 100_000, 1000
"""Tasks of an agent that is root run as users of their own: so many for each worker of a machine, that nobody else is."""
PIDS_DEFAULT = 4096
"""Of a process task that is shut in, threads included."""


class Rules(msgspec.Struct, frozen=True):
    """What the machine's owner allows. `network`: `full`, or the hosts that tasks may reach (none: no network), each like
    those that jobs name.
    """

    network: tuple[str, ...] = ()
    disk: int = 0
    """Bytes that a container's folder may hold, unless its job asks for another size; 0: any."""

    @property
    def full(self) -> bool:
        """Whether tasks may reach all that the machine reaches."""
        return FULL in self.network

    @property
    def named(self) -> list[str]:
        """The hosts that the owner names one by one."""
        return [rule for rule in self.network if rule != FULL and not rule.startswith("*.")]

    def refused(self, hosts: list[str]) -> str:
        """The first of `hosts` that tasks may not reach here; "": none."""
        return (
            ""
            if self.full
            else next((host for host in hosts if not any(covers(rule, host) for rule in self.network)), "")
        )


class Machine(msgspec.Struct, frozen=True):
    """What this machine can do. `sandbox`: bubblewrap, None: not here, or not wanted; `root`: the agent may choose users;
    `proxy`: it can listen inside of a task's network; `volumes`: it can give a folder a size; `cgroup`: of which version.
    """

    sandbox: Sandbox | None = None
    root: bool = False
    proxy: bool = False
    volumes: bool = False
    cgroup: int = 0


def look(worker: str, isolation: Isolation, folder: Path) -> tuple[Machine, Cgroups | None, Volumes | None]:
    """What this machine can do, and with what. Blocks for a moment. Raises CannotIsolate."""
    sandbox, why = (None, "") if isolation == "none" else bubblewrap.find()
    if isolation == "bwrap" and sandbox is None:
        raise CannotIsolate(why)
    groups, _ = cgroups.find(worker)
    if groups is not None:
        groups.clear()
    kept, _ = volumes.find(folder)
    version = groups.version if groups is not None else 0
    machine = Machine(sandbox, os.geteuid() == 0, proxy=os.geteuid() == 0, volumes=kept is not None, cgroup=version)
    return machine, groups, kept


class CannotIsolate(Exception):
    """This machine cannot shut tasks in as its owner wants; the text says why."""


class Means(msgspec.Struct, frozen=True):
    """What shuts tasks in on this machine."""

    confiner: "Confiner"
    cgroups: Cgroups | None
    volumes: Volumes | None


async def prepare(worker: str, isolation: Isolation, rules: Rules, memory: int, folder: Path) -> Means:
    """Find out what there is; volumes keep their files in `folder`. Raises CannotIsolate."""
    machine, groups, kept = await asyncio.to_thread(look, worker, isolation, folder)
    return Means(Confiner(worker, rules, machine, memory), groups, kept)


class Confiner:
    """Decides on boxes. `memory`: bytes that a container without a limit of its own may use."""

    def __init__(self, worker: str, rules: Rules, machine: Machine, memory: int) -> None:
        self.rules, self.machine, self._memory = rules, machine, memory
        self._users = USERS_FROM + zlib.crc32(worker.encode()) % USERS_WORKERS * USERS_EACH

    def features(self, containers: bool) -> tuple[str, ...]:
        """What to advertise (see events.needs)."""
        found: list[str] = []
        machine, boxed = self.machine, self.machine.sandbox is not None
        hosts = machine.proxy and bool(self.rules.network)
        if containers:
            found += ["container:pids"]
            found += [f"container:{needs.NETWORK}"] if self.rules.full else []
            found += [f"container:{needs.HOSTS}"] if hosts else []
            found += [f"container:{needs.DISK}"] if machine.volumes else []
        found += ["process:bubblewrap", f"process:{needs.ALONE}", "process:pids"] if boxed else []
        found += ["process:users"] if boxed and machine.root else []
        found += [f"process:{needs.NETWORK}"] if self.rules.full or not boxed else []
        found += [f"process:{needs.HOSTS}"] if boxed and hosts else []
        found += [f"process:{needs.DISK}"] if machine.volumes else []
        found += [f"process:cgroup-v{machine.cgroup}"] if machine.cgroup else ["process:rlimits"]
        return tuple(sorted(found))

    def disk(self, order: Run) -> int:
        """The size in bytes that the task's folder is held to; 0: none."""
        return order.text.disk or (self.rules.disk if self.machine.volumes and order.kind == "container" else 0)

    def box(self, order: Run, folder: str, read: Sequence[str] = ()) -> Box | None:
        """How a task is shut in, that reads these folders of ours; None: it is not. Raises Rejected: not as it asked for."""
        text, machine = order.text, self.machine
        if order.kind == "container":
            network = "hosts" if text.hosts else text.network or "none"
            self._check(order.kind, network, text.hosts)
            return Box(
                CONTAINER_HOME, self._user(folder), network, pids=text.pids, memory=order.memory_bytes or self._memory,
                swap=text.swap, named=self.rules.named,
            )  # fmt: skip
        if machine.sandbox is None:
            if text.hosts or text.pids or text.network == "none":
                raise Rejected("this machine does not shut processes in, as the task's network or processes ask for")
            if order.memory_bytes and machine.cgroup:
                return Box(folder, cgroup=True, memory=order.memory_bytes)
            return None
        network = "hosts" if text.hosts else text.network or ("full" if self.rules.full else "none")
        self._check("process", network, text.hosts)
        user = self._user(folder)
        devices = bubblewrap.gpu_devices() if order.gpus else []
        prefix = machine.sandbox.prefix(folder, text.cwd, network, user, text.pids or PIDS_DEFAULT, read, devices)
        return Box(
            HOME, user, network, prefix, machine.sandbox.guards, self.rules.named, bool(machine.cgroup),
            text.pids or PIDS_DEFAULT, order.memory_bytes,
        )  # fmt: skip

    def _check(self, kind: str, network: str, hosts: list[str]) -> None:
        if network == "full" and not self.rules.full:
            raise Rejected("this machine's owner allows tasks no network")
        if network == "hosts":
            if not self.machine.proxy:
                raise Rejected("this machine cannot hold tasks to the hosts that they name")
            if host := self.rules.refused(hosts):
                raise Rejected(f"this machine's owner does not allow {host!r}")

    def _user(self, folder: str) -> int:
        """A user for the task in `folder`: no two that run share a folder. -1: the agent's."""
        name = folder.rpartition("/")[2]
        return self._users + int(name) % USERS_EACH if self.machine.root and name.isdecimal() else -1


def network_of(words: Iterable[str]) -> tuple[str, ...]:
    """The owner's rule in these words. Raises CannotIsolate: one is neither `full` nor a host."""
    found = [one for word in words for one in word.replace(",", " ").split()]
    for word in found:
        if word != FULL and not HOST.match(word):
            raise CannotIsolate(
                f"--network: {word!r} is neither full nor a host; write pypi.org, *.pypi.org or pypi.org:443"
            )
    return tuple(found)
