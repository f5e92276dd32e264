"""Which GPUs a task gets: the pool's own books of every device, by UUID. Pure.

A device is a thousand thousandths and some memory. A task takes a share of one (`milli` below 1000) or some whole ones,
and `memory` bytes of each. What others use of a machine's GPUs is told by its polls, and can only lower what is free.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from events.hardware import Gpu, is_model
from events.job import JobSubmitted
from events.units import size_text

WHOLE = 1000
MIB = 1024 * 1024
FOREIGN_PART_MAX = 4
"""A task that does not say how much memory it needs gets no GPU of which others use more than one in so many parts."""


class GpuNeed(NamedTuple):
    """What a task needs of GPUs: thousandths (below 1000: a share of one), bytes of each, and the model's slug."""

    milli: int = 0
    memory: int = 0
    model: str = ""

    @property
    def devices(self) -> int:
        """How many devices."""
        return max(1, self.milli // WHOLE) if self.milli else 0

    @property
    def each(self) -> int:
        """How many thousandths of each device."""
        return min(self.milli, WHOLE)

    def least(self) -> "GpuNeed":
        """The least need of this one's class: rounded down to powers of two, of any model. Where that does not go in,
        nothing of the class does.
        """
        if not self.milli:
            return NO_GPU
        unit = WHOLE if self.milli >= WHOLE else 1
        return GpuNeed(_floor(self.milli // unit) * unit, _floor(self.memory))

    def text(self) -> str:
        """For people."""
        what = "1 GPU" if self.milli == WHOLE else f"{self.milli / WHOLE:g} GPUs" if self.milli > WHOLE else ""
        what = what or f"{self.milli / WHOLE:g} of a GPU"
        return (
            what + (f" {self.model}" if self.model else "") + (f" with {size_text(self.memory)}" if self.memory else "")
        )


NO_GPU = GpuNeed()


def need_of(fact: JobSubmitted) -> GpuNeed:
    """What each task of the job needs."""
    return GpuNeed(fact.gpus_milli, fact.gpu_memory, fact.gpu_model) if fact.gpus_milli else NO_GPU


def _floor(number: int) -> int:
    return number and 1 << number.bit_length() - 1


class Held(msgspec.Struct, gc=False):
    """What tasks have of one device: thousandths, and bytes."""

    milli: int = 0
    memory: int = 0


NOTHING = Held()


def hold(held: dict[str, Held], gpus: Iterable[str], need: GpuNeed, tasks: int) -> None:
    """Write down that so many tasks have (or, negative, no longer have) what they need of `gpus`."""
    for uuid in gpus:
        one = held.setdefault(uuid, Held())
        one.milli += tasks * need.each
        one.memory += tasks * need.memory
        if not one.milli:
            del held[uuid]


def may_hold(offered: Sequence[Gpu], held: dict[str, Held], gpus: Sequence[str], need: GpuNeed, tasks: int) -> bool:
    """Whether so many tasks fit on these `gpus` beside what is held there."""
    memory = {gpu.uuid: gpu.memory_bytes for gpu in offered} if gpus else {}
    return all(
        held.get(uuid, NOTHING).milli + tasks * need.each <= WHOLE
        and held.get(uuid, NOTHING).memory + tasks * need.memory <= memory.get(uuid, -1)
        for uuid in gpus
    )


def can_ever(offered: Sequence[Gpu], need: GpuNeed) -> bool:
    """Whether the task fits on a machine that offers these, while nobody uses them."""
    return not need.milli or sum(_suits(gpu, need) for gpu in offered) >= need.devices


def _suits(gpu: Gpu, need: GpuNeed) -> bool:
    return (
        need.memory <= gpu.memory_bytes
        and not (gpu.part and need.devices > 1)
        and (not need.model or is_model(gpu.name, need.model))
    )


class _Device:
    """A device with what is free of it. `quiet`: others hardly use it."""

    __slots__ = ("gpu", "memory", "milli", "quiet")

    def __init__(self, gpu: Gpu, held: Held | None, usable: int) -> None:
        self.gpu = gpu
        self.milli = WHOLE - (held.milli if held else 0)
        self.memory = usable - (held.memory if held else 0)
        self.quiet = usable * FOREIGN_PART_MAX >= gpu.memory_bytes * (FOREIGN_PART_MAX - 1)

    def takes(self, need: GpuNeed) -> int:
        """How many tasks that need this of one device go on it."""
        if not _suits(self.gpu, need) or not (need.memory or self.quiet):
            return 0
        most = self.milli // need.each
        return max(0, min(most, self.memory // need.memory) if need.memory else most)


class Devices:
    """The free GPUs of one worker. `told`: MiB that its poll says are usable of each, in the order of `offered`."""

    def __init__(self, offered: Sequence[Gpu], held: dict[str, Held], told: Sequence[int]) -> None:
        self._devices: list[_Device] = []
        for at, gpu in enumerate(offered):
            usable = min(gpu.memory_bytes, told[at] * MIB) if at < len(told) else gpu.memory_bytes
            self._devices.append(_Device(gpu, held.get(gpu.uuid), usable))

    def fits(self, need: GpuNeed) -> int:
        """How many tasks that need this go in."""
        each = [device.takes(need) for device in self._devices]
        return sum(each) if need.devices == 1 else sum(map(bool, each)) // need.devices

    def deal(self, need: GpuNeed, tasks: int) -> list[tuple[list[str], int]]:
        """Devices for up to so many tasks, as (UUIDs, how many tasks are on them), which are taken. Shares go where least
        is left, so that whole GPUs stay whole.
        """
        dealt: list[tuple[list[str], int]] = []
        if need.devices > 1:
            free = [device for device in self._devices if device.takes(need)]
            for at in range(0, min(len(free) // need.devices, tasks) * need.devices, need.devices):
                some = free[at : at + need.devices]
                for device in some:
                    self._take(device, need, 1)
                dealt.append(([device.gpu.uuid for device in some], 1))
            return dealt
        for device in sorted(self._devices, key=lambda device: (device.milli, device.memory)):
            if count := min(device.takes(need), tasks):
                self._take(device, need, count)
                tasks -= count
                dealt.append(([device.gpu.uuid], count))
        return dealt

    @staticmethod
    def _take(device: _Device, need: GpuNeed, tasks: int) -> None:
        device.milli -= tasks * need.each
        device.memory -= tasks * need.memory
