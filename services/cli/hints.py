"""How to call hivectl from another terminal: what the commands that we suggest begin with."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from infra.folder import Folder


def program() -> str:
    """The word that starts hivectl here: itself when it is on the PATH, else its path, else its module."""
    called = Path(sys.argv[0])
    beside = called if called.name == "hivectl" else Path(sys.executable).with_name("hivectl")
    found = shutil.which("hivectl")
    if found and (not beside.exists() or os.path.samefile(found, beside)):
        return "hivectl"
    if beside.exists():
        return shlex.quote(_short(beside.absolute()))
    return "python -m services.cli.main"


def invocation(folder: Folder) -> str:
    """`program()`, told where the data is when it would not find it by itself in this working folder."""
    if is_default(folder):
        return program()
    return f"HIVE_DATA={shlex.quote(_short(folder.root))} {program()}"


def is_default(folder: Folder) -> bool:
    """Whether hivectl finds this folder here without being told."""
    unset = {name: value for name, value in os.environ.items() if name != "HIVE_DATA"}
    return Folder.find(None, unset).root == folder.root


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
