"""What a machine has and uses, as it says so itself: GPUs, inventory, usage. Pure.

A GPU is named by its UUID, which CUDA, containers and NVML all know it by; a MIG slice is a GPU with a UUID of its own.
Sizes in bytes. -1 stands for what this hardware or driver does not tell.
"""

import re

import msgspec

GPUS_MAX = 64
"""GPUs (or MIG slices) of one machine that are offered and told of; a heartbeat stays below its limit with them."""
MODEL_CHARS_MAX = 40
MODEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_BETWEEN = re.compile(r"[^a-z0-9]+")
UNKNOWN = -1


class Gpu(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A GPU that a worker offers. `memory_bytes`: what tasks may use of it, when nobody else does. `part`: a MIG slice;
    CUDA shows a process one of those at most.
    """

    uuid: str
    name: str
    memory_bytes: int
    part: bool = False


class GpuUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A GPU now. `memory_own` is what tasks of this worker use, `own` and `foreign` count the processes on it.
    Utilisation in percent, temperature in °C, power in W; `ecc_errors` are uncorrected ones since the driver was loaded.
    """

    uuid: str
    memory_total: int = 0
    memory_used: int = 0
    memory_own: int = 0
    own: int = 0
    foreign: int = 0
    utilisation: int = UNKNOWN
    temperature: int = UNKNOWN
    power_w: int = UNKNOWN
    power_limit_w: int = UNKNOWN
    ecc_corrected: int = UNKNOWN
    ecc_errors: int = UNKNOWN
    lost: bool = False
    """It no longer answers: fallen off its bus, or in need of a reset."""


class Inventory(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What does not change while a machine runs. `driver` and `cuda` are versions of NVIDIA's ("": no driver)."""

    system: str = ""
    kernel: str = ""
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    memory_total: int = 0
    swap_total: int = 0
    disk_total: int = 0
    driver: str = ""
    cuda: str = ""


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A machine now, beside what its heartbeat says of CPU and memory. `disk_*` and `net_*` are bytes a second over all
    disks and networks, since the sample before.
    """

    load: float = 0.0
    swap_used: int = 0
    disk_read: int = 0
    disk_written: int = 0
    net_received: int = 0
    net_sent: int = 0
    gpus: list[GpuUse] = []


def slug(name: str) -> str:
    """A GPU's name as it is compared: `NVIDIA A100-SXM4-80GB` is `nvidia-a100-sxm4-80gb`."""
    return _BETWEEN.sub("-", name.lower()).strip("-")


def is_model(name: str, model: str) -> bool:
    """Whether the GPU called `name` is of `model` (a slug): `a100` and `a100-sxm4` are, `a10` is not."""
    return f"-{model}-" in f"-{slug(name)}-"
