"""Wrong use of the catalogue is found before anything runs: files under tests/typing must not type-check."""

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.tools import ROOT, run

HERE = Path(__file__).parent / "typing"


@pytest.mark.parametrize("file", sorted(HERE.glob("*.py")), ids=lambda file: file.name)
def test_each_marked_line_is_refused_and_no_other(file: Path, tmp_path: Path) -> None:
    # The project excludes these files, so they are checked by a configuration of their own.
    config = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [str(file)],
        "extraPaths": [str(ROOT)],
        "reportUnusedExpression": False,
    }
    (tmp_path / "pyrightconfig.json").write_bytes(msgspec.json.encode(config))
    checker = Path(sys.executable).parent / "basedpyright"
    done = run([str(checker), "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)])
    found: list[dict[str, Any]] = msgspec.json.decode(done.stdout)["generalDiagnostics"]
    refused = {(one["range"]["start"]["line"] + 1, one.get("rule")) for one in found if one["severity"] == "error"}
    marked = {
        (number, mark[1])
        for number, text in enumerate(file.read_text().splitlines(), 1)
        if (mark := re.search(r"# error: (\w+)$", text))
    }
    assert marked
    assert refused == marked
