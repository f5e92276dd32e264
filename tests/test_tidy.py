"""The habits that no linter knows. Each failure names the place and what to do about it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools import ROOT, run

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
FILES_MIN = 20
PACKAGES = ("events", "services", "projections", "worker", "web", "infra")
GENERATED = {"docs/events.md", "web/ui/events.ts", "tests/golden/events.schema.json", "LICENSE"}
RATCHET = ROOT / "tests" / "golden" / "long_functions.txt"
HERE = "tests/test_tidy.py"
TIME_IS_THEIRS = ("tests/bench/", "tests/simulation/")
"""Benchmarks measure time, and the simulation has a clock of its own, which never waits."""


def _files() -> list[str]:
    """Every file of the project that git does not ignore, by its path."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).stdout.split("\0")
    return sorted(name for name in listed if name and (ROOT / name).is_file())


FILES = _files()
PYTHON = [name for name in FILES if name.endswith(".py")]


def _text(name: str) -> str:
    return (ROOT / name).read_text(errors="replace")


def _tree(name: str) -> ast.Module:
    return ast.parse(_text(name), name)


def _lines(pattern: str, names: list[str]) -> list[str]:
    """Each line of these files in which `pattern` is found, as `path:line`."""
    found = re.compile(pattern)
    return [f"{name}:{n}" for name in names for n, line in enumerate(_text(name).splitlines(), 1) if found.search(line)]


def _texts() -> list[str]:
    """Files that people wrote and read."""
    return [name for name in FILES if name not in GENERATED | {HERE} and not name.startswith("requirements/")]


def test_there_is_something_to_look_at() -> None:
    assert len(PYTHON) > FILES_MIN, "git lists no files: run the tests in a checkout"


def test_files_are_short() -> None:
    names = [name for name in FILES if Path(name).suffix in {".py", ".ts", ".svelte"} and name not in GENERATED]
    long = {name: count for name in names if (count := len(_text(name).splitlines())) > FILE_LINES_MAX}
    assert not long, f"over {FILE_LINES_MAX} lines; split by what changes together: {long}"


def _functions(name: str) -> Iterator[tuple[str, int]]:
    def walk(node: ast.AST, path: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                here = f"{path}.{child.name}" if path else child.name
                if not isinstance(child, ast.ClassDef):
                    yield f"{name}::{here}", (child.end_lineno or child.lineno) - child.lineno + 1
                yield from walk(child, here)
            else:
                yield from walk(child, path)

    yield from walk(_tree(name), "")


def test_functions_are_short_and_the_long_ones_do_not_grow() -> None:
    allowed = dict(
        line.rsplit(" ", 1) for line in RATCHET.read_text().splitlines() if line and not line.startswith("#")
    )
    long = {where: size for name in PYTHON for where, size in _functions(name) if size > FUNCTION_LINES_MAX}
    grown = {where: size for where, size in long.items() if size > int(allowed.get(where, FUNCTION_LINES_MAX))}
    assert not grown, f"over {FUNCTION_LINES_MAX} lines, or grown; split them: {grown}"
    shrunk = [where for where, size in allowed.items() if long.get(where, 0) < int(size)]
    assert not shrunk, f"shorter now, well done: lower or remove their lines in {RATCHET.name}: {shrunk}"


@pytest.mark.parametrize("name", [name for name in PYTHON if not name.startswith("tests/typing/")])
def test_a_module_begins_with_what_it_is(name: str) -> None:
    assert ast.get_docstring(_tree(name)) or not _text(name).strip(), "say in a docstring what the file is for"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_top_level_folder_says_what_it_holds(package: str) -> None:
    init = ROOT / package / "__init__.py"
    assert init.is_file(), f"{package}/__init__.py is missing"
    assert ast.get_docstring(ast.parse(init.read_text())), f"{package}/__init__.py must say what the folder holds"


def _calls(name: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(_tree(name)) if isinstance(node, ast.Call))


def test_decoders_are_made_once() -> None:
    slow = [
        f"{name}:{call.lineno}"
        for name in PYTHON
        if not name.startswith("tests/")
        for call in _calls(name)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "decode"
        and any(keyword.arg == "type" for keyword in call.keywords)
    ]
    assert not slow, (
        f"decode(..., type=...) builds a decoder each time, 70 times slower: make it a module constant: {slow}"
    )


def test_no_test_sleeps() -> None:
    """Only a `while` that waits for a named fact, with a bound, may look again after a moment."""
    slept: list[str] = []
    for name in PYTHON:
        if not name.startswith("tests/") or name.startswith(TIME_IS_THEIRS):
            continue
        tree = _tree(name)
        again = {line for node in ast.walk(tree) if isinstance(node, ast.While) for line in _sleeps(node)}
        slept += [f"{name}:{line}" for line in sorted(set(_sleeps(tree)) - again)]
    assert not slept, f"wait for a named fact instead of sleeping: {slept}"


def _sleeps(tree: ast.AST) -> Iterator[int]:
    """The lines on which time passes unconditionally; `sleep(0)`, which lets others run, is not one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"(asyncio|time)\.sleep\((?!0\)).*", ast.unparse(node)):
            yield node.lineno


def test_nothing_is_left_for_later() -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"))
    assert not _lines(rf"\b({words})\b|NotImplementedError", _texts()), "finish it, or open an issue"


def test_no_file_names_a_package_registry() -> None:
    hosts = r'"resolved": *"https?:|--(extra-)?index-url|://[a-z0-9.-]*(pypi|pythonhosted|npm|debian)[a-z0-9.-]*'
    names = [name for name in FILES if name != HERE]
    assert not _lines(hosts, names), "an installer knows its registry; the project names none"


def test_no_file_knows_one_machine() -> None:
    assert not _lines(r"(^|[^A-Za-z0-9_.])/(work|root|farm|home)/[A-Za-z.]", _texts()), (
        "write the path relative to the project"
    )


def test_every_exception_to_a_rule_is_named() -> None:
    """`# noqa: CODE why` and `# pyright: ignore[rule]`; never a whole file, never without a rule."""
    bare = r"#\s*(noqa(?!: [A-Z]+\d+(, ?[A-Z]+\d+)* (- )?\w)|type: ignore|pyright: (basic|ignore(?!\[\w)))"
    assert not _lines(bare, [name for name in PYTHON if name != HERE]), (
        "name the rule and say why: `# noqa: S101 - why`"
    )


def _pins(name: str) -> dict[str, str]:
    text = _text(f"requirements/{name}")
    assert "://" not in text, f"requirements/{name} names an address"
    pins = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE))
    for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in block, f"requirements/{name}: no hash in {block.splitlines()[0]}"
    return pins


def test_what_is_installed_is_locked() -> None:
    runtime, dev = _pins("runtime.txt"), _pins("dev.txt")
    assert runtime.items() <= dev.items(), (
        "make lock: dev.txt must hold everything of runtime.txt, at the same versions"
    )


def test_decisions_are_numbered_in_order() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
