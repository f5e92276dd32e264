"""Control groups: limits on all processes of a task together, which the kernel holds them to. Version 1 and 2.

Groups are made below the agent's own, so that whatever holds the agent to a limit holds its tasks to it too.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
"""Those that are there; version 2 counts CPU time without a controller."""
PERIOD_US = 100_000
QUOTA_US_MIN = 1000
REMOVE_TRIES, REMOVE_PAUSE_S = 50, 0.005
MOUNTS = Path("/proc/self/mountinfo")
OWN = Path("/proc/self/cgroup")

_log = structlog.get_logger()


class Cgroups:
    """The groups of one worker. `roots`: the folder below which each controller's groups are made; version 2 has one for all."""

    def __init__(self, version: int, roots: dict[str, Path], worker: str) -> None:
        self.version, self._worker = version, worker
        self._bases = {name: root / f"hive-{worker}" for name, root in roots.items()}
        self._folders = list(dict.fromkeys(self._bases.values()))

    def prepare(self) -> None:
        """Make the group that holds all of this worker's. Raises OSError: they cannot be had."""
        if self.version == 2:
            root = self._folders[0].parent
            if root.joinpath("cgroup.procs").read_text().split() and root.joinpath("cgroup.type").exists():
                # A group with processes of its own cannot hold its children to limits: the agent moves into one of them.
                agent = root / f"hive-agent-{self._worker}"
                agent.mkdir(exist_ok=True)
                (agent / "cgroup.procs").write_text(str(os.getpid()))
            wanted = " ".join(f"+{name}" for name in self._bases)
            (root / "cgroup.subtree_control").write_text(wanted)
            self._folders[0].mkdir(exist_ok=True)
            (self._folders[0] / "cgroup.subtree_control").write_text(wanted)
        for base in self._folders:
            base.mkdir(exist_ok=True)
            probe = base / "probe"
            probe.mkdir(exist_ok=True)
            probe.rmdir()

    def make(self, name: str, memory: int, pids: int, cpus_milli: int) -> list[str]:
        """A group `name` with these limits (bytes; 0: none): the folders whose `cgroup.procs` a process writes itself into.
        Raises OSError.
        """
        for base in self._folders:
            (base / name).mkdir(exist_ok=True)
        quota = max(QUOTA_US_MIN, cpus_milli * PERIOD_US // 1000) if cpus_milli else 0
        if self.version == 2:
            if memory:
                self._set("memory", name, {"memory.max": memory, "memory.swap.max": 0, "memory.oom.group": 1})
            if quota:
                self._set("cpu", name, {"cpu.max": f"{quota} {PERIOD_US}"})
        else:
            # With the swap's limit after that of memory alone, which it may not be below.
            if memory:
                self._set("memory", name, {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory})
            if quota:
                self._set("cpu", name, {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota})
        if pids:
            self._set("pids", name, {"pids.max": pids})
        return [str(base / name) for base in self._folders]

    def _set(self, controller: str, name: str, values: Mapping[str, int | str]) -> None:
        base = self._bases.get(controller)
        if base is None:
            return
        for file, value in values.items():
            try:
                (base / name / file).write_text(str(value))
            except FileNotFoundError:
                if file in ("memory.max", "memory.limit_in_bytes", "pids.max"):
                    raise

    def oom_kills(self, name: str) -> int:
        """How many processes of the group the kernel killed for want of memory."""
        base = self._bases.get("memory")
        return (
            _count(base / name / ("memory.events" if self.version == 2 else "memory.oom_control"), "oom_kill")
            if base
            else 0
        )

    def memory_peak(self, name: str) -> int:
        """The most memory in bytes that the group used; 0: not known."""
        file = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int((self._bases["memory"] / name / file).read_text())
        return 0

    def memory_now(self, name: str) -> int:
        """The memory in bytes that the group's processes have to themselves now, without files that are cached."""
        base = self._bases.get("memory")
        return _count(base / name / "memory.stat", "anon" if self.version == 2 else "total_rss") if base else 0

    def cpu_ms(self, name: str) -> int:
        """The CPU time that the group used; 0: not known."""
        if self.version == 2:
            return _count(self._folders[0] / name / "cpu.stat", "usage_usec") // 1000
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int((self._bases["cpuacct"] / name / "cpuacct.usage").read_text()) // 1_000_000
        return 0

    def pids(self, name: str) -> list[int]:
        """The processes in the group."""
        with contextlib.suppress(OSError, ValueError):
            return [int(line) for line in (self._folders[0] / name / "cgroup.procs").read_text().split()]
        return []

    def remove(self, name: str) -> None:
        """Remove a group whose processes have ended, or are about to. Blocks for some milliseconds at most."""
        for base in self._folders:
            for _ in range(REMOVE_TRIES):
                try:
                    (base / name).rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(REMOVE_PAUSE_S)
                else:
                    break
            else:
                _log.warning("worker.cgroup_left", group=str(base / name))

    def clear(self) -> None:
        """Remove the groups that an earlier agent left empty."""
        for base in self._folders:
            for group in base.iterdir() if base.is_dir() else ():
                with contextlib.suppress(OSError):
                    group.rmdir()


def find(worker: str, own: str | None = None, mounts: str | None = None) -> tuple[Cgroups | None, str]:
    """The control groups that this process may make, or why it may make none. `own`, `mounts`: what /proc says of them."""
    try:
        own = OWN.read_text() if own is None else own
        mounts = MOUNTS.read_text() if mounts is None else mounts
    except OSError as error:
        return None, f"control groups: {error}"
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    roots, why = _roots(paths, mounts)
    if "memory" not in roots or "pids" not in roots:
        return None, why
    found = Cgroups(2 if "" in roots else 1, {name: root for name, root in roots.items() if name}, worker)
    try:
        found.prepare()
    except OSError as error:
        return None, f"control groups cannot be made here: {error.strerror} ({error.filename})"
    return found, ""


def _roots(paths: dict[str, str], mounts: str) -> tuple[dict[str, Path], str]:
    """The agent's own group by controller; version 2 is marked by a name of nothing."""
    found: dict[str, Path] = {}
    unified: Path | None = None
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, where = fields.split(" ")[3:5]
        if kind == "cgroup":
            for name in set(options.split(",")) & set(CONTROLLERS) & paths.keys():
                found[name] = _below(where, root, paths[name])
        elif kind == "cgroup2" and "" in paths:
            unified = _below(where, root, paths[""])
    if found:
        return found, "the memory and pids controllers are not mounted"
    if unified is None:
        return {}, "no control groups are mounted"
    with contextlib.suppress(OSError):
        here = (unified / "cgroup.controllers").read_text().split()
        return {"": unified, **{name: unified for name in CONTROLLERS if name in here}}, (
            "the agent's control group has no memory and pids controllers; have systemd delegate them (Delegate=yes)"
        )
    return {}, "the agent's control group cannot be read"


def _below(where: str, root: str, path: str) -> Path:
    inside = path.removeprefix(root.rstrip("/")) if path.startswith(root.rstrip("/")) else ""
    return Path(where) / inside.lstrip("/")


def _count(file: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
