"""Running the project's own tools from tests."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN_S_MAX = 100


def run(command: list[str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, its output captured."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
