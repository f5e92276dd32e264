"""Log lines: JSON for machines, plain columns for people, colours only on a terminal."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from infra.logging import BadLevel, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    configure(json=True, level="info", stream=out)
    structlog.get_logger().info("job.done", job="j1", tasks=3)
    logging.getLogger("uvicorn.error").warning("from %s", "outside")
    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["job"], ours["tasks"], ours["level"]) == ("job.done", "j1", 3, "info")
    assert ours["at"].endswith("Z")
    assert theirs["event"] == "from outside"


def test_json_carries_tracebacks_as_data() -> None:
    out = io.StringIO()
    configure(json=True, level="info", stream=out)
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert json.loads(out.getvalue())["exception"][0]["exc_type"] == "ValueError"


@pytest.mark.parametrize(("stream", "coloured"), [(io.StringIO, False), (Terminal, True)])
def test_colours_only_on_a_terminal(stream: type[io.StringIO], coloured: bool) -> None:
    out = stream()
    configure(json=False, level="info", stream=out)
    structlog.get_logger().info("job.done", job="j1")
    assert ("\x1b[" in out.getvalue()) is coloured
    assert "job.done" in out.getvalue()


def test_the_level_holds_and_the_last_call_wins() -> None:
    first, second = io.StringIO(), io.StringIO()
    log = structlog.get_logger()
    configure(json=True, level="debug", stream=first)
    log.debug("seen")
    configure(json=True, level="warning", stream=second)
    log.info("hidden")
    log.warning("shown")
    assert "seen" in first.getvalue()
    assert "shown" not in first.getvalue()
    assert "hidden" not in second.getvalue()
    assert "shown" in second.getvalue()


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(BadLevel, match=r"'loud'.*debug, info, warning, error"):
        configure(json=True, level="loud")
