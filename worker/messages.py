"""What the machine is told (stimuli) and what it asks for (instructions). Data only; times in ms of the shell's own
monotonic clock.
"""

from typing import Literal, TypeAlias

import msgspec

from events.protocol import Ended, Orders, Report, Run
from events.task import AttemptEnd, Detail


class Ordered(msgspec.Struct, frozen=True, gc=False):
    """A poll was answered. `greeted`: the poll carried the Hello."""

    answer: Orders
    now: int
    greeted: bool = False


class Denial(msgspec.Struct, frozen=True, gc=False):
    """A poll was refused for good."""

    code: str
    detail: str
    now: int


class Adopted(msgspec.Struct, frozen=True, gc=False):
    """These attempts (order, index, since when) of an earlier agent go on, or have ended and `Done` follows. Told before
    anything else; after a reboot there are none, so that the first poll says that nothing is held.
    """

    attempts: list[tuple[Run, int, int]]
    now: int


class Slept(msgspec.Struct, frozen=True, gc=False):
    """The machine stood still for `ms`, which no clock of the machine's counted: it was suspended."""

    ms: int
    now: int


class Began(msgspec.Struct, frozen=True, gc=False):
    """An attempt that needed preparation (inputs, an image) runs now."""

    lease: int
    index: int
    now: int


class Freed(msgspec.Struct, frozen=True, gc=False):
    """An attempt's process is gone, its report must wait until its output and results are safe: `Done` follows."""

    lease: int
    index: int
    now: int


class End(msgspec.Struct, frozen=True, gc=False):
    """How one attempt ended."""

    lease: int
    index: int
    end: AttemptEnd = "exit"
    code: int = 0
    reason: str = ""
    detail: Detail | None = None


class Done(msgspec.Struct, frozen=True, gc=False):
    """These attempts ended, and what they left is safe."""

    ends: list[End]
    now: int


class Saved(msgspec.Struct, frozen=True, gc=False):
    """The batch of `Save` is on disk."""

    batch: int
    now: int


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The report was recorded (`denied` is empty), or refused for this reason."""

    sequence: int
    now: int
    denied: str = ""
    detail: str = ""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Time has passed."""

    now: int


class GpusUsable(msgspec.Struct, frozen=True, gc=False):
    """Of each GPU that is offered, in that order, the MiB that tasks may use now."""

    usable: list[int]
    now: int


class Stop(msgspec.Struct, frozen=True, gc=False):
    """The agent is to stop: give back what has not started and finish what runs, or, with `kill`, end that too."""

    now: int
    kill: bool = False


Stimulus: TypeAlias = (
    Ordered | Adopted | Slept | Denial | Began | Freed | Done | Saved | Answered | Tick | GpusUsable | Stop
)


class Start(msgspec.Struct, frozen=True, gc=False):
    """Run this task of the order."""

    order: Run
    index: int


class Kill(msgspec.Struct, frozen=True, gc=False):
    """End this attempt; its `Done` says `end`, unless it ended by itself before."""

    lease: int
    index: int
    end: Literal["cancelled", "lost"]
    reason: str


class Save(msgspec.Struct, frozen=True, gc=False):
    """Put these ends on disk, then say `Saved`."""

    batch: int
    items: list[Ended]


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send this report until it is answered, then say `Answered`."""

    report: Report


class Forget(msgspec.Struct, frozen=True, gc=False):
    """These saved batches are recorded: drop them from disk."""

    batches: list[int]


class Repoll(msgspec.Struct, frozen=True, gc=False):
    """Abandon the outstanding poll and ask again: what it says is no longer so."""


class Measure(msgspec.Struct, frozen=True, gc=False):
    """Measure the machine every `each_ms` from now on."""

    each_ms: int


class Quit(msgspec.Struct, frozen=True, gc=False):
    """Stop the agent with this exit code."""

    code: int
    why: str


Instruction: TypeAlias = Start | Kill | Save | Send | Forget | Repoll | Measure | Quit
