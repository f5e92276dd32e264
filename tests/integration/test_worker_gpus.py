"""A worker with GPUs, played from a recording: what it offers, what its tasks see, what it says when others use them."""

import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from events.protocol import Configure
from tests.nvml_support import GIB, desktop, recorded, server
from tests.worker_support import Rig, rigged


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    async with rigged(tmp_path) as rig:
        yield rig


SHOW = "echo $CUDA_VISIBLE_DEVICES,$NVIDIA_VISIBLE_DEVICES,$HIVE_GPUS"


async def test_a_task_sees_its_own_gpus_by_uuid(rig: Rig, tmp_path: Path) -> None:
    one, two = server(2)
    await rig.start(nvml_recording=recorded(tmp_path / "nvml.json", one, two))
    hello = rig.pool.hellos[0][1]
    assert [gpu.uuid for gpu in hello.capacity.gpus] == [one.uuid, two.uuid]
    assert all(78 * GIB > gpu.memory_bytes > 76 * GIB for gpu in hello.capacity.gpus)
    lease = rig.pool.sh(SHOW, gpus=[two.uuid], gpus_milli=1000)
    none = rig.pool.sh(SHOW)
    assert (await rig.pool.ended(lease)).code == (await rig.pool.ended(none)).code == 0
    await rig.pool.until(lambda: rig.pool.text(none) and rig.pool.text(lease), "what they printed")
    assert rig.pool.text(lease).decode() == f"{two.uuid},{two.uuid},1\n"
    assert rig.pool.text(none) == b",void,\n"


async def test_the_polls_and_heartbeats_tell_what_others_use(rig: Rig, tmp_path: Path) -> None:
    card = desktop()
    await rig.start(nvml_recording=recorded(tmp_path / "nvml.json", card))
    await rig.pool.until(lambda: rig.pool.polls[-1].gpus, "a poll that tells of the GPU")
    (usable,) = rig.pool.polls[-1].gpus
    offered = rig.pool.hellos[0][1].capacity.gpus[0].memory_bytes // 2**20
    assert usable == offered - 3 * 1024
    await rig.pool.until(lambda: rig.pool.beats, "a heartbeat")
    beat = rig.pool.beats[0]
    assert beat.usage is not None and beat.inventory is not None
    (gpu,) = beat.usage.gpus
    assert (gpu.memory_used, gpu.own, gpu.foreign) == (3 * GIB, 0, 1)
    assert (beat.inventory.driver, beat.inventory.cuda) == ("550.54.15", "12.4")


async def test_the_owner_may_keep_them(rig: Rig, tmp_path: Path) -> None:
    await rig.start(nvml_recording=recorded(tmp_path / "nvml.json", *server(2)), gpus="none")
    assert rig.pool.hellos[0][1].capacity.gpus == ()
    lease = rig.pool.sh("echo ${CUDA_VISIBLE_DEVICES-unset}")
    await rig.pool.ended(lease)
    assert rig.pool.text(lease) == b"unset\n"


async def test_a_process_of_a_task_is_its_own(rig: Rig, tmp_path: Path) -> None:
    """Whose a process is, with real ones: a task's child and one that it left, and this very process."""
    from worker.whose import is_own

    await rig.start()
    script = (
        "import os, sys, json, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "bare = subprocess.Popen(['sleep', '60'], env={})\n"
        "print(json.dumps([os.getpid(), child.pid, bare.pid]), flush=True)\n"
        "sys.stdin.close(); time.sleep(60)\n"
    )
    lease = rig.pool.sh(f'exec {sys.executable} -c "{script}"')
    await rig.pool.until(lambda: rig.pool.text(lease), "its processes")
    pids: list[int] = json.loads(rig.pool.text(lease))
    assert [is_own(pid, rig.who.worker) for pid in pids] == [True, True, True]
    assert not any(is_own(pid, "wother") for pid in pids)


async def test_the_platform_says_how_often_to_measure(rig: Rig) -> None:
    await rig.start()
    await rig.pool.until(lambda: rig.pool.beats, "the first heartbeat")
    rig.pool.say(Configure(rig.pool.number(), 500))
    await rig.pool.until(lambda: len(rig.pool.beats) > 3, "more of them at once, and then twice a second")
    assert rig.pool.beats[3].at - rig.pool.beats[2].at < 2500
