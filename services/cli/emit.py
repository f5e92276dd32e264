"""`emit`: what a task tells of itself. It only adds a line of JSON to the file that HIVE_EMIT names; any program may."""

import os
from typing import Any

import click
import msgspec

from events.inputs import BadSpec, check_path
from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

VARIABLE = "HIVE_EMIT"
LINE_BYTES_MAX = 64 * 1024
"""A longer line is not looked at (worker.emits)."""


@click.group("emit")
def emit() -> None:
    """Inside a task: tell how far it is, and what came out.

    \b
    Without hivectl, add the line to the file that HIVE_EMIT names, from any language:
      echo '{"progress": 40, "text": "epoch 4 of 10"}' >> "$HIVE_EMIT"
      echo '{"name": "metrics", "json": {"acc": 0.93}}' >> "$HIVE_EMIT"
      echo '{"artifact": "model.pt"}' >> "$HIVE_EMIT"
    """


def _add(record: dict[str, Any]) -> None:
    """Add a line. One write, so that lines of several processes do not mix."""
    path = os.environ.get(VARIABLE, "")
    if not path:
        raise Failure(
            f"{VARIABLE} is not set: this is no task of a hive", "hivectl submit -- hivectl emit ...", Exit.USAGE
        )
    line = msgspec.json.encode(record) + b"\n"
    if len(line) > LINE_BYTES_MAX:
        raise Failure(
            f"the line has {len(line)} bytes; the limit is {LINE_BYTES_MAX}", "hivectl emit artifact PATH", Exit.USAGE
        )
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


@command("progress", remote=False)
@click.argument("percent", type=click.FloatRange(0, 100))
@click.argument("text", default="")
def progress(context: Context, percent: float, text: str) -> None:
    """How far the task is, in PERCENT, and in words."""
    _add({"progress": percent, **({"text": text} if text else {})})


@command("text", remote=False)
@click.argument("text")
def text(context: Context, text: str) -> None:
    """What the task is doing."""
    _add({"text": text})


@command("json", remote=False)
@click.argument("value")
@click.option("--name", default="", help="What it is.")
def json(context: Context, value: str, name: str) -> None:
    """A structured result: VALUE is JSON."""
    try:
        msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Failure(f"VALUE is no JSON: {error}", """hivectl emit json '{"acc": 0.93}'""", Exit.USAGE) from None
    _add({"name": name, "json": msgspec.Raw(value.encode())})


@command("artifact", remote=False)
@click.argument("path")
def artifact(context: Context, path: str) -> None:
    """Keep the file at PATH, below the task's folder, as a result."""
    try:
        check_path("PATH", path)
    except BadSpec as error:
        raise Failure(str(error), "name it from the task's folder, such as model.pt", Exit.USAGE) from None
    _add({"artifact": path})


for one in (progress, text, json, artifact):
    emit.add_command(one)

COMMANDS = {"emit": emit}
