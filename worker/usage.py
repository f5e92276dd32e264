"""What this machine is, by psutil."""

import os
import time
from pathlib import Path
from typing import Any

import psutil

MEMORY_SHARE = 0.9
"""Of the machine's memory, what is offered to tasks unless told otherwise."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_psutil: Any = psutil


def boot_id() -> str:
    """Names this boot of the machine: processes of another boot cannot be alive."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"boot-{int(_psutil.boot_time())}"


def since_boot_ms() -> int:
    """How long ago this machine booted: later in a boot is more, over pauses, too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def cpus() -> float:
    """How many CPUs this process may use."""
    return float(len(os.sched_getaffinity(0)))


def memory_bytes() -> int:
    """The memory to offer to tasks."""
    return int(_psutil.virtual_memory().total * MEMORY_SHARE)
