"""Starts programs: found once, started with as little as there can be."""

import os
import shutil
import signal

from worker.executors.base import Rejected, why_not
from worker.executors.bubblewrap import ENVIRONMENT_FD

STDOUT, STDERR = 1, 2
_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Spawner:
    """Remembers where programs are."""

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._found: dict[tuple[str, str], str] = {}

    def close(self) -> None:
        """Let go."""
        os.close(self._null)

    def spawn(self, args: list[str], env: dict[str, str], out: int, err: int, environment: int = -1) -> int:
        """Start a program with these descriptors as its output, and `environment` as its ENVIRONMENT_FD; its process id.
        Raises Rejected.
        """
        if not args or not args[0]:
            raise Rejected("the command is empty; name a program")
        program = args[0] if "/" in args[0] else self.find(args[0], env["PATH"])
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, out, STDOUT),
            (os.POSIX_SPAWN_DUP2, err, STDERR),
        ]
        if environment >= 0:
            actions.append((os.POSIX_SPAWN_DUP2, environment, ENVIRONMENT_FD))
        try:
            return os.posix_spawn(
                program,
                args,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET,
            )
        except OSError as error:
            self._found.clear()
            raise Rejected(why_not(args, error)) from None
        except ValueError as error:
            raise Rejected(f"the command or environment cannot be passed on: {error}") from None

    def find(self, name: str, path: str) -> str:
        """Where the program `name` is. Raises Rejected."""
        found = self._found.get((name, path))
        if found is None:
            found = shutil.which(name, path=path)
            if found is None:
                raise Rejected(f"command not found: {name!r} is not in the task's PATH")
            self._found[name, path] = found
        return found
