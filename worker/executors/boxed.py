"""How a process is started in its box: in its control group, behind its prefix, with an environment that nothing sees which
has more rights than the task.
"""

import os

from worker import tree
from worker.executors import bubblewrap
from worker.executors.base import Box, Rejected

_JOIN = 'for g in $1; do echo 0 > "$g/cgroup.procs" || exit 125; done; shift; exec "$@"'
"""What goes into a group cannot fork before it is there."""
CLEAN_PATH = os.defpath


class Start:
    """What to spawn. `environment`: a descriptor for ENVIRONMENT_FD, -1: none; to be closed by who spawned it."""

    __slots__ = ("args", "env", "environment")

    def __init__(self, box: Box, args: list[str], env: dict[str, str], groups: list[str]) -> None:
        self.args, self.env, self.environment = [*box.prefix, *args], env, -1
        if groups:
            self.args = ["/bin/sh", "-c", _JOIN, "sh", " ".join(groups), *self.args]
        if box.prefix:
            try:
                text = bubblewrap.environment(env)
            except ValueError as error:
                raise Rejected(str(error)) from None
            self.environment = os.memfd_create("environment", os.MFD_CLOEXEC)
            os.write(self.environment, text)
            self.env = {"PATH": CLEAN_PATH} | {name: env[name] for name in (tree.MARK, tree.WORKER_MARK)}
