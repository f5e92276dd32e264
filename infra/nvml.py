"""NVIDIA's GPUs, a typed façade over NVML (nvidia-ml-py). Its calls may block for a while: ask from a thread.

Whatever a card or driver does not tell is UNKNOWN, one card that fails does not hide the others, and a library that
failed as a whole is opened again at the next question. Where there is no driver nothing is loaded at all.
"""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from events.hardware import GPUS_MAX, UNKNOWN

DRIVER_FILES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
"""Any of them is where there is a driver; the last on Windows' Linux."""
PROCESSES_MAX = 1024
"""Of one GPU, that are looked at."""

T = TypeVar("T")
Library: TypeAlias = Any
"""Functions and constants by the names that `pynvml` has them under; a recording has them, too."""


class NvmlAbsent(Exception):
    """There is no NVIDIA GPU to ask about; the text says why."""


class Process(msgspec.Struct, frozen=True, gc=False):
    """A process that uses a GPU: its id on this machine, and its bytes of that GPU's memory (UNKNOWN: not told)."""

    pid: int
    memory: int


class Card(msgspec.Struct, frozen=True, gc=False):
    """A GPU or MIG slice now: see events.hardware.GpuUse. Power in mW."""

    uuid: str
    name: str
    part: bool = False
    memory_total: int = 0
    memory_used: int = 0
    utilisation: int = UNKNOWN
    temperature: int = UNKNOWN
    power_mw: int = UNKNOWN
    power_limit_mw: int = UNKNOWN
    ecc_corrected: int = UNKNOWN
    ecc_errors: int = UNKNOWN
    processes: list[Process] = []
    lost: bool = False


class Nvml:
    """NVML, opened. `cards()` keeps telling of a card that was there once, as lost when it is not any more."""

    def __init__(self, library: Library) -> None:
        self._lib = library
        self._error: Any = library.NVMLError
        self._open = False
        self._known: dict[str, Card] = {}

    @classmethod
    def find(cls) -> "Nvml":
        """This machine's. Raises NvmlAbsent."""
        return cls.over(installed())

    @classmethod
    def over(cls, library: Library) -> "Nvml":
        """One with another library beneath, such as a recording. Raises NvmlAbsent."""
        found = cls(library)
        found._ensure()
        return found

    def close(self) -> None:
        """Let go of the library."""
        if self._open:
            self._open = False
            with contextlib.suppress(self._error):
                self._lib.nvmlShutdown()

    def _ensure(self) -> None:
        if self._open:
            return
        try:
            self._lib.nvmlInit()
        except self._error as error:
            raise NvmlAbsent(f"the NVIDIA driver does not answer: {error}") from None
        self._open = True

    def versions(self) -> tuple[str, str]:
        """The driver's version and that of CUDA which it supports; "" for what it does not tell."""
        cuda = self._told(lambda: int(self._lib.nvmlSystemGetCudaDriverVersion_v2()), 0)
        driver = self._told(lambda: str(self._lib.nvmlSystemGetDriverVersion()), "")
        return driver, f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""

    def cards(self) -> list[Card]:
        """Every GPU now, in the order of their PCI addresses; of one that is divided, its slices. Raises NvmlAbsent."""
        self._ensure()
        try:
            count = int(self._lib.nvmlDeviceGetCount())
        except self._error as error:
            self.close()
            raise NvmlAbsent(f"the NVIDIA driver does not answer any more: {error}") from None
        found: dict[str, Card] = {}
        for at in range(min(count, GPUS_MAX)):
            with contextlib.suppress(self._error):
                handle = self._lib.nvmlDeviceGetHandleByIndex(at)
                for one, part in self._parts(handle):
                    card = self._card(one, part)
                    found[card.uuid] = card
        for uuid, card in self._known.items():
            if uuid not in found:
                found[uuid] = Card(uuid, card.name, card.part, card.memory_total, lost=True)
        self._known = dict(list(found.items())[:GPUS_MAX])
        return list(self._known.values())

    def _told(self, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except (self._error, ValueError, UnicodeDecodeError):
            return otherwise

    def _parts(self, handle: Any) -> list[tuple[Any, bool]]:
        """The GPU, or its slices when it is divided."""
        lib = self._lib
        if not self._told(lambda: int(lib.nvmlDeviceGetMigMode(handle)[0]), 0):
            return [(handle, False)]
        slices: list[tuple[Any, bool]] = []
        for at in range(self._told(lambda: int(lib.nvmlDeviceGetMaxMigDeviceCount(handle)), 0)):
            with contextlib.suppress(self._error):  # not every place has one
                slices.append((lib.nvmlDeviceGetMigDeviceHandleByIndex(handle, at), True))
        return slices

    def _card(self, handle: Any, part: bool) -> Card:
        lib, told = self._lib, self._told
        memory = lib.nvmlDeviceGetMemoryInfo(handle)
        corrected, uncorrected = lib.NVML_MEMORY_ERROR_TYPE_CORRECTED, lib.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        since_boot = lib.NVML_VOLATILE_ECC
        return Card(
            uuid=str(lib.nvmlDeviceGetUUID(handle)),
            name=told(lambda: str(lib.nvmlDeviceGetName(handle)), "NVIDIA GPU"),
            part=part,
            memory_total=int(memory.total),
            memory_used=int(memory.used),
            utilisation=told(lambda: int(lib.nvmlDeviceGetUtilizationRates(handle).gpu), UNKNOWN),
            temperature=told(lambda: int(lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU)), UNKNOWN),
            power_mw=told(lambda: int(lib.nvmlDeviceGetPowerUsage(handle)), UNKNOWN),
            power_limit_mw=told(lambda: int(lib.nvmlDeviceGetEnforcedPowerLimit(handle)), UNKNOWN),
            ecc_corrected=told(lambda: int(lib.nvmlDeviceGetTotalEccErrors(handle, corrected, since_boot)), UNKNOWN),
            ecc_errors=told(lambda: int(lib.nvmlDeviceGetTotalEccErrors(handle, uncorrected, since_boot)), UNKNOWN),
            processes=self._processes(handle),
        )

    def _processes(self, handle: Any) -> list[Process]:
        """Who uses it, to compute or to draw; one that does both is told twice, with the same memory."""
        lib = self._lib
        found: dict[int, int] = {}
        for ask in (lib.nvmlDeviceGetComputeRunningProcesses, lib.nvmlDeviceGetGraphicsRunningProcesses):
            for one in self._told(lambda ask=ask: list(ask(handle)), [])[:PROCESSES_MAX]:
                memory = UNKNOWN if one.usedGpuMemory is None else int(one.usedGpuMemory)
                found[int(one.pid)] = max(memory, found.get(int(one.pid), UNKNOWN))
        return [Process(pid, memory) for pid, memory in found.items()]


def installed() -> Library:
    """NVIDIA's own library. Raises NvmlAbsent where there is no driver, without loading anything."""
    if not any(Path(file).exists() for file in DRIVER_FILES):
        raise NvmlAbsent("no NVIDIA driver is loaded on this machine")
    return library()


def library() -> Library:
    """`pynvml`, which needs no driver to be imported. Most machines have no GPU: an agent there does not carry it."""
    return importlib.import_module("pynvml")
