"""What this machine has and uses: GPUs by NVML, everything else by psutil, with the last ten minutes of it.

`sample` blocks for some milliseconds (a GPU may take longer): call it in a thread. What is not there is left out.
"""

import asyncio
import contextlib
import os
import platform
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import structlog

from events.hardware import UNKNOWN, Gpu, GpuUse, Inventory, Usage
from events.protocol import HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, Heartbeat
from infra.disk import free_bytes
from infra.nvml import Card, Nvml, NvmlAbsent
from infra.nvml_recording import Recorded
from worker.options import AgentOptions
from worker.whose import is_own

HISTORY_S = 600
INTERVAL_S = 5.0
FOREIGN_WINDOW_S = 60
"""What others use of a GPU counts with the most that they used within this time: they come back."""
MARGIN_BYTES_MIN, MARGIN_PART = 256 * 1024 * 1024, 32
"""Of each GPU's memory so much, or one in so many parts, is offered to nobody: drivers and contexts take it."""
INVENTORY_EACH = 12
"""One heartbeat in so many carries the inventory."""
MIB = 1024 * 1024
CPUINFO = Path("/proc/cpuinfo")

_psutil: Any = psutil
_log = structlog.get_logger()


class CannotOffer(Exception):
    """A GPU that is to be offered is not on this machine, or its recording cannot be played; the text says why."""


class Sample(msgspec.Struct, frozen=True, gc=False):
    """The machine at one moment (`at`, ms)."""

    at: int
    beat: Heartbeat
    own: dict[str, int]
    """Bytes that tasks use of each GPU."""


class Resources:
    """Measures this machine for `worker`. `gpus`: which are offered, "auto" (all), "none", or indices and UUIDs with commas
    between. `containers` tells the ids of those that its tasks run in.
    """

    def __init__(
        self,
        worker: str,
        folder: Path,
        nvml: Nvml | None,
        gpus: str = "auto",
        containers: Callable[[], Collection[str]] = tuple,
        whose: Callable[[int, str, Collection[str]], bool] = is_own,
    ) -> None:
        self._worker, self._folder, self._nvml, self._containers, self._whose = worker, folder, nvml, containers, whose
        self.interval_s = INTERVAL_S
        self._adjusted = asyncio.Event()
        self.history: deque[Sample] = deque()
        self._beats = 0
        self._before = (time.monotonic(), _counters())
        self._told = ""
        self.driver, self.cuda = nvml.versions() if nvml else ("", "")
        self.inventory = _inventory(folder, self.driver, self.cuda)
        self.offered = chosen(self._cards(), gpus)
        _psutil.cpu_percent()  # the first figure is since the call before

    def close(self) -> None:
        """Let go of the GPUs' driver."""
        if self._nvml is not None:
            self._nvml.close()

    def adjust(self, each_ms: int) -> None:
        """Measure every `each_ms` from now on, within what a platform may ask for."""
        self.interval_s = min(max(each_ms, HEARTBEAT_MS_MIN), HEARTBEAT_MS_MAX) / 1000
        self._adjusted.set()

    async def wait(self) -> None:
        """Until the next sample is due, which it is at once when the interval became another."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval_s * random.uniform(0.95, 1.05)):
                await self._adjusted.wait()
        self._adjusted.clear()

    def sample(self, session: str, running: int, waiting: int) -> Sample:
        """Measure, and remember it for ten minutes."""
        now, own = time.time_ns() // 1_000_000, dict[str, int]()
        memory = _psutil.virtual_memory()
        usage = self._usage([self._gpu(card, own) for card in self._cards()])
        inventory = self.inventory if self._beats % INVENTORY_EACH == 0 else None
        beat = Heartbeat(
            session, now, float(_psutil.cpu_percent()), int(memory.total - memory.available), int(memory.total),
            free_bytes(self._folder), running, waiting, usage, inventory,
        )  # fmt: skip
        sample = Sample(now, beat, own)
        self.history.append(sample)
        while self.history[0].at < now - HISTORY_S * 1000:
            self.history.popleft()
        return sample

    def told(self) -> None:
        """The last sample's heartbeat is on its way."""
        self._beats += 1

    def usable(self, reserved: Mapping[str, int]) -> list[int]:
        """Of each offered GPU, in order, the MiB that tasks may use while others use the rest. `reserved`: bytes that
        running tasks asked for, by UUID; what they use beyond counts as used by others.
        """
        taken = dict.fromkeys((gpu.uuid for gpu in self.offered), 0)
        since = self.history[-1].at - FOREIGN_WINDOW_S * 1000 if self.history else 0
        for sample in reversed(self.history):
            if sample.at < since:
                break
            for gpu in _gpus_of(sample):
                if gpu.uuid in taken:
                    foreign = gpu.memory_used - sample.own.get(gpu.uuid, 0)
                    taken[gpu.uuid] = max(taken[gpu.uuid], foreign)
        if not self.history:
            return [gpu.memory_bytes // MIB for gpu in self.offered]
        last = self.history[-1]
        for uuid, used in last.own.items():
            if uuid in taken:
                taken[uuid] += max(0, used - reserved.get(uuid, 0))
        answers = {gpu.uuid for gpu in _gpus_of(last) if not gpu.lost}
        return [max(0, gpu.memory_bytes - taken[gpu.uuid]) // MIB if gpu.uuid in answers else 0 for gpu in self.offered]

    def _cards(self) -> list[Card]:
        if self._nvml is None:
            return []
        try:
            found, why = self._nvml.cards(), ""
        except NvmlAbsent as error:
            found, why = [], str(error)
        if why != self._told:
            self._told = why
            if why:
                _log.warning("worker.gpus", why=why, then="looking again each time")
        return found

    def _gpu(self, card: Card, own: dict[str, int]) -> GpuUse:
        containers = self._containers() if card.processes else ()
        mine = [one for one in card.processes if self._whose(one.pid, self._worker, containers)]
        if used := sum(max(0, one.memory) for one in mine):
            own[card.uuid] = min(used, card.memory_used)
        return GpuUse(
            card.uuid, card.memory_total, card.memory_used, own.get(card.uuid, 0), len(mine),
            len(card.processes) - len(mine), card.utilisation, card.temperature, _watts(card.power_mw),
            _watts(card.power_limit_mw), card.ecc_corrected, card.ecc_errors, card.lost,
        )  # fmt: skip

    def _usage(self, gpus: list[GpuUse]) -> Usage:
        now, counters = time.monotonic(), _counters()
        then, before = self._before
        self._before = now, counters
        passed = max(now - then, 0.001)
        rates = [max(0, int((new - old) / passed)) for new, old in zip(counters, before, strict=True)]
        return Usage(round(os.getloadavg()[0], 2), _swap_used(), *rates, gpus=gpus)


def _gpus_of(sample: Sample) -> list[GpuUse]:
    return sample.beat.usage.gpus if sample.beat.usage else []


def measuring(options: AgentOptions, containers: Callable[[], Collection[str]]) -> Resources:
    """What measures the machine of such an agent. Raises CannotOffer."""
    try:
        nvml = Nvml.over(Recorded.load(options.nvml_recording)) if options.nvml_recording else Nvml.find()
    except NvmlAbsent as error:
        _log.debug("worker.gpus", why=str(error))
        nvml = None
    except (OSError, ValueError) as error:
        raise CannotOffer(f"the recording {options.nvml_recording} cannot be played: {error}") from None
    return Resources(options.worker, options.state, nvml, options.gpus, containers)


def margin(total: int) -> int:
    """Bytes of a GPU with so much memory that are offered to nobody."""
    return max(MARGIN_BYTES_MIN, total // MARGIN_PART)


def chosen(cards: list[Card], which: str) -> tuple[Gpu, ...]:
    """The GPUs that are offered. Raises CannotOffer."""
    if which == "none":
        return ()
    wanted = None if which == "auto" else [one.strip() for one in which.split(",")]
    found: dict[str, Gpu] = {}
    for at, card in enumerate(cards):
        if not card.lost and (wanted is None or str(at) in wanted or card.uuid in wanted):
            found[card.uuid] = Gpu(
                card.uuid, card.name, max(0, card.memory_total - margin(card.memory_total)), card.part
            )
    for one in wanted or ():
        if not (one in found or (one.isdigit() and int(one) < len(cards))):
            raise CannotOffer(
                f"there is no GPU {one!r}; this machine has {len(cards)}: `hivectl worker gpus` lists them"
            )
    return tuple(found.values())


def _watts(milliwatts: int) -> int:
    return round(milliwatts / 1000) if milliwatts >= 0 else UNKNOWN


def _counters() -> tuple[int, int, int, int]:
    """Bytes read, written, received and sent since boot, by all but the loopback; 0 for what cannot be had."""
    try:
        disks = _psutil.disk_io_counters()
    except (OSError, RuntimeError):
        disks = None
    nets = [net for name, net in _psutil.net_io_counters(pernic=True).items() if name != "lo"]
    read, written = (int(disks.read_bytes), int(disks.write_bytes)) if disks else (0, 0)
    return read, written, sum(int(net.bytes_recv) for net in nets), sum(int(net.bytes_sent) for net in nets)


def _swap_used() -> int:
    try:
        return int(_psutil.swap_memory().used)
    except (OSError, RuntimeError):
        return 0


def _inventory(folder: Path, driver: str, cuda: str) -> Inventory:
    try:
        swap = int(_psutil.swap_memory().total)
    except (OSError, RuntimeError):
        swap = 0
    return Inventory(
        platform.freedesktop_os_release().get("PRETTY_NAME", "") if _has_release() else platform.system(),
        platform.release(), platform.machine(), _cpu(), int(_psutil.cpu_count() or 0),
        int(_psutil.virtual_memory().total), swap, int(_psutil.disk_usage(str(folder)).total), driver, cuda,
    )  # fmt: skip


def _has_release() -> bool:
    return any(Path(file).is_file() for file in ("/etc/os-release", "/usr/lib/os-release"))


def _cpu() -> str:
    """What the CPU is called."""
    try:
        for line in CPUINFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor()
