"""What an agent is started with."""

from pathlib import Path
from typing import Literal

import msgspec

from events.base import WorkerId
from infra.tls import Trust
from worker import confine
from worker.cache import CACHE_BYTES_MAX
from worker.fetch import Urls
from worker.output import SPOOL_BYTES_MAX


class AgentOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent needs to know. `seed` is the worker's secret or the file that holds it; 0 means "as found"."""

    state: Path
    worker: WorkerId
    pool: str
    nats_url: str
    api_url: str
    nats_trust: Trust = Trust()
    api_trust: Trust = Trust()
    seed: bytes | Path
    cpus: float = 0.0
    memory_bytes: int = 0
    gpus: str = "auto"
    """Which GPUs are offered: see worker.resources.Resources."""
    nvml_recording: Path | None = None
    """Plays a recorded machine instead of asking this one's driver (see infra.nvml_recording)."""
    engines: Literal["auto", "none"] = "auto"
    """Whether to look for a container engine."""
    isolation: confine.Isolation = "none"
    rules: confine.Rules = confine.Rules()
    packages: str = ""
    """Where packages of Python tasks come from: an index's URL, `none`, or, by default, as this machine is set up."""
    version: str = ""
    cache_bytes_max: int = CACHE_BYTES_MAX
    spool_bytes_max: int = SPOOL_BYTES_MAX
    urls: Urls = "public"
