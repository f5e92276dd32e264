"""A driver for tests of GPUs: answers what NVIDIA's would, with the structures of `pynvml`, as its documentation says.

`Driver` stands in for the library beneath; recordings for agents are made of it as `hivectl worker gpus --record` makes
them of a real one.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.nvml import Nvml, library
from infra.nvml_recording import Recorder

GIB = 2**30
_pynvml: Any = library()
NOT_SUPPORTED: int = _pynvml.NVML_ERROR_NOT_SUPPORTED
GPU_IS_LOST: int = _pynvml.NVML_ERROR_GPU_IS_LOST


@dataclass
class FakeCard:
    """A GPU. `errors`: NVML's code by the function that fails; `slices`: it is divided into these."""

    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    total: int = 80 * GIB
    used: int = 0
    utilisation: int = 7
    temperature: int = 34
    power_mw: int = 62_345
    limit_mw: int = 400_000
    ecc: tuple[int, int] = (3, 0)
    processes: dict[int, int | None] = field(default_factory=dict[int, int | None])
    drawing: dict[int, int | None] = field(default_factory=dict[int, int | None])
    errors: dict[str, int] = field(default_factory=dict[str, int])
    slices: list["FakeCard"] = field(default_factory=list["FakeCard"])


class Driver:
    """The functions that are used of `pynvml`, over `cards`, which a test may change. `fails`: NVML's code for all of it."""

    NVMLError: Any = _pynvml.NVMLError

    def __init__(self, *cards: FakeCard, driver: str = "550.54.15", cuda: int = 12040) -> None:
        self.cards, self.driver, self.cuda, self.fails = list(cards), driver, cuda, 0
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(_pynvml, name)  # constants

    def _check(self, card: FakeCard | None, function: str) -> None:
        if code := self.fails or (card.errors.get(function, 0) or card.errors.get("*", 0) if card else 0):
            raise self.NVMLError(code)

    def nvmlInit(self) -> None:
        self._check(None, "nvmlInit")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        self._check(None, "nvmlDeviceGetCount")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, at: int) -> FakeCard:
        self._check(self.cards[at], "nvmlDeviceGetHandleByIndex")
        return self.cards[at]

    def nvmlDeviceGetMigMode(self, card: FakeCard) -> list[int]:
        self._check(card, "nvmlDeviceGetMigMode")
        return [int(bool(card.slices)), int(bool(card.slices))]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: FakeCard) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: FakeCard, at: int) -> FakeCard:
        if at >= len(card.slices):
            raise self.NVMLError(_pynvml.NVML_ERROR_NOT_FOUND)
        return card.slices[at]

    def nvmlDeviceGetUUID(self, card: FakeCard) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: FakeCard) -> str:
        self._check(card, "nvmlDeviceGetName")
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> Any:
        self._check(card, "nvmlDeviceGetMemoryInfo")
        return _pynvml.c_nvmlMemory_t(card.total, card.total - card.used, card.used)

    def nvmlDeviceGetUtilizationRates(self, card: FakeCard) -> Any:
        self._check(card, "nvmlDeviceGetUtilizationRates")
        return _pynvml.c_nvmlUtilization_t(card.utilisation, 2)

    def nvmlDeviceGetTemperature(self, card: FakeCard, sensor: int) -> int:
        self._check(card, "nvmlDeviceGetTemperature")
        return card.temperature

    def nvmlDeviceGetPowerUsage(self, card: FakeCard) -> int:
        self._check(card, "nvmlDeviceGetPowerUsage")
        return card.power_mw

    def nvmlDeviceGetEnforcedPowerLimit(self, card: FakeCard) -> int:
        self._check(card, "nvmlDeviceGetEnforcedPowerLimit")
        return card.limit_mw

    def nvmlDeviceGetTotalEccErrors(self, card: FakeCard, kind: int, counter: int) -> int:
        self._check(card, "nvmlDeviceGetTotalEccErrors")
        return card.ecc[kind]

    def nvmlDeviceGetComputeRunningProcesses(self, card: FakeCard) -> list[Any]:
        self._check(card, "nvmlDeviceGetComputeRunningProcesses")
        return _processes(card.processes)

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: FakeCard) -> list[Any]:
        self._check(card, "nvmlDeviceGetGraphicsRunningProcesses")
        return _processes(card.drawing)


def _processes(found: dict[int, int | None]) -> list[Any]:
    friendly: Any = _pynvml.nvmlFriendlyObject
    return [
        friendly({"pid": pid, "usedGpuMemory": used, "gpuInstanceId": 0xFFFFFFFF, "computeInstanceId": 0xFFFFFFFF})
        for pid, used in found.items()
    ]


def server(count: int = 2) -> list[FakeCard]:
    """The GPUs of a machine for training, in nobody's use."""
    return [FakeCard(f"GPU-0000000{at}-1111-2222-3333-444444444444", used=GIB // 2) for at in range(count)]


def desktop() -> FakeCard:
    """A card that shows a screen, of a kind that tells neither ECC errors nor slices; this very process draws on it."""
    return FakeCard(
        "GPU-dddddddd-1111-2222-3333-444444444444", "NVIDIA GeForce RTX 4090", 24 * GIB, 3 * GIB, ecc=(0, 0),
        limit_mw=450_000, drawing={os.getpid(): 2 * GIB},
        errors={"nvmlDeviceGetTotalEccErrors": NOT_SUPPORTED, "nvmlDeviceGetMigMode": NOT_SUPPORTED},
    )  # fmt: skip


def divided() -> FakeCard:
    """A card that is divided into two slices, of which the driver tells no utilisation."""
    slices = [
        FakeCard(
            f"MIG-0000000{at}-1111-2222-3333-444444444444", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", 40 * GIB,
            errors={"nvmlDeviceGetUtilizationRates": NOT_SUPPORTED},
        )
        for at in range(2)
    ]  # fmt: skip
    return FakeCard("GPU-aaaaaaaa-1111-2222-3333-444444444444", slices=slices)


def recorded(file: Path, *cards: FakeCard, frames: int = 1) -> Path:
    """A recording of a machine with these cards."""
    recorder = Recorder(Driver(*cards))
    nvml = Nvml.over(recorder)
    nvml.versions()
    for _ in range(frames):
        nvml.cards()
    recorder.save(file)
    return file
