"""A task of the demo's array: index the Python files below `src/` and leave what was found in `index.json`."""

import ast
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any


def sources(root: str) -> Iterator[str]:
    """Paths of the files below `root`, in order."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)


def names_in(tree: ast.AST) -> tuple[Counter[str], list[tuple[str, int]]]:
    """Names that a file uses, counted, and those it defines, with their lines."""
    uses: Counter[str] = Counter()
    defined: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            uses[node.id] += 1
        elif isinstance(node, ast.Attribute):
            uses[node.attr] += 1
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.append((node.name, node.lineno))
    return uses, defined


def main() -> None:
    """Index everything; files that this Python cannot parse are counted by their lines alone."""
    files: list[dict[str, Any]] = []
    uses: Counter[str] = Counter()
    definitions: dict[str, list[str]] = {}
    for path in sources("src"):
        with open(path, "rb") as file:
            data = file.read()
        name = os.path.relpath(path, "src")
        files.append({"path": name, "bytes": len(data), "lines": data.count(b"\n")})
        try:
            used, defined = names_in(ast.parse(data))
        except (SyntaxError, ValueError) as error:
            print(f"{name}: not parsed: {error}", file=sys.stderr)
            continue
        uses += used
        for what, line in defined:
            definitions.setdefault(what, []).append(f"{name}:{line}")
    with open("index.json", "w", encoding="utf-8") as file:
        json.dump({"files": files, "uses": uses, "definitions": definitions}, file)
    lines = sum(file["lines"] for file in files)
    print(f"{', '.join(file['path'] for file in files)}: {lines} lines, {len(definitions)} definitions")


main()
