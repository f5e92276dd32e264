"""What `submit` is given for the tasks' folders: looked at before anything is sent, then uploaded with a progress bar."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.inputs import Input
from events.units import size_text
from services.cli import format
from services.cli.context import Context
from services.cli.failure import Exit, Failure
from services.cli.find import find_job

if TYPE_CHECKING:
    from web.client import AsyncHive

UPLOADS_MAX = 8
NOT_YET = "0" * 64
"""In place of a digest that is not known before the upload."""
NO_JOB = "j" + "a" * 16


def planned(asked: dict[str, Any]) -> list[Input]:
    """The inputs that there will be, to be checked before anything is sent. Raises Failure for what is not there."""
    for option, paths in (("--input", asked["inputs"]), ("--unpack", asked["unpack"])):
        for path, _ in paths:
            there = Path(path).is_file() or (option == "--input" and Path(path).is_dir())
            if not there:
                what = "an archive (a file)" if option == "--unpack" else "a file or folder"
                raise Failure(f"{option}: {path} is not {what}", "name one that exists, PATH or PATH=NAME", Exit.USAGE)
    return [
        *(Input(name, NOT_YET, form="folder" if Path(path).is_dir() else "file") for path, name in asked["inputs"]),
        *(Input(name, NOT_YET, form="archive") for _, name in asked["unpack"]),
        *asked["fetch"],
        *(Input(name, job=NO_JOB) for _, name in asked["from_"]),
    ]


async def upload(context: Context, hive: "AsyncHive", asked: dict[str, Any]) -> list[Input]:
    """Upload files, folders and archives, a few at a time; every input of the job."""
    turn = asyncio.Semaphore(UPLOADS_MAX)
    files = size = 0

    async def one(path: Path, name: str, archive: bool) -> Input:
        nonlocal files, size
        async with turn:
            if path.is_dir():
                stored = await hive.upload_folder(path)
                files, size = files + stored.files, size + stored.size
                return Input(name, stored.digest, form="folder")
            blob = await hive.upload(path)
        files, size = files + 1, size + blob.size
        return Input(name, blob.digest, form="archive" if archive else "file")

    local = [(path, name, False) for path, name in asked["inputs"]]
    local += [(path, name, True) for path, name in asked["unpack"]]
    found = await asyncio.gather(*(one(Path(path), name, archive) for path, name, archive in local))
    if local:
        context.output.note(f"uploaded {format.count(files, 'file')}, {size_text(size)}")
    jobs = [Input(name, job=await find_job(hive, prefix)) for prefix, name in asked["from_"]]
    return [*found, *asked["fetch"], *jobs]
