"""How a process is started in its box: in its control group, behind its prefix, with an environment that nothing sees which
has more rights than the task.
"""

import fcntl
import os

from worker import tree
from worker.executors import bubblewrap
from worker.executors.base import Box, Rejected, why_not

_JOIN = 'for g in $1; do echo 0 > "$g/cgroup.procs" || exit 125; done; shift; exec "$@"'
"""What goes into a group cannot fork before it is there."""
CLEAN_PATH = os.defpath
PIPE_BYTES_MIN = 4096


def check_program(args: list[str], folder: str, box: Box) -> None:
    """Whether a program that is named by its path can be run, as far as that can be seen from outside, with the task's
    working folder as ours: inside of the box it would be the box that fails. Raises Rejected.
    """
    path = args[0]
    if box.prefix and path.startswith(f"{bubblewrap.HOME}/"):
        path = folder + path.removeprefix(bubblewrap.HOME)
    if not os.path.lexists(path):
        raise Rejected(why_not(args, FileNotFoundError()))
    if os.path.isdir(path) or (os.path.exists(path) and not os.access(path, os.X_OK)):
        raise Rejected(why_not(args, PermissionError()))


class Start:
    """What to spawn. `environment`: a descriptor for ENVIRONMENT_FD, -1: none; to be closed by who spawned it. Where there
    is a `gate`, the task waits in its box until `text` was written there and it was closed.
    """

    __slots__ = ("args", "env", "environment", "gate", "text")

    def __init__(self, box: Box, args: list[str], env: dict[str, str], groups: list[str]) -> None:
        self.args, self.env, self.environment, self.gate = [*box.prefix, *args], env, -1, -1
        if groups:
            self.args = ["/bin/sh", "-c", _JOIN, "sh", " ".join(groups), *self.args]
        if box.prefix:
            try:
                self.text = bubblewrap.environment(env)
            except ValueError as error:
                raise Rejected(str(error)) from None
            if box.network == "hosts":
                self.environment, self.gate = os.pipe2(os.O_CLOEXEC)
                fcntl.fcntl(self.gate, fcntl.F_SETPIPE_SZ, max(PIPE_BYTES_MIN, len(self.text)))
                if box.uid >= 0:
                    os.fchown(self.environment, box.uid, box.uid)
            else:
                self.environment = os.memfd_create("environment", os.MFD_CLOEXEC)
                os.write(self.environment, self.text)
            self.env = {"PATH": CLEAN_PATH} | {name: env[name] for name in (tree.MARK, tree.WORKER_MARK)}
