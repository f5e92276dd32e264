"""What ends a command early, and the exit codes that scripts may rely on."""

import enum


class Exit(enum.IntEnum):
    """The exit codes of hivectl. `submit --wait` of a single task exits with the task's own code instead."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNAVAILABLE = 4
    UNAUTHORIZED = 5
    BUG = 70
    INTERRUPTED = 130


CODES_HELP = """\b
Exit codes:
  0    done; with --wait: every task succeeded
  1    a job failed or was cancelled (submit --wait of one task: its own code)
  2    wrong usage of this command
  3    the hive refused: the message names the field and the remedy
  4    no hive answers at that address, or a part of it is away
  5    the key or login is missing or wrong, or may not do this
  130  interrupted with Ctrl-C
"""


class Failure(Exception):
    """A command cannot go on: what happened, why, and what to do about it. Shown without a trace back."""

    def __init__(self, what: str, remedy: str = "", code: int = Exit.REFUSED) -> None:
        super().__init__(what)
        self.what, self.remedy, self.code = what, remedy, code
