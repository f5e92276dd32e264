"""What both files about the writer need: a log, and two writers over it."""

import pytest

from events.log import MemoryLog
from tests.writer_support import Plane


@pytest.fixture
def log() -> MemoryLog:
    """An empty log."""
    return MemoryLog()


@pytest.fixture
def a(log: MemoryLog) -> Plane:
    """A writer that does not run yet."""
    return Plane(log, "a")


@pytest.fixture
def b(log: MemoryLog) -> Plane:
    """Another one over the same log."""
    return Plane(log, "b")
