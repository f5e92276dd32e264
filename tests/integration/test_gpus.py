"""GPUs through a whole hive of processes: what a machine offers is what tasks get, each its own; others' use counts; a
killed agent's GPUs are given again. The machine is a recording, played by a real agent.
"""

import signal
from pathlib import Path

import pytest

from events.task import TasksLeased
from infra.nvml import Nvml
from infra.nvml_recording import Recorder
from tests.nvml_support import GIB, Driver, recorded, server
from tests.system import System, system
from web.client import AsyncHive

pytestmark = pytest.mark.slow
SHOW = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]


async def _outputs(hive: AsyncHive, job: str) -> list[str]:
    return [output.decode().strip() async for output in hive.outputs(job)]


async def _leases(running: System) -> list[TasksLeased]:
    return [
        event for _, message in await running.entries() for event in message.events() if isinstance(event, TasksLeased)
    ]


async def test_each_task_gets_its_own(tmp_path: Path) -> None:
    one, two = server(2)
    file = recorded(tmp_path / "nvml.json", one, two)
    async with system(tmp_path / "hive") as running:
        await running.plane()
        async with running.client() as hive:
            agent = running.agent("gpubox", 8, "--nvml-recording", str(file))
            await running.ready(hive, 1)
            (machine,) = await hive.workers()
            assert [(gpu.uuid, gpu.name) for gpu in machine.gpus] == [(one.uuid, one.name), (two.uuid, two.name)]

            pairs = await hive.submit(SHOW, count=3, gpus=2, gpu_model="A100", gpu_memory=40 * GIB)
            assert (await hive.wait(pairs)).state == "succeeded"
            assert await _outputs(hive, pairs.job) == [f"{one.uuid},{two.uuid}"] * 3

            shares = await hive.submit(SHOW, count=8, gpus=0.25)
            assert (await hive.wait(shares)).state == "succeeded"
            assert {*await _outputs(hive, shares.job)} <= {one.uuid, two.uuid}
            shown = await hive.job(shares.job)
            assert (shown.gpus, shown.gpu_memory) == (0.25, 0)

            many = await hive.submit(SHOW, gpus=3)
            held = await hive.job(many.job)
            assert (held.state, "needs 3 GPUs on one machine" in held.reason) == ("held", True)

            async def heard() -> bool:
                shown = await hive.worker(machine.worker)
                return shown.usage is not None and shown.inventory is not None

            await running.until(heard, "the API knows what the machine said")
            shown_worker = await hive.worker(machine.worker)
            assert shown_worker.inventory is not None and shown_worker.inventory.cuda == "12.4"
            assert not (await hive.configure(machine.worker, 0.5)).existing
            assert (await hive.configure(machine.worker, 0.5)).existing
            points = await hive.worker_usage(machine.worker)
            assert [gpu.uuid for gpu in points[-1].gpus] == [one.uuid, two.uuid]

            # A task that holds both, and an agent that is killed: the next one gives them again.
            long = await hive.submit(["sleep", "60"], gpus=2)

            async def runs() -> bool:
                return (await hive.job(long.job)).leased + (await hive.job(long.job)).running == 1

            await running.until(runs, "it has the GPUs")
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            running.agent("gpubox", 8, "--nvml-recording", str(file))
            await hive.cancel(long.job)
            again = await hive.submit(SHOW, gpus=2)
            assert (await hive.wait(again)).state == "succeeded"
        leases = await _leases(running)
        assert all(len(lease.gpus) == 2 for lease in leases if lease.job in (pairs.job, again.job))


async def test_what_others_take_is_given_to_nobody(tmp_path: Path) -> None:
    """At first both are free; then somebody takes most of the first one, and the pool hears of it."""
    one, two = server(2)
    recorder = Recorder(Driver(one, two))
    nvml = Nvml.over(recorder)
    nvml.cards()  # what the agent offers
    one.used = 60 * GIB
    nvml.cards()
    recorder.save(tmp_path / "nvml.json")
    async with system(tmp_path / "hive") as running:
        await running.plane()
        async with running.client() as hive:
            running.agent("gpubox", 8, "--nvml-recording", str(tmp_path / "nvml.json"))
            await running.ready(hive, 1)
            (machine,) = await hive.workers()

            async def heard() -> bool:
                points = await hive.worker_usage(machine.worker)
                return bool(points) and points[-1].gpus[0].memory_used == 60 * GIB

            await running.until(heard, "somebody uses the first GPU")
            job = await hive.submit(SHOW, count=4, gpus=1)
            assert (await hive.wait(job)).state == "succeeded"
            assert await _outputs(hive, job.job) == [two.uuid] * 4, "one after the other, on the free one"
            small = await hive.submit(SHOW, gpus=1, gpu_memory=10 * GIB)
            both = await hive.submit(SHOW, gpus=2, gpu_memory=10 * GIB)
            assert (await hive.wait(small)).state == "succeeded"
            assert (await hive.wait(both)).state == "succeeded", "who says how little it needs fits beside"
