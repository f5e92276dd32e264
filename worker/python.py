"""Python tasks: which file to run, and the environment with what its requirements.txt names, made once for each list.

Only wheels from the owner's package index are installed, so that nothing of a stranger's runs outside of the task's box.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from events.protocol import Run
from worker.executors.base import Failed, Rejected
from worker.executors.bubblewrap import PROGRAMS
from worker.executors.process import PATH

ENTRIES = ("main.py", "app.py", "run.py", "start.py")
REQUIREMENTS = "requirements.txt"
REQUIREMENTS_BYTES_MAX = 256 * 1024
ENVIRONMENTS_MAX = 16
"""Kept on a machine; the one that was used least lately goes first."""
INSTALL_S = 1800.0
OUTPUT_BYTES = 8192
READY = ".ready"
NO_INDEX = "none"
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[A-Za-z0-9._, -]*\])?\s*(\(?[<>=!~][^;#@:/\\]*\)?)?\s*(;[^#@/\\]*)?\Z"
)
_HASH = re.compile(r"\s+--hash=\S+")

_log = structlog.get_logger()


def find_interpreter() -> str:
    """The Python that tasks run with: one that they see, shut in or not. "": there is none."""
    found = shutil.which("python3", path=PATH)
    real = os.path.realpath(found) if found else ""
    return found if found and real.startswith(tuple(f"{path}/" for path in PROGRAMS)) else ""


def find_entry(folder: str, named: str) -> str:
    """The file to run, as a path in `folder`: the one named, or the first there is of ENTRIES, in the folder or in the only
    one in it, as archives often have it. Raises Rejected.
    """
    if named:
        if not _is_file(folder, named):
            raise Rejected(f"there is no file {named!r} in the task's folder; an input can make it")
        return named
    try:
        with os.scandir(folder) as found:
            below = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise Rejected(f"the task's folder cannot be read: {error.strerror}") from None
    for head in ["", *([f"{below[0]}/"] if len(below) == 1 else [])]:
        for name in ENTRIES:
            if _is_file(folder, head + name):
                return head + name
    raise Rejected(f"none of {', '.join(ENTRIES)} is in the task's folder; name the file to run in entry")


def _is_file(folder: str, path: str) -> bool:
    full = f"{folder}/{path}"
    return os.path.isfile(full) and os.path.realpath(full).startswith(f"{os.path.realpath(folder)}/")


def find_requirements(folder: str, entry: str) -> str | None:
    """What requirements.txt beside the entry, or else in the folder, says. Raises Rejected."""
    for head in dict.fromkeys((f"{entry.rpartition('/')[0]}/".lstrip("/"), "")):
        if _is_file(folder, head + REQUIREMENTS):
            with open(f"{folder}/{head}{REQUIREMENTS}", "rb") as file:
                data = file.read(REQUIREMENTS_BYTES_MAX + 1)
            if len(data) > REQUIREMENTS_BYTES_MAX:
                raise Rejected(f"{REQUIREMENTS} has more than {REQUIREMENTS_BYTES_MAX} bytes")
            return data.decode("utf-8", "replace")
    return None


def requirements_of(text: str) -> list[str]:
    """The requirements in `text`, each once, sorted. Raises Rejected: a line is more than a name, a version and hashes."""
    found: set[str] = set()
    joined = re.sub(r"\\\r?\n", " ", text)
    for number, line in enumerate(joined.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        if not _REQUIREMENT.match(_HASH.sub("", line)):
            raise Rejected(
                f"line {number} of {REQUIREMENTS} cannot be installed here: packages by name come from the machine's index, "
                "such as numpy==2.1.0; options, files and addresses are not taken"
            )
        found.add(" ".join(line.split()))
    return sorted(found)


class Program(msgspec.Struct, frozen=True):
    """What a Python task runs: interpreter, file in its folder, and the environment that is for it ("": none)."""

    interpreter: str
    entry: str
    environment: str = ""


async def prepare(environments: "Environments", order: Run, folder: str, tell: Callable[[bytes], None]) -> Program:
    """What a task whose folder is filled runs. An environment is in use until it is released. Raises Rejected and Failed."""
    entry = await asyncio.to_thread(find_entry, folder, order.text.entry)
    text = await asyncio.to_thread(find_requirements, folder, entry)
    if text is None:
        return Program(environments.interpreter, entry)
    path = await environments.ready(requirements_of(text), tell)
    return Program(f"{path}/bin/python", entry, path)


class Environments:
    """The environments in `folder`, made with `interpreter` from `index` (\"\": as pip and uv are set up on this machine)."""

    def __init__(self, folder: Path, interpreter: str, index: str) -> None:
        self._folder, self.interpreter, self._index = folder, interpreter, index
        self._uv = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
        self._making: dict[str, asyncio.Task[None]] = {}
        self.used: dict[str, int] = {}
        """How many tasks use each."""

    async def ready(self, requirements: list[str], tell: Callable[[bytes], None]) -> str:
        """The folder of an environment with these; in use until `release`. `tell` is told what the installer says when it
        fails. Raises Rejected and Failed.
        """
        if self._index == NO_INDEX:
            raise Rejected(f"this machine's owner lets no packages be installed, and the task has a {REQUIREMENTS}")
        said = "\n".join([*requirements, self.interpreter, os.path.realpath(self.interpreter), self._index])
        name = hashlib.sha256(said.encode()).hexdigest()[:32]
        path = self._folder / name
        self.used[name] = self.used.get(name, 0) + 1
        try:
            if not (path / READY).exists():
                making = self._making.get(name)
                if making is None:
                    tell(b"hive: installing %d packages\n" % len(requirements))
                    making = self._making[name] = asyncio.create_task(self._make(path, requirements, tell))
                    making.add_done_callback(lambda done: self._making.pop(name, None))
                await asyncio.shield(making)
            os.utime(path / READY)
        except BaseException:
            self.release(str(path))
            raise
        return str(path)

    def release(self, path: str) -> None:
        """A task needs it no more."""
        name = os.path.basename(path)
        self.used[name] -= 1
        if not self.used[name]:
            del self.used[name]

    async def close(self) -> None:
        """Stop making."""
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def _make(self, path: Path, requirements: list[str], tell: Callable[[bytes], None]) -> None:
        began = time.monotonic()
        await asyncio.to_thread(self._clear, path)
        listed = path.with_suffix(".txt")
        listed.write_text("\n".join(requirements) + "\n")
        try:
            for args in self._steps(path, listed):
                await _run(args, self._index, tell)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            raise
        finally:
            listed.unlink(missing_ok=True)
        (path / READY).touch()
        _log.info("worker.environment_made", packages=len(requirements), seconds=round(time.monotonic() - began, 1))

    def _steps(self, path: Path, listed: Path) -> Iterator[list[str]]:
        if self._uv is not None:
            yield [self._uv, "venv", "--quiet", "--python", self.interpreter, str(path)]
            install = [self._uv, "pip", "install", "--quiet", "--python", f"{path}/bin/python"]
        else:
            yield [self.interpreter, "-m", "venv", str(path)]
            install = [
                f"{path}/bin/python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ]
        if listed.read_text().strip():
            yield [*install, "--only-binary", ":all:", "-r", str(listed)]

    def _clear(self, path: Path) -> None:
        """Make room: remove what an agent that died left half made, and the oldest that no task uses."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        whole: list[tuple[float, Path]] = []
        for found in self._folder.iterdir():
            if found.is_dir() and found.name not in self.used:
                with contextlib.suppress(OSError):
                    whole.append(((found / READY).stat().st_mtime, found))
                    continue
                shutil.rmtree(found, ignore_errors=True)
        for _, found in sorted(whole)[: max(0, len(whole) - ENVIRONMENTS_MAX + 1)]:
            shutil.rmtree(found, ignore_errors=True)


async def _run(args: list[str], index: str, tell: Callable[[bytes], None]) -> None:
    """Run a step of an installation. Raises Failed, and Rejected when it cannot be run or takes too long."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HIVE_", "PYTHON", "VIRTUAL_ENV"))}
    env |= {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index} if index else {}
    try:
        process = await asyncio.create_subprocess_exec(
            *args, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, umask=0o022, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Rejected(f"packages cannot be installed on this machine: {error.strerror}") from None
    try:
        async with asyncio.timeout(INSTALL_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise Rejected(f"its packages were not installed within {INSTALL_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        tell(said[-OUTPUT_BYTES:])
        raise Failed(1, "its packages could not be installed; its output says why")
