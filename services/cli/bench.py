"""`bench`: runs one benchmark of tests/bench in a process of its own; benchmarks come with a source checkout."""

import subprocess
import sys
from pathlib import Path

import click

from services.cli.context import Context, command
from services.cli.failure import Exit, Failure

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "bench"


def names() -> list[str]:
    """The benchmarks there are: each is a module `tests/bench/bench_<name>.py`."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


@command("bench", remote=False, context_settings={"ignore_unknown_options": True})
@click.argument("name", required=False)
@click.option("--peer", metavar="PYTHON", help="Also run the matching peer with this interpreter, in turns.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def bench(context: Context, name: str | None, peer: str | None, more: tuple[str, ...]) -> int:
    """Measure one thing with real servers in a temporary folder: NAME out of what `hivectl bench` lists."""
    known = names()
    if not known:
        raise Failure("no benchmarks here", "run it in a source checkout of Hive: they are in tests/bench", Exit.USAGE)
    if name is None:
        for one in known:
            context.output.line(one)
        return Exit.OK
    if name not in known:
        raise Failure(f"no benchmark {name!r}", f"one of {', '.join(known)}", Exit.USAGE)
    words = [sys.executable, "-m", f"tests.bench.bench_{name}", *more]
    words += ["--json"] if context.output.mode == "json" else []
    words += ["--peer", peer] if peer else []
    return subprocess.run(words, cwd=ROOT, check=False).returncode


COMMANDS = {"bench": bench}
