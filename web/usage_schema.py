"""What the API says of a machine's hardware, and of what it uses. Sizes in bytes; null is what it does not tell."""

from typing import Annotated

import msgspec
from msgspec import Meta

from events.hardware import UNKNOWN, Gpu, GpuUse, Inventory
from events.protocol import Heartbeat
from services.beats import Heard

POINTS_MAX = 2000


class GpuView(msgspec.Struct, frozen=True, gc=False):
    """A GPU that the worker offers. `memory`: what tasks may use of it; `part`: a MIG slice."""

    uuid: str
    name: str
    memory: int
    part: bool = False


class GpuUseView(msgspec.Struct, frozen=True, gc=False):
    """A GPU of the machine, offered or not. `memory_own` is used by tasks; `own` and `foreign` count processes.
    Utilisation in percent, temperature in °C, power in W; `ecc_errors`: uncorrected ones since the driver was loaded.
    """

    uuid: str
    memory_total: int
    memory_used: int
    memory_own: int
    own: int
    foreign: int
    utilisation: int | None
    temperature: int | None
    power: int | None
    power_limit: int | None
    ecc_corrected: int | None
    ecc_errors: int | None
    lost: bool


class UsageView(msgspec.Struct, frozen=True, gc=False):
    """A machine at one moment of its own clock. CPU in percent of all; disks and networks in bytes a second."""

    at: Annotated[int, Meta(description="Milliseconds since 1970")]
    cpu_percent: float
    load: float
    memory_used: int
    memory_total: int
    swap_used: int
    disk_free: int
    disk_read: int
    disk_written: int
    net_received: int
    net_sent: int
    running: int
    waiting: int
    gpus: list[GpuUseView]


class InventoryView(msgspec.Struct, frozen=True, gc=False):
    """What the machine is. `driver` and `cuda`: NVIDIA's, "" where there is none."""

    system: str
    kernel: str
    arch: str
    cpu: str
    cores: int
    memory_total: int
    swap_total: int
    disk_total: int
    driver: str
    cuda: str


class UsageAnswer(msgspec.Struct, frozen=True, gc=False):
    """The last ten minutes, oldest first, as far as they are still there."""

    worker: str
    points: list[UsageView]


def gpu_view(gpu: Gpu) -> GpuView:
    """A GPU as the API shows it."""
    return GpuView(gpu.uuid, gpu.name, gpu.memory_bytes, gpu.part)


def _told(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _gpu_use(gpu: GpuUse) -> GpuUseView:
    return GpuUseView(
        gpu.uuid, gpu.memory_total, gpu.memory_used, gpu.memory_own, gpu.own, gpu.foreign, _told(gpu.utilisation),
        _told(gpu.temperature), _told(gpu.power_w), _told(gpu.power_limit_w), _told(gpu.ecc_corrected),
        _told(gpu.ecc_errors), gpu.lost,
    )  # fmt: skip


def usage_view(beat: Heartbeat) -> UsageView:
    """A heartbeat as the API shows it; one of an agent that tells less has zeros."""
    usage = beat.usage
    rates = (usage.disk_read, usage.disk_written, usage.net_received, usage.net_sent) if usage else (0, 0, 0, 0)
    return UsageView(
        beat.at, beat.cpu_percent, usage.load if usage else 0.0, beat.memory_used, beat.memory_total,
        usage.swap_used if usage else 0, beat.disk_free, *rates, beat.running, beat.waiting,
        [_gpu_use(gpu) for gpu in usage.gpus] if usage else [],
    )  # fmt: skip


def inventory_view(found: Inventory) -> InventoryView:
    """An inventory as the API shows it."""
    return InventoryView(*msgspec.structs.astuple(found))


def points(heard: Heard | None) -> list[UsageView]:
    """Everything that is there of a worker."""
    return [usage_view(beat) for beat in list(heard.beats)[-POINTS_MAX:]] if heard else []
