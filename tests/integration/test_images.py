"""The base images' build command, from a root file system made on the spot: no registry is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import need

BUILD = Path(__file__).parents[2] / "infra" / "images" / "build"


@pytest.mark.parametrize("kind", ["python", "cuda"])
def test_an_image_from_a_root_file_system(kind: str, tmp_path: Path) -> None:
    need("docker")
    need("busybox")
    tag = f"localhost:1/hive-test-{kind}:{os.getpid()}"
    (tmp_path / "bin").mkdir()
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tmp_path / "bin" / "sh")
    try:
        subprocess.run([BUILD, kind, tag, tmp_path], check=True, capture_output=True, timeout=60)
        shown = subprocess.run(
            ["docker", "run", "--rm", "--network", "none", tag, "sh", "-c", "echo $PWD $PYTHONUNBUFFERED"],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert shown.stdout == "/work 1\n"
    finally:
        subprocess.run(["docker", "image", "rm", "--force", tag], check=False, capture_output=True, timeout=60)


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run([BUILD, "nothing"], check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert "infra/images/build python TAG" in done.stderr
