"""A task as the engine is asked for it: what it may use, reach and see. Pure.

It sees its image, read-only, its folder at HOME and a small /tmp. It has no capability and can get none, no device, no
namespace of the machine's, no socket; its user is none of the machine's where the agent may choose one.
"""

from typing import Any

from infra.engine import About
from worker import tree
from worker.emits import EMIT_FILE
from worker.executors.base import CONTAINER_HOME as HOME
from worker.executors.base import Box, Launch

PIDS_MAX = 1024
"""Processes and threads, unless the job asks for another number."""
TMP_OPTIONS = "rw,nosuid,nodev,noexec,size=64m,mode=1777"
SHM_BYTES = 64 * 1024**2
MEMORY_MIN = 6 * 1024 * 1024
"""Docker refuses less."""
LABEL = "hive.worker"
TASK_LABEL = "hive.task"
OOM_SCORE = 500
"""When the machine runs out of memory it is tasks that end first."""
PROXY = "http://127.0.0.1:3128"
"""Where a task finds its way to the hosts that it may reach."""


def name_of(worker: str, launch: Launch) -> str:
    """What the container is called."""
    return f"hive-{worker}-{launch.order.number}.{launch.index}"


def proxy_environment() -> dict[str, str]:
    """What tells programs to go through the proxy: each reads one of the spellings."""
    local, found = "localhost,127.0.0.1", dict[str, str]()
    for name, value in (("http_proxy", PROXY), ("https_proxy", PROXY), ("no_proxy", local)):
        found[name] = found[name.upper()] = value
    return found


def config_of(launch: Launch, box: Box, worker: str, about: About, user: str, network: str) -> dict[str, Any]:
    """The body with which the engine makes the container. `user`: UID:GID; `network`: one of the engine's, by name."""
    order, index = launch.order, launch.index
    env = {
        "HOME": HOME,
        "TMPDIR": "/tmp",
        **(proxy_environment() if box.network == "hosts" else {}),
        **launch.env,
        "HIVE_JOB": order.job,
        "HIVE_INDEX": str(index),
        "HIVE_COUNT": str(order.count),
        "HIVE_ATTEMPT": str(order.attempt),
        "HIVE_EMIT": f"{HOME}/{EMIT_FILE}",
        tree.WORKER_MARK: worker,
    }
    config: dict[str, Any] = {
        "Image": order.text.image,
        "User": user,
        "WorkingDir": f"{HOME}/{order.text.cwd}" if order.text.cwd else HOME,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Labels": {LABEL: worker, TASK_LABEL: f"{order.number}.{index}"},
        "HostConfig": _host(launch, box, about, network),
    }
    if launch.args:
        config["Cmd"] = launch.args
    return config


def _host(launch: Launch, box: Box, about: About, network: str) -> dict[str, Any]:
    host: dict[str, Any] = {
        "Mounts": [
            {"Type": "bind", "Source": launch.folder, "Target": HOME, "BindOptions": {"Propagation": "rprivate"}}
        ],
        "NetworkMode": network,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": TMP_OPTIONS},
        "ShmSize": SHM_BYTES,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "NanoCpus": launch.order.cpus_milli * 1_000_000,
        "OomScoreAdj": OOM_SCORE,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "LogConfig": {"Type": "none"},
    }
    if about.init:
        host["Init"] = True
    if about.cgroup > 1:
        host["CgroupnsMode"] = "private"
    if launch.order.gpus:
        host["DeviceRequests"] = [{"Driver": "nvidia", "DeviceIDs": launch.order.gpus, "Capabilities": [["gpu"]]}]
    if about.pids:
        host["PidsLimit"] = box.pids or PIDS_MAX
    if about.memory and box.memory:
        host["Memory"] = max(box.memory, MEMORY_MIN)
        if about.swap:
            host["MemorySwap"] = host["Memory"] + box.swap
    return host
