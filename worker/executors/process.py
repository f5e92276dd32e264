"""Runs tasks as processes of this machine: each in its own session and folder, ended as a tree.

The path of a short task is kept lean on purpose, since a machine can start some 3,000 processes a second at most: one
`posix_spawn` (it needs the working folder to be ours for a moment), a pidfd in one epoll for all tasks, and pipes that
are only watched when the task lives longer than YOUNG_S; a shorter one's output is read once, at its end.
"""

import asyncio
import contextlib
import os
import resource
import select
import signal
from collections.abc import Callable

from events.protocol import Run
from events.task import AttemptEnd
from worker import tree
from worker.emits import EMIT_FILE
from worker.executors.attempt import YOUNG_S, Process, group_of
from worker.executors.base import GRACE_S, Box, Launch, Ran, Rejected, keep_to_ourselves, over_limit
from worker.executors.boxed import Start, check_program
from worker.executors.cgroups import Cgroups
from worker.executors.container_config import proxy_environment
from worker.executors.spawner import STDERR, STDOUT, Spawner
from worker.orphans import Orphans
from worker.proxy import NoWay, Proxies, first_inside
from worker.state import Key

LOOK_S = 0.25
"""How often memory, and processes that left their task, are looked at."""
READ_BYTES = 64 * 1024
READS_MAX = 16
"""Reads of one pipe in a row, so that a task that floods does not keep the others waiting."""
FINAL_READS_MAX = 64
"""At a task's end: more than any pipe holds."""
EVENTS_MAX = 64
OOM_SHARE = 0.9
"""A task that the kernel killed at this share of its limit ran out of memory."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SIGNAL_BASE = 128


class ProcessExecutor:
    """Starts, watches and ends processes. `on_output(key, stream, data)` for all they write, then `on_ended(ran)`;
    `on_batch()` after each round of those.
    """

    def __init__(
        self,
        worker: str,
        on_output: Callable[[Run, int, int, bytes], None],
        on_ended: Callable[[Ran], None],
        on_batch: Callable[[], None],
        owns_children: bool = False,
        cgroups: Cgroups | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._worker, self._on_output, self._on_ended, self._on_batch = worker, on_output, on_ended, on_batch
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._spawner = Spawner()
        self._home = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.running: dict[Key, Process] = {}
        self._by_fd: dict[int, tuple[Process, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = 0.0
        self._orphans = Orphans(owns_children)
        self._cgroups, self._proxies = cgroups, proxies
        keep_to_ourselves()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    async def close(self) -> None:
        """Kill what runs and let go of everything; nothing is reported."""
        self._close()

    def _close(self) -> None:
        for process in list(self.running.values()):
            tree.signal_tree(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            self._drop(process)
        if self._timer is not None:
            self._timer.cancel()
        self._orphans.look(set(), {})
        self._orphans.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._spawner.close()
        os.close(self._home)

    # Starting

    async def launch(self, launch: Launch) -> None:
        """Start a task. Raises Rejected."""
        process = self.spawn(launch)
        if process.gate is not None:
            await self._open_way(process, launch.order.text.hosts, launch.box.named if launch.box else [])

    async def _open_way(self, process: Process, hosts: list[str], named: list[str]) -> None:
        """Let a task that waits in its box reach these hosts, and go on."""
        assert process.gate is not None
        (gate, text), key = process.gate, process.key
        try:
            if self._proxies is None:
                raise NoWay("this machine cannot hold tasks to the hosts that they name")
            await self._proxies.open(key, await first_inside(process.pid), hosts, named)
            with contextlib.suppress(BrokenPipeError):  # it was ended meanwhile
                os.write(gate, text)
        except NoWay as error:
            self.kill(key, "rejected", str(error), 0)
        except asyncio.CancelledError:
            self.kill(key, "cancelled", "", 0)
            raise
        finally:
            os.close(gate)

    def spawn(self, launch: Launch) -> Process:
        """As `launch`, at once, but that the task may wait behind its `gate`. Raises Rejected."""
        order, key, box = launch.order, (launch.order.number, launch.index), launch.box
        cwd = f"{launch.folder}/{order.text.cwd}" if order.text.cwd else launch.folder
        env = self._environment(launch)
        pipes: list[int] = []
        try:
            self._enter(cwd, order.text.cwd)
            out_r, out_w = os.pipe2(os.O_CLOEXEC)
            pipes += (out_r, out_w)
            err_r, err_w = os.pipe2(os.O_CLOEXEC)
            pipes += (err_r, err_w)
            gate = None
            if box is None:
                pid = self._spawner.spawn(launch.args, env, out_w, err_w)
            else:
                pid, gate = self._spawn_boxed(launch, box, env, pipes)
        except OSError as error:
            for fd in pipes:
                os.close(fd)
            self._leave_group(key, box)
            raise Rejected(f"the task could not be started: {error.strerror}") from None
        except Rejected:
            for fd in pipes:
                os.close(fd)
            self._leave_group(key, box)
            raise
        finally:
            os.fchdir(self._home)
        os.close(out_w)
        os.close(err_w)
        os.set_blocking(out_r, False)
        os.set_blocking(err_r, False)
        pidfd = os.pidfd_open(pid)
        process = Process(order, key, pid, pidfd, [out_r, err_r], self._loop.time())
        process.box, process.gate = box, gate
        self.running[key] = process
        self._by_fd[pidfd] = (process, 0)
        self._epoll.register(pidfd, select.EPOLLIN)
        if order.time_limit_ms:
            process.limit = self._loop.call_later(order.time_limit_ms / 1000, self._time_up, key)
        if self._timer is None:
            self._timer = self._loop.call_later(YOUNG_S, self._look)
        return process

    def _environment(self, launch: Launch) -> dict[str, str]:
        order, folder = launch.order, launch.box.home if launch.box is not None else launch.folder
        env = {"PATH": PATH, "HOME": folder, "LANG": "C.UTF-8", "TMPDIR": folder}
        if launch.box is not None and launch.box.network == "hosts":
            env |= proxy_environment()
        env |= launch.env
        env["HIVE_JOB"] = order.job
        env["HIVE_INDEX"] = str(launch.index)
        env["HIVE_COUNT"] = str(order.count)
        env["HIVE_ATTEMPT"] = str(order.attempt)
        env["HIVE_EMIT"] = f"{folder}/{EMIT_FILE}"
        env[tree.WORKER_MARK] = self._worker
        env[tree.MARK] = f"{order.number}.{launch.index}"
        return env

    @staticmethod
    def _enter(cwd: str, named: str) -> None:
        try:
            os.chdir(cwd)
        except OSError as error:
            what = f"the working folder {named!r}" if named else "the task's folder"
            raise Rejected(f"{what} cannot be entered: {error.strerror}; an input can make it") from None

    def _spawn_boxed(
        self, launch: Launch, box: Box, env: dict[str, str], pipes: list[int]
    ) -> tuple[int, tuple[int, bytes] | None]:
        """Start a task in its box. What it is to run is looked for on this machine first, to be able to say what is wrong."""
        args = launch.args
        if not args or not args[0]:
            raise Rejected("the command is empty; name a program")
        if "/" in args[0]:
            check_program(args, launch.folder, box)
        elif env["PATH"] == PATH:
            self._spawner.find(args[0], PATH)
        groups: list[str] = []
        if box.cgroup and self._cgroups is not None:
            name = group_of(launch.order.number, launch.index)
            groups = self._cgroups.make(name, box.memory, box.pids, launch.order.cpus_milli)
        start = Start(box, args, env, groups)
        try:
            pid = self._spawner.spawn(start.args, start.env, pipes[1], pipes[3], start.environment)
            return pid, (start.gate, start.text) if start.gate >= 0 else None
        except Rejected:
            if start.gate >= 0:
                os.close(start.gate)
            raise
        finally:
            if start.environment >= 0:
                os.close(start.environment)

    # Watching

    def _ready(self) -> None:
        """Something ended or wrote."""
        for fd, _ in self._epoll.poll(0, EVENTS_MAX):
            found = self._by_fd.get(fd)
            if found is None:
                continue
            process, stream = found
            if stream:
                if not self._read(process, stream, READS_MAX):
                    self._unwatch(process, stream)
            else:
                self._reap(process)
        self._on_batch()

    def _read(self, process: Process, stream: int, most: int) -> bool:
        """Pass on what the pipe holds; False at its end."""
        fd = process.pipes[stream - 1]
        if fd < 0:
            return False
        for _ in range(most):
            try:
                data = os.read(fd, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._on_output(process.order, process.key[1], stream, data)
        return True

    def _watch(self, process: Process) -> None:
        process.watched = True
        for stream in (STDOUT, STDERR):
            fd = process.pipes[stream - 1]
            self._by_fd[fd] = (process, stream)
            self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, process: Process, stream: int) -> None:
        fd = process.pipes[stream - 1]
        if fd >= 0:
            if self._by_fd.pop(fd, None) is not None:
                self._epoll.unregister(fd)
            os.close(fd)
            process.pipes[stream - 1] = -1

    def _reap(self, process: Process) -> None:
        # While the leader is not reaped its group's number cannot be given to others: end the group first.
        tree.signal_group(process.pid, signal.SIGKILL)
        _, status, used = os.wait4(process.pid, 0)
        now = self._loop.time()
        wall = now - process.began
        for stream in (STDOUT, STDERR):
            self._read(process, stream, FINAL_READS_MAX)
        box, oom = process.box, False
        if box is not None and box.cgroup and self._cgroups is not None:
            group = group_of(*process.key)
            tree.signal_all(self._cgroups.pids(group), signal.SIGKILL)
            oom = self._cgroups.oom_kills(group) > 0
            process.peak = self._cgroups.memory_peak(group)
            process.cpu_ms = max(process.cpu_ms, self._cgroups.cpu_ms(group))
        if self._proxies is not None:
            self._proxies.close(process.key)
        self._leave_group(process.key, box)
        self._drop(process)
        code = os.waitstatus_to_exitcode(status)
        if box is not None and box.guards and code == SIGNAL_BASE + signal.SIGKILL:
            code = -signal.SIGKILL  # bubblewrap tells of it as a shell does
        ran = Ran(process.order, process.key[1], process.end or "exit", code if code >= 0 else SIGNAL_BASE - code)
        ran.started_at, ran.wall_ms = process.started_at, round(wall * 1000)
        # What bubblewrap did not wait for is not in what the kernel tells of it.
        ran.cpu_ms = max(process.cpu_ms, round((used.ru_utime + used.ru_stime) * 1000))
        ran.memory_peak = self._peak(process, used.ru_maxrss * 1024)
        ran.memory_avg = process.memory.over(now)
        ran.reason = process.reason
        limit = process.order.memory_bytes
        killed = code == -signal.SIGKILL and ran.memory_peak >= limit * OOM_SHARE
        if process.end is None and limit and (killed or (oom and code)):
            ran.end, ran.reason = "oom", over_limit(limit)
        if process.watched:
            self._orphans.end_all_of(process.key, {one.pid for one in self.running.values()}, set(self.running))
        self._on_ended(ran)

    @staticmethod
    def _peak(process: Process, reported: int) -> int:
        """The kernel counts the agent's own memory into that of what it spawns: only a higher figure is the task's."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return max(process.peak, reported if reported > own else 0)

    def _drop(self, process: Process) -> None:
        for stream in (STDOUT, STDERR):
            self._unwatch(process, stream)
        # Closing is not enough: a child on its way to its program has a copy for a moment, and until that is gone the
        # epoll would go on telling of it, by a number that is another task's by then.
        self._epoll.unregister(process.pidfd)
        del self._by_fd[process.pidfd]
        os.close(process.pidfd)
        for timer in (process.limit, process.grace):
            if timer is not None:
                timer.cancel()
        del self.running[process.key]

    # What time brings

    def _look(self) -> None:
        """Watch the pipes of tasks that are not young any more, and every LOOK_S look at memory and orphans."""
        now = self._loop.time()
        for process in list(self.running.values()):
            if process.looks_at <= now:
                if not process.watched:
                    self._watch(process)
                self._measure(process)
                process.looks_at = now + min(LOOK_S, now - process.began)
        # Always after the last task, so that what it left does not stay here as dead children until the next.
        if now >= self._next_look or not self.running:
            self._next_look = now + LOOK_S
            ours = {process.pid for process in self.running.values()}
            self._orphans.look(ours, {f"{key[0]}.{key[1]}": key for key in self.running})
        busy = self.running or self._orphans
        self._timer = self._loop.call_later(YOUNG_S if self.running else LOOK_S, self._look) if busy else None

    def _leave_group(self, key: Key, box: Box | None) -> None:
        if box is not None and box.cgroup and self._cgroups is not None:
            self._loop.run_in_executor(None, self._cgroups.remove, group_of(*key))

    def _measure(self, process: Process) -> None:
        if process.box is not None and process.box.cgroup and self._cgroups is not None:
            # The kernel holds it to its limit.
            process.memory.saw(self._cgroups.memory_now(group_of(*process.key)), self._loop.time())
            return
        pids = tree.descendants(process.pid)
        pids += self._orphans.of(process.key)
        if len(pids) == 1:
            process.peak = max(process.peak, tree.peak(process.pid))
            now = tree.rss(process.pid)
        else:
            now = sum(map(tree.rss, pids))
            process.peak = max(process.peak, now)
        process.memory.saw(now, self._loop.time())
        if process.box is not None:
            process.cpu_ms = max(process.cpu_ms, sum(map(tree.cpu_ms, pids)))
        limit = process.order.memory_bytes
        if limit and now > limit and process.end is None:
            process.end = "oom"
            process.reason = over_limit(limit)
            self._signal(process, signal.SIGKILL)

    def _time_up(self, key: Key) -> None:
        process = self.running[key]
        if process.end is None:
            limit = process.order.time_limit_ms / 1000
            self.kill(key, "timeout", f"ran longer than its time limit of {limit:g} s", process.order.text.grace)

    # Ending

    def kill(self, key: Key, end: AttemptEnd, reason: str, grace_s: float = GRACE_S) -> None:
        """End a task with all its processes: the job's stop signal, and SIGKILL after `grace_s` (0: at once)."""
        process = self.running.get(key)
        if process is None:
            return
        if process.end is None:
            process.end, process.reason = end, reason
        if process.grace is not None:
            process.grace.cancel()
        if grace_s:
            self._signal(process, signal.Signals[f"SIG{process.order.text.stop_signal}"])
            process.grace = self._loop.call_later(grace_s, self._signal, process, signal.SIGKILL)
        else:
            self._signal(process, signal.SIGKILL)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        if process.box is not None and process.box.guards and number != signal.SIGKILL:
            # What makes the box would end of it before the task has, and end the task.
            tree.signal_all(tree.descendants(process.pid)[process.box.guards :], number)
        else:
            tree.signal_tree(process.pid, number)
        tree.signal_all(self._orphans.of(process.key), number)
