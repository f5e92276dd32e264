"""The demo's last task: merge every `index.json` below `parts/` into one and print what it says."""

import json
import os
from collections import Counter
from typing import Any

SHOWN = 10


def main() -> None:
    """Merge, write, summarise. The last line is JSON, for whoever reads on."""
    files: list[dict[str, Any]] = []
    uses: Counter[str] = Counter()
    definitions: dict[str, list[str]] = {}
    parts = 0
    for folder, _, names in sorted(os.walk("parts")):
        for name in sorted(names):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                part = json.load(file)
            parts += 1
            files += part["files"]
            uses.update(part["uses"])
            for what, where in part["definitions"].items():
                definitions.setdefault(what, []).extend(where)
    files.sort(key=lambda file: file["path"])
    top = uses.most_common(SHOWN)
    with open("index.json", "w", encoding="utf-8") as file:
        json.dump({"files": files, "uses": dict(uses.most_common()), "definitions": definitions}, file)
    lines = sum(file["lines"] for file in files)
    print(f"merged {parts} parts: {len(files)} files, {lines} lines, {len(definitions)} names defined")
    print(json.dumps({"parts": parts, "files": len(files), "lines": lines, "defined": len(definitions), "top": top}))


main()
