"""What some tests need and not every machine has. `need("docker")` skips the test, and says why, where it is missing.

Where it must be there, as in CI, `HIVE_TEST_REQUIRE` names it (names separated by commas): the test fails instead.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from worker import volumes
from worker.executors import bubblewrap, cgroups


def docker_socket() -> Path:
    """Where the Docker engine listens, by DOCKER_HOST when that names a socket."""
    return Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))


def _docker() -> str:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(docker_socket()))
        except OSError as error:
            return f"no Docker engine at {docker_socket()}: {error.strerror or error}"
    return ""


def _busybox() -> str:
    return "" if shutil.which("busybox") else "no busybox to make an image of; Debian's package busybox-static has one"


def _bubblewrap() -> str:
    return bubblewrap.find()[1]


def _cgroups() -> str:
    return cgroups.find("test")[1]


def _volumes() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return volumes.find(Path(folder))[1]


def _root() -> str:
    return "" if os.geteuid() == 0 else "only root gives tasks users of their own"


_MISSING: dict[str, Callable[[], str]] = {
    "docker": _docker,
    "busybox": _busybox,
    "bubblewrap": _bubblewrap,
    "cgroups": _cgroups,
    "root": _root,
    "volumes": _volumes,
}


def need(what: str) -> None:
    """Go on only where `what` (docker, busybox, bubblewrap, cgroups, volumes, root) is there."""
    if why := _MISSING[what]():
        if what in os.environ.get("HIVE_TEST_REQUIRE", "").split(","):
            pytest.fail(f"{why}; HIVE_TEST_REQUIRE says that it must be there")
        pytest.skip(why)
