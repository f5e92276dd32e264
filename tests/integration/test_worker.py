"""Agents with real processes against a real nats-server; the test plays the pool."""

import asyncio
import hashlib
import signal
from typing import Any

import pytest
from psutil import Process

from events.protocol import Cancel
from events.spec import TaskText
from tests.worker_support import JOB, Rig, gone
from worker.usage import boot_id

FLOOD_BYTES = 60_000_000


class TestTasks:
    async def test_the_first_poll_says_who_it_is(self, at_work: Rig) -> None:
        session, hello = at_work.pool.hellos[0]
        assert len(session) == 12
        assert len(hello.nonce) == 32
        assert hello.boot == boot_id()
        assert hello.capacity.cpus_milli == 2000
        assert hello.capacity.kinds == ("process", "noop", "shell", "python")

    async def test_exit_codes_output_and_use(self, at_work: Rig) -> None:
        pool = at_work.pool
        lease = pool.sh("echo out; echo err >&2; exit 3")
        ended = await pool.ended(lease)
        assert (ended.end, ended.code) == ("exit", 3)
        (detail,) = ended.details
        whole = bytes(pool.outputs[lease, 0])
        assert pool.text(lease, stream=1) == b"out\n"
        assert pool.text(lease, stream=2) == b"err\n"
        assert detail.out == hashlib.sha256(whole).hexdigest()
        assert detail.out_size == len(whole)
        assert detail.started_at > 1_600_000_000_000

    async def test_a_signal_is_128_and_its_number(self, at_work: Rig) -> None:
        assert (await at_work.pool.ended(at_work.pool.sh("kill -SEGV $$"))).code == 128 + signal.SIGSEGV

    async def test_each_task_of_an_array_has_a_folder_and_an_environment_of_its_own(self, at_work: Rig) -> None:
        pool = at_work.pool
        lease = pool.sh(
            'touch here; ls; echo "$HIVE_JOB $HIVE_INDEX $HIVE_COUNT $HIVE_ATTEMPT $MINE $HOME" | sed "s|$PWD|P|"',
            [2, 4],
            env={"MINE": "x y"},
            attempt=7,
            count=9,
        )
        for index in (2, 3, 4):
            await pool.ended(lease, index)
            assert pool.text(lease, index).decode() == f"here\n{JOB} {index} 9 7 x y P\n"

    async def test_the_agents_own_environment_stays_out(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HIVE_KEY", "secret")
        await rig.start()
        lease = rig.pool.sh("env | cut -d= -f1 | sort | tr '\\n' ' '; ls /proc/self/fd | wc -l; umask")
        await rig.pool.ended(lease)
        *names, fds, _ = rig.pool.text(lease).decode().split()
        ours = {"HIVE_JOB", "HIVE_INDEX", "HIVE_COUNT", "HIVE_ATTEMPT", "HIVE_EMIT", "HIVE_WORKER", "HIVE_TASK"}
        assert ours <= set(names) <= ours | {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
        assert int(fds) <= 4

    async def test_folders_are_private_and_removed(self, at_work: Rig) -> None:
        pool = at_work.pool
        lease = pool.sh("stat -c %a .; mkdir -p a/b; touch a/b/c; chmod 500 a/b")
        await pool.ended(lease)
        assert pool.text(lease).split() == [b"700"]
        async with asyncio.timeout(20):
            while any((at_work.root / "tasks").iterdir()):
                await asyncio.sleep(0.01)

    @pytest.mark.parametrize(
        ("command", "more", "why"),
        [
            (["no-such-program"], {}, "command not found: 'no-such-program'"),
            (["./missing"], {}, "command not found: './missing'"),
            (["/etc/passwd"], {}, "not an executable file"),
            (["true"], {"cwd": "nowhere"}, "working folder 'nowhere'"),
            ([], {}, "command is empty"),
            (["true", "x" * 200_000], {}, "too long"),
        ],
    )
    async def test_what_cannot_be_started_is_rejected_with_the_reason(
        self, at_work: Rig, command: list[str], more: dict[str, Any], why: str
    ) -> None:
        ended = await at_work.pool.ended(at_work.pool.run([0, 0], TaskText(command=command, **more)))
        assert ended.end == "rejected"
        assert why in ended.reason

    async def test_a_noop_array_takes_no_processes(self, at_work: Rig) -> None:
        lease = at_work.pool.run([0, 199_999], TaskText(), kind="noop")
        assert (await at_work.pool.ended(lease, 199_999)).end == "exit"

    async def test_many_short_tasks_each_end_once(self, at_work: Rig) -> None:
        lease = at_work.pool.run([0, 199], TaskText(command=["true"]))
        await at_work.pool.ended(lease, 0)
        await at_work.pool.until(lambda: len(at_work.pool.ends(lease)) == 200, "all end")
        assert {ended.code for ended in at_work.pool.ends(lease).values()} == {0}


class TestLimits:
    async def test_time(self, at_work: Rig) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh("exec sleep 60", time_limit_ms=200))
        assert ended.end == "timeout"
        assert "0.2 s" in ended.reason
        assert 200 <= ended.details[0].wall_ms < 5000

    async def test_time_for_one_that_does_not_listen(self, at_work: Rig) -> None:
        ended = await at_work.pool.ended(at_work.pool.sh("trap '' TERM; sleep 60 & wait; wait", time_limit_ms=200))
        assert ended.end == "timeout"

    async def test_memory_of_the_whole_tree(self, at_work: Rig) -> None:
        hog = "import time; x = bytearray(80_000_000); time.sleep(60)"
        ended = await at_work.pool.ended(at_work.pool.sh(f"python3 -c '{hog}' & wait $!", memory_bytes=50_000_000))
        assert ended.end == "oom"
        assert "its 47.7 MiB of memory" in ended.reason
        assert ended.details[0].memory_peak > 45_000_000

    async def test_use_is_measured(self, at_work: Rig) -> None:
        work = "x = bytearray(300_000_000)\nfor i in range(10_000_000): pass"
        (detail,) = (
            await at_work.pool.ended(at_work.pool.run([0, 0], TaskText(command=["python3", "-c", work])))
        ).details
        assert detail.memory_peak > 250_000_000
        assert 50_000_000 < detail.memory_avg <= detail.memory_peak
        assert 100 < detail.cpu_ms <= detail.wall_ms * 1.5


def _resident() -> int:
    """Bytes that this process, its keeper and their tasks hold."""
    return sum(one.memory_info().rss for one in (Process(), *Process().children(recursive=True)))


class TestTrees:
    async def _pid(self, rig: Rig, lease: int) -> int:
        await rig.pool.until(lambda: rig.pool.text(lease).endswith(b"\n"), "a process id")
        return int(rig.pool.text(lease))

    async def test_cancel_ends_the_group(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("sleep 600 & echo $!; wait")
        pid = await self._pid(at_work, lease)
        at_work.pool.say(Cancel(at_work.pool.number(), JOB))
        assert (await at_work.pool.ended(lease)).end == "cancelled"
        await gone(pid)

    async def test_and_those_that_left_it(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("setsid sleep 600 & echo $!; wait")
        pid = await self._pid(at_work, lease)
        at_work.pool.say(Cancel(at_work.pool.number(), JOB))
        assert (await at_work.pool.ended(lease)).end == "cancelled"
        await gone(pid)

    async def test_a_daemon_left_behind_ends_with_its_task(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("(setsid sleep 600 >/dev/null 2>&1 & echo $!)")
        assert (await at_work.pool.ended(lease)).code == 0
        await gone(int(at_work.pool.text(lease)))

    async def test_a_background_process_does_not_keep_the_task(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("sleep 600 & echo $!")
        assert (await at_work.pool.ended(lease)).code == 0
        await gone(int(at_work.pool.text(lease)))

    async def test_cancelled_before_it_began(self, at_work: Rig) -> None:
        running = at_work.pool.sh("sleep 600", [0, 1])
        waiting = at_work.pool.sh("echo never", [0, 5])
        at_work.pool.say(Cancel(at_work.pool.number(), JOB))
        for lease, tasks in ((running, 2), (waiting, 6)):
            await at_work.pool.until(lambda: len(at_work.pool.ends(lease)) == tasks, "all end")  # noqa: B023 - awaited before the next round
            assert {ended.end for ended in at_work.pool.ends(lease).values()} == {"cancelled"}
        assert at_work.pool.text(waiting) == b""


class TestOutput:
    async def test_any_bytes_and_any_length(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("head -c 5000000 /dev/urandom > f; cat f; sha256sum f >&2")
        await at_work.pool.ended(lease)
        said = at_work.pool.text(lease, stream=2).split()[0].decode()
        assert hashlib.sha256(at_work.pool.text(lease, stream=1)).hexdigest() == said

    async def test_it_comes_while_the_task_runs(self, at_work: Rig) -> None:
        stop = at_work.root / "stop"
        lease = at_work.pool.sh(f"echo first; while [ ! -e {stop} ]; do sleep 0.01; done; echo last")
        await at_work.pool.until(lambda: at_work.pool.text(lease) == b"first\n", "the first line comes")
        assert 0 not in at_work.pool.ends(lease)
        stop.touch()
        await at_work.pool.ended(lease)
        assert at_work.pool.text(lease) == b"first\nlast\n"

    async def test_a_running_task_is_reported_as_started(self, at_work: Rig) -> None:
        lease = at_work.pool.sh("sleep 600")
        await at_work.pool.until(lambda: at_work.pool.started(lease) == {0}, "it is reported as started")

    async def test_the_end_is_reported_only_when_the_output_is_safe(self, at_work: Rig) -> None:
        pool = at_work.pool
        pool.take_output = False
        lease, silent = pool.sh("echo hello"), pool.sh("exit 0")
        await pool.ended(silent)
        assert 0 not in pool.ends(lease)
        pool.take_output = True
        assert (await pool.ended(lease)).details[0].out_size == len(pool.outputs[lease, 0])

    async def test_output_that_nobody_wants_is_dropped(self, at_work: Rig) -> None:
        pool = at_work.pool
        lease = pool._number + 1
        pool.unwanted.add(lease)
        assert pool.sh("echo hello") == lease
        assert (await pool.ended(lease)).details[0].out_size == 0

    async def test_a_flood_neither_stops_the_task_nor_grows_memory(self, at_work: Rig) -> None:
        pool = at_work.pool
        pool.take_output = False
        flag = at_work.root / "done"
        before = _resident()
        flood = pool.sh(f"head -c {FLOOD_BYTES} /dev/zero; touch {flag}; sleep 600")
        async with asyncio.timeout(30):
            while not flag.exists():
                await asyncio.sleep(0.01)
        assert _resident() - before < FLOOD_BYTES / 2
        pool.take_output = True
        await pool.until(lambda: len(pool.outputs.get((flood, 0), b"")) >= FLOOD_BYTES, "all of it comes")

    async def test_beyond_the_bound_it_is_cut_with_a_mark(self, rig: Rig) -> None:
        await rig.start(spool_bytes_max=300_000)
        rig.pool.take_output = False
        flag = rig.root / "done"
        lease = rig.pool.sh(f"head -c 1000000 /dev/zero; touch {flag}; sleep 600")
        async with asyncio.timeout(30):
            while not flag.exists():
                await asyncio.sleep(0.01)
        rig.pool.take_output = True
        await rig.pool.until(
            lambda: b"output left out here" in bytes(rig.pool.outputs.get((lease, 0), b"")), "the mark comes"
        )
        assert len(rig.pool.outputs[lease, 0]) <= 301_000
