"""Python tasks and shell tasks on a real worker: what runs, with which packages, and what is said when it cannot."""

import io
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from events.spec import Input, TaskText
from tests.needs import need
from tests.worker_support import TICKET, Rig, rigged


def wheel(name: str, version: str) -> tuple[str, bytes]:
    """A wheel with one module, and its file's name."""
    made, info = io.BytesIO(), f"{name}-{version}.dist-info"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}-{version}-py3-none-any.whl", made.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> str:
    """A package index in a folder, with one package."""
    file, data = wheel("hivetestpkg", "1.2")
    for folder in ("hivetestpkg", "hivetestother"):
        (tmp_path / "index" / folder).mkdir(parents=True)
    (tmp_path / "index" / "hivetestpkg" / file).write_bytes(data)
    (tmp_path / "index" / "hivetestpkg" / "index.html").write_text(f'<a href="{file}">{file}</a>')
    return (tmp_path / "index").as_uri()


@pytest.fixture(params=["none", "bwrap"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path, index: str) -> AsyncGenerator[Rig]:
    if request.param == "bwrap":
        need("bubblewrap")
    async with rigged(tmp_path) as rig:
        await rig.start(isolation=request.param, packages=index)
        yield rig


def python(rig: Rig, files: dict[str, bytes], *args: str, entry: str = "") -> int:
    inputs = [Input(path, rig.shelf.put(data)) for path, data in files.items()]
    return rig.pool.run([0, 0], TaskText([*args], inputs=inputs, entry=entry), kind="python", ticket=TICKET)


async def test_the_entry_is_found_and_gets_its_arguments(rig: Rig) -> None:
    assert "python" in rig.pool.hellos[0][1].capacity.kinds
    main = b"import sys, os, helper; print(sys.argv[1:], helper.X, os.environ['HIVE_INDEX'])"
    lease = python(rig, {"app.py": main, "helper.py": b"X = 7"}, "a", "{{index}}")
    assert (await rig.pool.ended(lease)).code == 0
    assert rig.pool.text(lease) == b"['a', '0'] 7 0\n"


async def test_it_is_found_in_the_only_folder_or_named(rig: Rig) -> None:
    lease = python(rig, {"project/run.py": b"print('run')", "project/other.py": b"print('other')"})
    await rig.pool.ended(lease)
    assert rig.pool.text(lease) == b"run\n"
    lease = python(
        rig, {"project/run.py": b"print('run')", "project/other.py": b"print('other')"}, entry="project/other.py"
    )
    await rig.pool.ended(lease)
    assert rig.pool.text(lease) == b"other\n"


async def test_no_entry_is_said(rig: Rig) -> None:
    ended = await rig.pool.ended(python(rig, {"a.txt": b""}))
    assert ended.end == "rejected"
    assert "none of main.py, app.py, run.py, start.py" in ended.reason


async def test_requirements_are_there_and_made_once(rig: Rig) -> None:
    files = {
        "main.py": b"import hivetestpkg; print(hivetestpkg.VERSION)",
        "requirements.txt": b"# needed\nhivetestpkg==1.2\n",
    }
    leases = [python(rig, files) for _ in range(2)]
    for lease in leases:
        ended = await rig.pool.ended(lease)
        assert ended.code == 0, rig.pool.text(lease)
        assert rig.pool.text(lease, stream=1) == b"1.2\n"
    assert len([*(rig.root / "environments").iterdir()]) == 1
    assert rig.agent._shell.environments is not None
    assert not rig.agent._shell.environments.used


async def test_what_cannot_be_installed_fails_the_task_and_says_why(rig: Rig) -> None:
    ended = await rig.pool.ended(lease := python(rig, {"main.py": b"", "requirements.txt": b"hivetestother==9\n"}))
    assert (ended.end, ended.code) == ("exit", 1)
    assert "could not be installed" in ended.reason
    assert b"hivetestother" in rig.pool.text(lease)


@pytest.mark.parametrize("line", ["-e .", "-i http://x.y/", "./evil", "evil @ file:///tmp/evil", "git+https://a.b/c"])
async def test_only_packages_by_name_are_taken(rig: Rig, line: str) -> None:
    ended = await rig.pool.ended(python(rig, {"main.py": b"", "requirements.txt": f"hivetestpkg\n{line}\n".encode()}))
    assert ended.end == "rejected"
    assert "line 2 of requirements.txt" in ended.reason


async def test_shell_commands_in_turn(rig: Rig) -> None:
    lease = rig.pool.run(
        [0, 0], TaskText(commands=["mkdir a && cd a", "basename $PWD", "exit 5", "echo never"]), kind="shell"
    )
    ended = await rig.pool.ended(lease)
    assert (ended.end, ended.code) == ("exit", 5)
    assert rig.pool.text(lease, stream=1) == b"a\n"
    assert b"hive: command 3 of 4 failed with exit code 5" in rig.pool.text(lease, stream=2)
