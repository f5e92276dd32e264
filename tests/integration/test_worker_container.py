"""Tasks in containers of a real engine, with an image made of nothing but busybox."""

import asyncio
import io
import os
import shutil
import signal
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from events.protocol import Cancel
from events.spec import Input, TaskText
from infra.engine import Engine
from infra.folder import write_atomic
from tests.needs import need
from tests.worker_support import JOB, TICKET, WAIT_S, Rig, rigged
from worker.confine import Rules

IMAGE = "localhost:1/hive-test-busybox"
TAG = f"test-{os.getpid()}"
"""Its own in each process that runs tests."""
NOWHERE = "localhost:1/there-is-no-such-image"
"""Looked for on this machine and nowhere else."""
APPLETS = (
    "sh",
    "cat",
    "echo",
    "env",
    "id",
    "ls",
    "sleep",
    "stat",
    "touch",
    "true",
    "yes",
    "head",
    "tr",
    "kill",
    "dd",
    "wc",
)


@pytest.fixture
async def image() -> AsyncGenerator[str]:
    """An image with one static program, imported: nothing is downloaded."""
    need("docker")
    need("busybox")
    found = shutil.which("busybox")
    assert found is not None
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(found).resolve(), "bin/busybox", recursive=False)
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    docker: Any = aiodocker.Docker()
    try:
        async with docker._query(
            "images/create", "POST", params={"fromSrc": "-", "repo": IMAGE, "tag": TAG}, data=archive.getvalue()
        ) as answer:
            await answer.read()
        yield f"{IMAGE}:{TAG}"
        await docker.images.delete(f"{IMAGE}:{TAG}", force=True)
    finally:
        await docker.close()


@pytest.fixture
async def rig(tmp_path: Path, image: str) -> AsyncGenerator[Rig]:
    async with rigged(tmp_path) as rig:
        await rig.start(engines="auto", rules=Rules(("full",)))
        yield rig
        await rig.close()
        await nothing_left(rig)


async def nothing_left(rig: Rig) -> None:
    """No container of this worker remains."""
    engine = await Engine.find()
    assert engine is not None
    try:
        assert await engine.labelled(f"hive.worker={rig.who.worker}") == []
    finally:
        await engine.close()


def sh(rig: Rig, script: str, **more: Any) -> int:
    own = ("env", "cwd", "inputs", "results", "network", "hosts", "disk", "pids", "swap", "pull", "secrets")
    text = {name: more.pop(name) for name in own if name in more}
    return rig.pool.run(
        [0, 0], TaskText(command=["sh", "-c", script], image=f"{IMAGE}:{TAG}", **text), kind="container", **more
    )


async def test_the_capacity_says_so(rig: Rig) -> None:
    capacity = rig.pool.hellos[0][1].capacity
    assert capacity.kinds == ("process", "noop", "shell", "python", "container")
    assert "container:pids" in capacity.features
    assert "container:network" in capacity.features


async def test_code_output_files_and_environment(rig: Rig) -> None:
    lease = sh(
        rig,
        "echo $HIVE_INDEX $MINE; pwd; echo err >&2; cat in > out; exit 0",
        env={"MINE": "m"},
        inputs=[Input("in", rig.shelf.put(b"data"))],
        results=["out"],
        ticket=TICKET,
    )
    ended = await rig.pool.ended(lease)
    assert ended.end == "exit", ended.reason
    assert (ended.code, ended.reason) == (0, "")
    assert rig.pool.text(lease, stream=1) == b"0 m\n/work\n"
    assert rig.pool.text(lease, stream=2) == b"err\n"
    assert rig.shelf.blobs[ended.details[0].results[0].digest] == b"data"
    assert ended.details[0].wall_ms > 0


async def test_exit_codes(rig: Rig) -> None:
    assert (await rig.pool.ended(sh(rig, "exit 9"))).code == 9


async def test_much_output_of_any_bytes(rig: Rig) -> None:
    lease = sh(rig, "dd if=/dev/zero bs=1000000 count=5 2>/dev/null; echo; yes | head -c 100000 >&2")
    await rig.pool.ended(lease)
    assert len(rig.pool.text(lease, stream=1)) == 5_000_001
    assert len(rig.pool.text(lease, stream=2)) == 100_000


async def test_it_is_confined(rig: Rig) -> None:
    lease = sh(
        rig,
        "touch /x 2>/dev/null && echo wrote; touch /tmp/x && touch $PWD/x && echo may; "
        "cat /proc/net/dev | wc -l; cat /proc/self/status | tr '\\t' ' '",
    )
    await rig.pool.ended(lease)
    said = rig.pool.text(lease).decode()
    assert said.startswith("may\n3\n")  # two lines of heading and the loopback device
    assert "CapEff: 0000000000000000" in said
    assert "NoNewPrivs: 1" in said


async def test_time_limit(rig: Rig) -> None:
    ended = await rig.pool.ended(sh(rig, "trap 'exit 1' TERM; while true; do sleep 0.05; done", time_limit_ms=300))
    assert ended.end == "timeout"


async def test_memory_limit(rig: Rig) -> None:
    # busybox' dd takes its block from the heap.
    ended = await rig.pool.ended(sh(rig, "exec dd if=/dev/zero of=/dev/null bs=200M count=1", memory_bytes=50_000_000))
    assert (ended.end, ended.code) == ("oom", 137)
    assert "its 47.7 MiB of memory" in ended.reason


async def test_cancel(rig: Rig) -> None:
    lease = sh(rig, "trap 'exit 1' TERM; while true; do sleep 0.05; done")
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    rig.pool.say(Cancel(rig.pool.number(), JOB))
    assert (await rig.pool.ended(lease)).end == "cancelled"


@pytest.mark.parametrize(
    ("asked", "command", "why"),
    [
        (NOWHERE, ["true"], f"the image {NOWHERE!r} is not on this machine"),
        ("", ["no-such-program"], "no-such-program"),
    ],
)
async def test_what_cannot_be_started_is_rejected(
    rig: Rig, image: str, asked: str, command: list[str], why: str
) -> None:
    lease = rig.pool.run([0, 0], TaskText(command=command, image=asked or image), kind="container")
    ended = await rig.pool.ended(lease)
    if (
        ended.end == "exit"
    ):  # an engine whose first process starts the task tells in its output what could not be started
        assert (ended.code, bool(asked)) == (127, False)
        assert why in rig.pool.text(lease).decode()
    else:
        assert ended.end == "rejected"
        assert why in ended.reason


async def test_a_killed_agents_container_goes_on_and_its_output_is_complete(rig: Rig) -> None:
    lease = sh(rig, "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 7")
    await rig.pool.until(lambda: b"line 3\n" in rig.pool.text(lease), "it prints")
    await rig.kill(rig.running[-1])
    await rig.start(engines="auto")
    assert [held.lease for held in rig.pool.hellos[-1][1].holding] == [lease]
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code) == ("exit", 7)
    assert rig.pool.text(lease) == b"".join(b"line %d\n" % n for n in range(300))


async def test_a_killed_keepers_containers_are_removed(rig: Rig) -> None:
    lease = sh(rig, "while true; do sleep 0.05; done")
    await rig.pool.until(lambda: rig.pool.started(lease), "it starts")
    os.kill(rig.keeper_pid(), signal.SIGKILL)
    assert (await rig.pool.ended(lease)).end == "lost"
    engine = await Engine.find()
    assert engine is not None
    async with asyncio.timeout(WAIT_S):
        while await engine.labelled(f"hive.worker={rig.who.worker}"):
            await asyncio.sleep(0.05)
    await engine.close()


class TestBreakout:
    async def test_its_user_is_none_of_the_machines(self, rig: Rig) -> None:
        lease = sh(rig, "id -u")
        await rig.pool.ended(lease)
        uid = int(rig.pool.text(lease))
        assert uid >= 2_000_000_000 if os.geteuid() == 0 else uid == os.getuid()

    async def test_namespaces_devices_and_sockets(self, rig: Rig) -> None:
        lease = sh(
            rig,
            "ls /proc | tr '\\n' ' ' ; for f in /dev/sda /dev/vda /dev/mem /dev/kmsg /var/run/docker.sock /dev/loop-control; do "
            "[ -e $f ] && echo $f; done; stat -f -c %T /proc > /dev/null; kill -9 1 2>/dev/null; echo end",
        )
        await rig.pool.ended(lease)
        text = rig.pool.text(lease).decode()
        assert text.endswith("\nend\n") or text.rstrip().endswith("end")
        assert "/dev/" not in text
        assert "docker.sock" not in text
        assert str(os.getpid()) not in text.split()

    async def test_a_link_out_of_the_folder_is_no_result(self, rig: Rig) -> None:
        lease = sh(rig, "cat /proc/self/mounts > mounts; exec ls -la", results=["out"], ticket=TICKET)
        assert (await rig.pool.ended(lease)).end == "output_lost"

    async def test_a_fork_bomb(self, rig: Rig) -> None:
        lease = sh(rig, "i=0; while [ $i -lt 300 ]; do sleep 30 & i=$((i+1)); done; echo all", pids=30)
        other = sh(rig, "echo fine")
        ended = await rig.pool.ended(lease)
        assert ended.code != 0
        assert b"all" not in rig.pool.text(lease)
        assert (await rig.pool.ended(other)).code == 0

    async def test_a_full_disk_is_its_own(self, rig: Rig) -> None:
        need("volumes")
        assert "container:disk" in rig.pool.hellos[0][1].capacity.features
        lease = sh(rig, "dd if=/dev/zero of=big bs=1M count=40; echo $?; ls -l big | tr -s ' '", disk=20_000_000)
        await rig.pool.ended(lease)
        assert b"No space left" in rig.pool.text(lease)
        assert rig.pool.text(lease, stream=1).startswith(b"1\n")

    async def test_a_network_of_its_own_when_asked(self, rig: Rig) -> None:
        lease = sh(rig, "cat /proc/net/dev | wc -l; ls /sys/class/net", network="full")
        ended = await rig.pool.ended(lease)
        if ended.end == "rejected":
            pytest.skip(f"this engine makes no networks: {ended.reason}")
        assert "eth0" in rig.pool.text(lease).decode()

    async def test_some_hosts_by_a_proxy_and_nothing_else(self, rig: Rig) -> None:
        need("root")
        lease = sh(rig, "echo $http_proxy; cat /proc/net/dev | wc -l", hosts=["localhost"])
        ended = await rig.pool.ended(lease)
        assert ended.end == "exit", ended.reason
        assert rig.pool.text(lease) == b"http://127.0.0.1:3128\n3\n"


class TestImages:
    async def test_never_is_never(self, rig: Rig) -> None:
        lease = rig.pool.run([0, 0], TaskText(["true"], image=NOWHERE, pull="never"), kind="container")
        ended = await rig.pool.ended(lease)
        assert ended.end == "rejected"
        assert "never to be fetched" in ended.reason

    async def test_always_asks_the_registry(self, rig: Rig) -> None:
        ended = await rig.pool.ended(sh(rig, "true", pull="always"))
        assert ended.end == "rejected"
        assert "is on this machine, but could not be fetched" in ended.reason

    async def test_what_was_fetched_with_a_login_is_not_for_everybody(self, rig: Rig, image: str) -> None:
        engine = await Engine.find()
        assert engine is not None
        found = await engine.image_id(image)
        await engine.close()
        write_atomic(rig.root / "private-images", found.encode())
        await rig.kill(rig.running[-1])
        await rig.start(engines="auto")
        ended = await rig.pool.ended(sh(rig, "true"))
        assert ended.end == "rejected"
        assert "could not be fetched" in ended.reason
