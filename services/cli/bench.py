"""`bench`: runs one benchmark of tests/bench in a process of its own; benchmarks come with a source checkout."""

import subprocess
import sys
from pathlib import Path

import click

from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

ROOT = Path(__file__).resolve().parents[2]


@command("bench", remote=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME] [--runs N] [--count N] [--peer PYTHON]")
def bench(context: Context, words: tuple[str, ...]) -> int:
    """Measure one thing with real servers.

    Without a NAME it says which there are. Everything runs in a temporary folder, nothing is mocked; --peer runs the
    matching peer with that interpreter in turns.
    """
    if not (ROOT / "tests" / "bench" / "__main__.py").exists():
        raise Failure("there are no benchmarks here", "run it in a source checkout of Hive", Exit.USAGE)
    more = ["--json"] if context.output.mode == "json" else []
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *(words or ["--help"]), *more], cwd=ROOT, check=False
    ).returncode


COMMANDS = {"bench": bench}
