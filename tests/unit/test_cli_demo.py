"""The demo's input and programs, without a hive."""

import json
import subprocess
import sys
from pathlib import Path

from services.cli import demo_input, demo_tasks
from services.cli.demo_input import TASKS_MIN, Source, deal, find_sources

PROGRAMS = Path(demo_tasks.__file__).parent


def run(program: str, cwd: Path) -> str:
    words = [sys.executable, "-I", "-S", str(PROGRAMS / program)]
    return subprocess.run(words, cwd=cwd, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_library_gives_enough_work() -> None:
    shares = deal(find_sources())
    assert len(shares) >= TASKS_MIN
    names = [source.name for share in shares for source in share]
    assert "json/decoder.py" in names
    assert len(names) == len(set(names))
    assert not any(part in demo_input.SKIPPED for name in names for part in name.split("/"))


def test_shares_are_of_about_equal_size() -> None:
    sources = [Source(Path("x"), f"f{n}.py", n) for n in range(1000)]
    sizes = [sum(source.size for source in share) for share in deal(sources)]
    assert len(sizes) == 500
    assert max(sizes) - min(sizes) < 1000


def test_few_files_are_a_task_each() -> None:
    assert len(deal([Source(Path("x"), f"f{n}.py", 1) for n in range(7)])) == 7
    assert deal([]) == []


def test_the_programs_index_and_merge(tmp_path: Path) -> None:
    for task, text in (("0", b"def f():\n    return g(1)\n"), ("1", b"def f(:\n"), ("2", b"class A:\n    f = g\n")):
        folder = tmp_path / task
        (folder / "src" / "p").mkdir(parents=True)
        (folder / "src" / "p" / f"m{task}.py").write_bytes(text)
        run("index.py", folder)
        part = tmp_path / "all" / "parts" / task
        part.mkdir(parents=True)
        (folder / "index.json").rename(part / "index.json")
    lines = run("merge.py", tmp_path / "all").splitlines()
    summary = json.loads(lines[-1])
    assert (summary["parts"], summary["files"], summary["lines"], summary["defined"]) == (3, 3, 5, 2)
    assert summary["top"][0] == ["g", 2]
    index = json.loads((tmp_path / "all" / "index.json").read_text())
    assert index["definitions"] == {"f": ["p/m0.py:1"], "A": ["p/m2.py:1"]}
