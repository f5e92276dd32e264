"""Processes in bubblewrap: what they were promised works, and each way out is tried and is none."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from events.protocol import Cancel
from events.spec import Input, TaskText
from tests.needs import need
from tests.worker_support import JOB, TICKET, Rig, rigged
from worker import tree
from worker.confine import Rules

PYTHON = "/usr/bin/python3"
MIB = 1024**2


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    need("bubblewrap")
    async with rigged(tmp_path) as rig:
        await rig.start(isolation="bwrap")
        yield rig


async def said(rig: Rig, script: str, **more: Any) -> str:
    """What a script that succeeds prints."""
    lease = rig.pool.sh(script, **more)
    ended = await rig.pool.ended(lease)
    text = rig.pool.text(lease).decode()
    assert (ended.end, ended.code) == ("exit", 0), (ended, text)
    return text


async def test_it_says_what_it_has(rig: Rig) -> None:
    features = rig.pool.hellos[0][1].capacity.features
    assert {"process:bubblewrap", "process:no-network", "process:pids"} <= {*features}
    assert not {"process:network", "process:hosts"} & {*features}


async def test_folder_inputs_results_and_environment(rig: Rig) -> None:
    script = 'pwd; echo "$HOME $HIVE_INDEX $ODD"; cat in; echo out > sub/out; exit 0'
    lease = rig.pool.sh(
        script, env={"ODD": "a 'b'\n$c"}, inputs=[Input("in", rig.shelf.put(b"data\n")), Input("sub/x", rig.shelf.put(b""))],
        results=["sub/out"], ticket=TICKET,
    )  # fmt: skip
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code, ended.reason) == ("exit", 0, "")
    assert rig.pool.text(lease).decode() == "/work\n/work 0 a 'b'\n$c\ndata\n"
    assert rig.shelf.blobs[ended.details[0].results[0].digest] == b"out\n"


async def test_its_use_is_measured(rig: Rig) -> None:
    work = "x = bytearray(300_000_000)\nfor i in range(10_000_000): pass"
    (detail,) = (await rig.pool.ended(rig.pool.run([0, 0], TaskText(command=[PYTHON, "-c", work])))).details
    assert 100 < detail.cpu_ms <= detail.wall_ms * 1.5
    assert 50_000_000 < detail.memory_avg <= detail.memory_peak


async def test_exit_codes_and_signals(rig: Rig) -> None:
    assert (await rig.pool.ended(rig.pool.sh("exit 9"))).code == 9
    assert (await rig.pool.ended(rig.pool.sh("kill -9 $$"))).code == 137


@pytest.mark.parametrize("command", [["no-such-program"], [""]])
async def test_what_cannot_be_started_is_rejected(rig: Rig, command: list[str]) -> None:
    assert (await rig.pool.ended(rig.pool.run([0, 0], TaskText(command)))).end == "rejected"


async def test_a_cancelled_task_may_clean_up(rig: Rig) -> None:
    lease = rig.pool.sh("trap 'echo cleaned; exit 3' TERM; echo ready; while true; do sleep 0.05; done")
    await rig.pool.until(lambda: b"ready" in rig.pool.text(lease), "it is ready")
    rig.pool.say(Cancel(rig.pool.number(), JOB))
    ended = await rig.pool.ended(lease)
    assert ended.end == "cancelled"
    await rig.pool.until(lambda: b"cleaned" in rig.pool.text(lease), "it cleans up")


class TestBreakout:
    async def test_keys_and_homes_are_not_there(self, rig: Rig) -> None:
        seed = rig.who.seed_path
        assert seed.is_file()
        places = f"{seed} {rig.root} /root /home {Path(__file__)} /etc/shadow /var/run/docker.sock /sys/fs/cgroup"
        assert await said(rig, f"for f in {places}; do [ -e $f ] && echo $f is here; done; true") == ""

    async def test_the_machines_processes_are_not_there(self, rig: Rig) -> None:
        script = f"ls /proc | grep -c '^[0-9]'; kill -9 {os.getpid()} 2>/dev/null; cat /proc/1/root/etc/shadow 2>&1 | head -c 99"
        text = await said(rig, script)
        assert int(text.split()[0]) < 10
        assert "root:" not in text

    async def test_its_user_is_its_own_and_has_no_rights(self, rig: Rig) -> None:
        first, second = [
            await said(rig, "id -u; grep -E 'Cap(Eff|Prm|Bnd|Inh|Amb)|NoNewPrivs' /proc/self/status") for _ in "ab"
        ]
        if os.geteuid() == 0:
            assert int(first.split()[0]) >= 2_000_000_000
        for line in first.splitlines()[1:] + second.splitlines()[1:]:
            name, value = line.split()
            if name != "CapBnd:" or os.geteuid() == 0:
                assert int(value, 16) == (name == "NoNewPrivs:"), line

    async def test_two_at_once_are_two_users(self, rig: Rig) -> None:
        need("root")
        leases = [rig.pool.sh("id -u; sleep 1") for _ in "ab"]
        for lease in leases:
            await rig.pool.ended(lease)
        assert len({rig.pool.text(lease) for lease in leases}) == 2

    async def test_nothing_but_its_folder_can_be_written(self, rig: Rig) -> None:
        script = "for d in / /usr /usr/bin /etc /opt /proc /proc/sys/kernel /dev; do touch $d/hive-x 2>/dev/null && echo $d; done; true"
        assert await said(rig, script) == ""
        assert not Path("/usr/hive-x").exists()

    async def test_no_network(self, rig: Rig) -> None:
        port = rig.server.url.rpartition(":")[2]
        script = (
            f"import socket\nfor a in (('127.0.0.1', {port}), ('1.1.1.1', 53), ('169.254.169.254', 80)):\n"
            "  try: socket.create_connection(a, 2); print(a)\n  except OSError: pass\n"
        )
        lease = rig.pool.run([0, 0], TaskText([PYTHON, "-c", script]))
        assert (await rig.pool.ended(lease)).code == 0
        assert rig.pool.text(lease) == b""

    async def test_mounts_and_namespaces(self, rig: Rig) -> None:
        script = "mount -t tmpfs x /work 2>/dev/null && echo mounted; mount -o remount,rw /usr 2>/dev/null && echo again; true"
        assert await said(rig, script) == ""

    async def test_what_makes_the_box_never_sees_the_tasks_variables(self, rig: Rig) -> None:
        """An LD_PRELOAD would be loaded into it, with all its rights."""
        lease = rig.pool.sh("echo $MARK; sleep 600", env={"LD_PRELOAD": "/tmp/evil.so", "MARK": "m"})
        await rig.pool.until(lambda: b"m\n" in rig.pool.text(lease), "it runs")
        _, outside, first, *inside = tree.descendants(rig.keeper_pid())
        assert inside
        for pid in (outside, first):
            assert not {"LD_PRELOAD", "MARK"} & tree.environment(pid).keys()
        assert tree.environment(inside[-1])["MARK"] == "m"

    async def test_a_link_out_of_the_folder_is_no_result(self, rig: Rig) -> None:
        lease = rig.pool.sh("ln -s /etc/passwd out; ln -s / dir", results=["out"], ticket=TICKET)
        ended = await rig.pool.ended(lease)
        assert ended.end == "output_lost"
        assert not rig.shelf.blobs

    async def test_a_fork_bomb(self, rig: Rig) -> None:
        bomb = "import os, time\nfor i in range(100000):\n  try: pid = os.fork()\n  except OSError: print(i, flush=True); break\n  if not pid: time.sleep(60); os._exit(0)\n"
        lease = rig.pool.run([0, 0], TaskText([PYTHON, "-c", bomb], pids=50))
        ended = await rig.pool.ended(lease)
        assert ended.end == "exit"
        assert 10 <= int(rig.pool.text(lease)) <= 50

    async def test_what_it_forked_is_gone_with_it(self, rig: Rig) -> None:
        lease = rig.pool.sh("setsid sh -c 'setsid sleep 987 & setsid sleep 987' & sleep 0.2; exit 0")
        assert (await rig.pool.ended(lease)).code == 0
        async with asyncio.timeout(10):
            while any(_command(pid) == ["sleep", "987"] for pid in os.listdir("/proc") if pid.isdigit()):
                await asyncio.sleep(0.02)


class TestMemory:
    async def test_the_kernel_ends_what_uses_too_much(self, rig: Rig) -> None:
        need("cgroups")
        hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
        lease = rig.pool.run([0, 0], TaskText([PYTHON, "-c", hog]), memory_bytes=60 * MIB)
        other = rig.pool.sh("sleep 1")
        ended = await rig.pool.ended(lease)
        assert (ended.end, ended.code) == ("oom", 137)
        assert 50 * MIB < ended.details[0].memory_peak <= 61 * MIB
        assert (await rig.pool.ended(other)).code == 0

    async def test_a_child_that_was_killed_and_handled_is_no_oom(self, rig: Rig) -> None:
        need("cgroups")
        hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
        lease = rig.pool.sh(f"{PYTHON} -c '{hog}'; exit 0", memory_bytes=60 * MIB)
        assert (await rig.pool.ended(lease)).end == "exit"

    async def test_its_group_is_gone_with_it(self, rig: Rig) -> None:
        need("cgroups")
        await said(rig, "true", memory_bytes=60 * MIB)
        groups = [path for path in Path("/sys/fs/cgroup").glob(f"**/hive-{rig.who.worker}/*") if path.is_dir()]
        async with asyncio.timeout(10):
            while any(path.exists() for path in groups):
                await asyncio.sleep(0.02)


def _command(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []


class TestDisk:
    async def test_a_folder_holds_what_was_asked_for_and_no_more(self, rig: Rig) -> None:
        need("volumes")
        assert "process:disk" in rig.pool.hellos[0][1].capacity.features
        script = "cat in; head -c 30000000 /dev/zero > big; echo $?; ls -l big | awk '{print $5 < 21000000}'; rm big; echo ok > out"
        lease = rig.pool.run(
            [0, 0], TaskText(["sh", "-c", script], disk=20 * MIB, inputs=[Input("in", rig.shelf.put(b"x\n"))], results=["out"]),
            ticket=TICKET,
        )  # fmt: skip
        ended = await rig.pool.ended(lease)
        assert (ended.end, ended.code) == ("exit", 0), ended
        assert rig.pool.text(lease, stream=1) == b"x\n1\n1\n"
        assert rig.shelf.blobs[ended.details[0].results[0].digest] == b"ok\n"
        assert b"No space left" in rig.pool.text(lease, stream=2)

    async def test_a_hundred_thousand_files_do_not_fit(self, rig: Rig) -> None:
        need("volumes")
        make = "import os\ntry:\n  for i in range(100000): open(f'f{i}', 'w').close()\nexcept OSError as e: print(i, e.errno)"
        lease = rig.pool.run([0, 0], TaskText([PYTHON, "-c", make], disk=20 * MIB))
        assert (await rig.pool.ended(lease)).code == 0
        made, errno = map(int, rig.pool.text(lease).split())
        assert made < 100_000
        assert errno == 28  # no space left on device

    async def test_nothing_of_a_volume_is_left(self, rig: Rig) -> None:
        need("volumes")
        lease = rig.pool.run([0, 0], TaskText(["sh", "-c", "echo x > y"], disk=20 * MIB))
        await rig.pool.ended(lease)
        async with asyncio.timeout(10):
            while str(rig.root) in Path("/proc/self/mounts").read_text() or [*(rig.root / "volumes").iterdir()]:
                await asyncio.sleep(0.02)

    async def test_more_than_there_is_is_refused(self, rig: Rig) -> None:
        need("volumes")
        lease = rig.pool.run([0, 0], TaskText(["true"], disk=10**16))
        ended = await rig.pool.ended(lease)
        assert ended.end == "rejected"
        assert "of disk; this machine has" in ended.reason


class TestHosts:
    """A task that may reach some hosts has a proxy in its own network, and nothing else."""

    @pytest.fixture
    async def rig(self, tmp_path: Path) -> AsyncGenerator[Rig]:
        need("bubblewrap")
        need("root")
        async with rigged(tmp_path) as rig:
            await rig.start(isolation="bwrap", rules=Rules(("localhost", "*.example.org")))
            yield rig

    def _fetch(self, rig: Rig, hosts: list[str], *urls: str) -> int:
        script = (
            "import sys, urllib.request, urllib.error\n"
            "handler = urllib.request.ProxyHandler({'http': __import__('os').environ['http_proxy']})\n"
            "for url in sys.argv[1:]:\n"
            "  try: print(urllib.request.build_opener(handler).open(url, timeout=5).status)\n"
            "  except urllib.error.HTTPError as e: print(e.code)\n"
        )
        return rig.pool.run(
            [0, 0], TaskText([PYTHON, "-c", script, *urls], hosts=hosts, env={"no_proxy": "", "NO_PROXY": ""})
        )

    async def test_it_reaches_what_it_named_and_nothing_else(self, rig: Rig) -> None:
        assert "process:hosts" in rig.pool.hellos[0][1].capacity.features
        blob, port = rig.shelf.put(b"x"), rig.shelf.url.rpartition(":")[2]
        there = f"http://localhost:{port}/v1/blobs/{blob}"
        lease = self._fetch(rig, [f"localhost:{port}"], there, f"http://127.0.0.1:{port}/", "http://localhost:1/")
        assert (await rig.pool.ended(lease)).code == 0, rig.pool.text(lease)
        assert rig.pool.text(lease) == b"200\n403\n403\n"

    async def test_a_name_must_have_a_public_address_unless_the_owner_named_it(self, rig: Rig) -> None:
        lease = self._fetch(rig, ["a.example.org"], "http://a.example.org/")
        await rig.pool.ended(lease)
        assert rig.pool.text(lease) == b"502\n"

    async def test_what_the_owner_does_not_allow_is_refused(self, rig: Rig) -> None:
        ended = await rig.pool.ended(self._fetch(rig, ["pypi.org"]))
        assert ended.end == "rejected"
        assert "does not allow 'pypi.org'" in ended.reason

    async def test_there_is_no_other_way_out(self, rig: Rig) -> None:
        port = rig.shelf.url.rpartition(":")[2]
        script = f"import socket\nfor a in (('127.0.0.1', {port}), ('1.1.1.1', 53)):\n  try: socket.create_connection(a, 2); print(a)\n  except OSError: pass\n"
        lease = rig.pool.run([0, 0], TaskText([PYTHON, "-c", script], hosts=["localhost"]))
        assert (await rig.pool.ended(lease)).code == 0
        assert rig.pool.text(lease) == b""
