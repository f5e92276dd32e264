"""Each marked line must be refused by the type checker; test_typing.py compares. Never imported."""

from typing import assert_never

from events.base import Event
from events.job import AnyJobEvent, JobCancelled, JobFinished, JobHeld, JobSubmitted
from events.task import TasksLeased

held = JobHeld("j1", "capacity")

held.detail = "changed"  # error: reportAttributeAccessIssue
JobHeld("j1", "weather")  # error: reportArgumentType
JobHeld("j1")  # error: reportCallIssue
JobFinished("j1", "succeeded", score=1)  # error: reportCallIssue
TasksLeased("j1", 7, 1, "w1")  # error: reportArgumentType
event: AnyJobEvent = TasksLeased("j1", [7, 7], 1, "w1")  # error: reportAssignmentType
base: Event = held


def forgets_runnable(event: AnyJobEvent) -> str:
    match event:
        case JobSubmitted() | JobHeld() | JobCancelled() | JobFinished():
            return event.job
        case _:
            assert_never(event)  # error: reportArgumentType
