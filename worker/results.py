"""What a task left: declared files, folders and patterns, and what it named itself; stored by digest, each file once.

A list of files (see `events.inputs.File`) is a blob of its own, so that an attempt's report stays small however many
they are. Nothing outside the task's folder is opened, and no link is followed: links, pipes, devices are left out.
"""

import asyncio
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterable

import msgspec

from events.base import Digest
from events.inputs import FILES_MAX, OURS, BadSpec, File, check_path, is_list, list_bytes
from events.protocol import Run
from events.task import FileRef
from worker.api import Api

READ_BYTES = 1024 * 1024
STORING_MAX = 8
"""Files of one attempt that are stored at a time."""
WHOLE = "./"

Known = dict[str, tuple[int, int, int]]
"""Files that were there before the task, by path: inode, time of modification, size."""


class NotWritten(Exception):
    """A declared result is not there, or is not a file that can be taken."""


class Left(msgspec.Struct, frozen=True):
    """What an attempt left. `named`: what it named itself while it ran; `whole`: whether all that was declared must be
    there; `known`: what is no result of its, for it was there before.
    """

    named: tuple[str, ...] = ()
    whole: bool = True
    known: Known = {}


def wants_lists(order: Run) -> bool:
    """Whether any declared result may be several files."""
    return any(map(is_list, order.text.results))


def known_in(folder: str) -> Known:
    """The files in a task's folder before it starts. Blocking."""
    return {path: (found.st_ino, found.st_mtime_ns, found.st_size) for path, found in _walk(folder)}


def _walk(folder: str) -> Iterable[tuple[str, os.stat_result]]:
    """Every regular file below the folder, links not followed; those on top that are ours left out."""
    for here, folders, names, fd in os.fwalk(folder, follow_symlinks=False, onerror=None):
        folders.sort()
        below = os.path.relpath(here, folder)
        head = "" if below == "." else f"{below}/"
        for name in sorted(names):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and not (head + name).startswith(OURS):
                yield head + name, found


async def collect(api: Api, order: Run, folder: str, left: Left) -> list[FileRef]:
    """Store what the attempt left; what that is. Raises NotWritten, and api.Unavailable when it cannot be stored."""
    found: list[FileRef] = []
    taken: set[str] = set()
    there: list[str] | None = None
    for n, path in enumerate(order.text.results):
        what = f"declared result {path!r}"
        if not is_list(path):
            if (kept := await _one(api, order, folder, path, what, left.whole)) is not None:
                taken.add(path)
                found.append(FileRef(n, kept.digest, kept.size))
            continue
        if there is None:
            there = await asyncio.to_thread(_others, folder, left.known)
        if path.endswith("/") and path != WHOLE and not _is_folder(folder, path):
            if left.whole:
                raise NotWritten(f"{what} is not a folder inside the task's folder")
            continue
        wanted = pattern_of(path)
        files = [one for one in there if one not in taken and wanted.match(one)]
        taken.update(files)
        found.append(await _list(api, order, folder, n, files, what))
    if left.named:
        named = [path for path in left.named if path not in taken]
        whats = {path: f"artifact {at + 1} that the task named" for at, path in enumerate(left.named)}
        kept_all = [await _one(api, order, folder, path, whats[path], left.whole) for path in named]
        files_kept = [file for file in kept_all if file is not None]
        if files_kept:
            found.append(await _store_list(api, order, len(order.text.results), files_kept))
    return found


def _others(folder: str, known: Known) -> list[str]:
    return [path for path, now in _walk(folder) if known.get(path) != (now.st_ino, now.st_mtime_ns, now.st_size)]


def pattern_of(path: str) -> "re.Pattern[str]":
    """What matches the files that a declared folder or pattern takes."""
    if path == WHOLE:
        return re.compile("", re.DOTALL)
    if path.endswith("/"):
        return re.compile(re.escape(path), re.DOTALL)
    parts = path.split("/")
    said = ""
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        if part == "**":
            said += ".*" if last else "(?:.*/)?"
        else:
            said += _part(part) + ("" if last else "/")
    return re.compile(said + r"\Z", re.DOTALL)


def _part(part: str) -> str:
    """One part of a pattern: `*`, `?` and `[...]` stand for what they do in a shell."""
    said, at = "", 0
    while at < len(part):
        sign = part[at]
        end = part.find("]", at + 2 + (part[at + 1 : at + 2] == "!")) if sign == "[" else -1
        if sign == "*":
            said += "[^/]*"
        elif sign == "?":
            said += "[^/]"
        elif end > 0:
            inner = part[at + 1 : end]
            negated = inner.startswith("!")
            inner = re.sub(r"([\\^\[&~|])", r"\\\1", inner[1:] if negated else inner)
            said += f"(?!/)[{'^' if negated else ''}{inner}]"
            at = end
        else:
            said += re.escape(sign)
        at += 1
    return said


async def _one(api: Api, order: Run, folder: str, path: str, what: str, must: bool) -> File | None:
    """Store one file; None when it is not there and need not be."""
    try:
        fd = open_inside(folder, path, what)
    except NotWritten:
        if must:
            raise
        return None
    try:
        length = os.fstat(fd).st_size
        digest = _digest(fd) if length <= READ_BYTES else await asyncio.to_thread(_digest, fd)
        await api.upload(digest, order.ticket, fd, length)
    finally:
        os.close(fd)
    return File(path, digest, length)


async def _list(api: Api, order: Run, folder: str, n: int, paths: list[str], what: str) -> FileRef:
    if len(paths) > FILES_MAX:
        raise NotWritten(f"{what} takes {len(paths)} files; the limit is {FILES_MAX}: pack them into an archive")
    for path in paths:
        try:
            check_path("", path)
        except BadSpec:
            raise NotWritten(f"{what} takes a file whose name cannot be kept: too long, or not printable") from None
    kept: list[File] = []
    left = iter(paths)

    async def some() -> None:
        for path in left:
            if (file := await _one(api, order, folder, path, what, False)) is not None:
                kept.append(file)

    storing = [asyncio.ensure_future(some()) for _ in range(min(STORING_MAX, len(paths)))]
    try:
        await asyncio.gather(*storing)
    finally:
        for one in storing:
            one.cancel()
        await asyncio.gather(*storing, return_exceptions=True)
    return await _store_list(api, order, n, kept)


async def _store_list(api: Api, order: Run, n: int, files: list[File]) -> FileRef:
    digest = await store(api, order, list_bytes(files))
    return FileRef(n, digest, sum(file.size for file in files), len(files))


async def store(api: Api, order: Run, data: bytes) -> Digest:
    """Store bytes; their digest. Raises api.Unavailable."""
    digest = hashlib.sha256(data).hexdigest()
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        await api.upload(digest, order.ticket, file.fileno(), len(data))
    return digest


def _is_folder(folder: str, path: str) -> bool:
    here = folder
    for part in path.rstrip("/").split("/"):
        here = f"{here}/{part}"
        try:
            if not stat.S_ISDIR(os.lstat(here).st_mode):
                return False
        except OSError:
            return False
    return True


def open_inside(folder: str, path: str, what: str) -> int:
    """A descriptor of a regular file inside `folder`, following no link. Raises NotWritten."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise NotWritten(f"{what} does not name a place inside the task's folder")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        # Non-blocking: opening a pipe would wait for ever.
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except FileNotFoundError:
        raise NotWritten(f"{what} was not written") from None
    except OSError as error:
        raise NotWritten(f"{what} is not a file inside the task's folder: {error.strerror}") from None
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotWritten(f"{what} is not a regular file; write a file, or declare the folder as {path + '/'!r}")
    return fd


def _digest(fd: int) -> Digest:
    seen, at = hashlib.sha256(), 0
    while data := os.pread(fd, READ_BYTES, at):
        seen.update(data)
        at += len(data)
    return seen.hexdigest()
