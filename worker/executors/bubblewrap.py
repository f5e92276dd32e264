"""Processes shut in by bubblewrap: namespaces of their own, and of the machine's files only its programs, read-only. They see
their folder at HOME, and neither the agent's nor anybody's home.

An agent that is root makes the box as root, and the task becomes a user of its own in it; else the box is made in a user
namespace. The task's environment is read from a file inside of the box, when nothing runs with more rights than the task
any more: what a user names LD_PRELOAD must not be loaded by what makes the box.
"""

import glob
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import PurePath

import msgspec

HOME = "/work"
ENVIRONMENT_FD = 3
"""Where the task's environment is read from: the output of `environment`."""
GUARDS = 2
"""bubblewrap waits for its box outside of it, and is the first process in it."""
PROGRAMS = ("/usr", "/opt", "/nix/store")
LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "fonts", "group", "host.conf", "hosts",
    "java", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "OpenCL", "passwd", "pki",
    "protocols", "R", "resolv.conf", "services", "ssl", "timezone", "vulkan",
)  # fmt: skip
"""What programs need of /etc, and nothing that holds a key."""
PROBE_S, PROBE_PAUSE_S, PROBE_BYTES = 10.0, 0.005, 300
PROBE_USER, PROBE_PIDS = 2_000_000_000, 64
_INSIDE = 'ulimit -c 0; ulimit -u {pids} 2>/dev/null || ulimit -p {pids}; . /dev/fd/3; exec 3<&-; exec "$@"'


class Sandbox(msgspec.Struct, frozen=True):
    """A bubblewrap that works here. `binds`: arguments that show the machine's programs; `setpriv`: with which the task of
    a root agent becomes another user.
    """

    program: str
    binds: tuple[str, ...]
    setpriv: str = ""

    @property
    def guards(self) -> int:
        """How many processes of a task's tree are bubblewrap's."""
        return GUARDS

    def prefix(
        self,
        folder: str,
        cwd: str,
        network: str,
        user: int,
        pids: int,
        read: Iterable[str] = (),
        devices: Iterable[str] = (),
    ) -> list[str]:
        """What goes before a task's arguments, so that it runs in `folder` as `user` (-1: as we are), sees the folders in
        `read` where they are, and has `devices`.
        """
        args = [self.program, *self.binds, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        args += ["--hostname", "task", "--proc", "/proc", "--dev", "/dev"]
        for path in ("/tmp", "/var/tmp"):
            args += ["--perms", "1777", "--tmpfs", path]
        for device in devices:
            args += ["--dev-bind-try", device, device]
        args += ["--bind", folder, HOME, "--chdir", f"{HOME}/{cwd}" if cwd else HOME]
        for path in read:
            for above in reversed(PurePath(path).parents[:-1]):
                args += ["--perms", "0755", "--dir", str(above)]  # what bubblewrap makes by itself only root may enter
            args += ["--ro-bind", path, path]
        if network != "full":
            args.append("--unshare-net")
        if user < 0:
            args += ["--unshare-user", "--disable-userns"]
        args.append("--")
        if user >= 0:
            who = (f"--reuid={user}", f"--regid={user}")
            args += [
                self.setpriv,
                *who,
                "--clear-groups",
                "--bounding-set=-all",
                "--inh-caps=-all",
                "--no-new-privs",
                "--",
            ]
        return [*args, "/bin/sh", "-c", _INSIDE.format(pids=pids), "sh"]


def gpu_devices() -> list[str]:
    """What a process needs of /dev to use NVIDIA's GPUs. All of them: which ones are its own, its environment says."""
    return sorted(glob.glob("/dev/nvidia*"))


def environment(env: Mapping[str, str]) -> bytes:
    """A file from which a shell in the box takes `env`. Raises ValueError: no shell can name one of these variables."""
    for name in env:
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(f"the variable {name!r} cannot be set here: letters, digits and _ can be used for names")
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items()).encode()


def find() -> tuple[Sandbox | None, str]:
    """The bubblewrap of this machine, or why there is none that works. Blocks for a moment."""
    program, setpriv = shutil.which("bwrap"), shutil.which("setpriv")
    if program is None:
        return None, "bubblewrap is not installed (Debian, Ubuntu, Fedora: package bubblewrap)"
    root = os.geteuid() == 0
    if root and setpriv is None:
        return None, "setpriv is not installed (package util-linux)"
    sandbox = Sandbox(program, tuple(_binds()), setpriv or "")
    why = _try([*sandbox.prefix("/tmp", "", "none", PROBE_USER if root else -1, PROBE_PIDS), "true"])
    return (None, f"bubblewrap does not work here: {why}") if why else (sandbox, "")


def _try(args: list[str]) -> str:
    """Run this as tasks are run; what is wrong when it fails."""
    empty, said = os.memfd_create("environment"), os.memfd_create("said")
    try:
        actions = [(os.POSIX_SPAWN_DUP2, said, 2), (os.POSIX_SPAWN_DUP2, empty, ENVIRONMENT_FD)]
        pid = os.posix_spawn(args[0], args, {"PATH": os.defpath}, file_actions=actions, setsid=True)
        until = time.monotonic() + PROBE_S
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
            time.sleep(PROBE_PAUSE_S)
        if ended == (0, 0):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"it did not end within {PROBE_S:g} s"
        text = os.pread(said, PROBE_BYTES, 0).decode(errors="replace").strip()
        return (text or f"exit code {os.waitstatus_to_exitcode(ended[1])}") if ended[1] else ""
    except OSError as error:
        return str(error)
    finally:
        os.close(empty)
        os.close(said)


def _binds() -> list[str]:
    args: list[str] = []
    for path in PROGRAMS:
        if os.path.isdir(path):
            args += ["--ro-bind", path, path]
    for path in LINKED:
        if os.path.islink(path):
            args += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            args += ["--ro-bind", path, path]
    args += ["--dir", "/etc"]
    for name in ETC:
        if os.path.exists(path := f"/etc/{name}"):
            args += ["--ro-bind", os.path.realpath(path), path]
    return args
