"""The data folder: one place for everything a hive keeps on a machine, owned by one process at a time.

Ownership is a kernel lock (flock) on `hive.lock`, so it ends with its process, however that dies. Beside it
`running.json` says who owns the folder and where its API answers. Secrets live under `keys/`, one 0600 file each,
made once and never changed.
"""

import contextlib
import fcntl
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import msgspec

from infra.files import sync_folder

CLAIM_TRIES = 20
CLAIM_PAUSE_S = 0.02
"""`running()` takes the lock for a moment to see whether it is free: a claim tries again for 0.4 s."""
KEY_BYTES = 32
ADMIN_KEY_CHARS = 40
RANDOM_KEYS = ("data.key", "ticket.key", "session.key")
DISTINCT_MIN = 12
"""Fewer different bytes than random keys ever have."""


class FolderInUse(Exception):
    """Another process owns the data folder; the text names it and the remedy."""


class WeakSecret(Exception):
    """A key in the data folder can be guessed; the text names it and the remedy."""


class FolderGone(Exception):
    """The data folder was removed or replaced while it was in use; the text says so and what to do."""


class Running(msgspec.Struct, frozen=True, gc=False):
    """The process that owns a folder: `what` it is (`up`, `serve`, ...), and its API's URL ("" while it starts)."""

    pid: int
    what: str
    command: str
    url: str = ""


_encode = msgspec.json.Encoder().encode
_running_of = msgspec.json.Decoder(Running).decode


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` at once and on disk: a crash leaves the old bytes or the new ones. Makes 0700 parents."""
    make_private(path.parent)
    temporary = _write_beside(path, data, mode)
    try:
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    sync_folder(path.parent)


def make_private(path: Path) -> Path:
    """Make a folder and its missing parents, open to this user only; the folder."""
    for missing in reversed([p for p in (path, *path.parents) if not p.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return path


def _write_beside(path: Path, data: bytes, mode: int) -> str:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


class Folder:
    """A data folder. Nothing is made until something is claimed or written in it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Folder({str(self.root)!r})"

    @classmethod
    def find(cls, explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> "Folder":
        """The folder meant: the explicit one, HIVE_DATA, the nearest `.hive` here or above, or ~/.hive."""
        if named := explicit or environ.get("HIVE_DATA"):
            return cls(Path(named))
        here = Path.cwd()
        for parent in (here, *here.parents):
            if (parent / ".hive").is_dir():
                return cls(parent / ".hive")
        return cls(Path.home() / ".hive")

    def path(self, *parts: str) -> Path:
        """A path inside; nothing is made."""
        return self.root.joinpath(*parts)

    def directory(self, *parts: str) -> Path:
        """A folder inside, made when missing, open to this user only."""
        return make_private(self.path(*parts))

    def claim(self, what: str) -> "Claim":
        """Own the folder until `release()` or the end of this process. Raises FolderInUse."""
        lock = self.directory() / "hive.lock"
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(CLAIM_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(CLAIM_PAUSE_S)
            else:
                return Claim(self, handle, what)
        os.close(handle)
        raise FolderInUse(self._in_use())

    def _in_use(self) -> str:
        owner = self._owner()
        if owner is None:
            who, remedy = "another process", "wait for it to end"
        else:
            at = f" at {owner.url}" if owner.url else ""
            who, remedy = f"`{owner.command}` (process {owner.pid}){at}", f"stop it (`kill {owner.pid}`)"
        return f"the data folder {self.root} is in use by {who}; {remedy}, or choose another folder with --data or HIVE_DATA"

    def running(self) -> Running | None:
        """The process that owns the folder now, if any."""
        try:
            handle = os.open(self.path("hive.lock"), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._owner()
        finally:
            os.close(handle)
        return None

    def _owner(self) -> Running | None:
        try:
            return _running_of(self.path("running.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The bytes of `keys/<name>`, made by `make` the first time; two processes that race get the same bytes."""
        path = self.path("keys", name)
        try:
            return _read_secret(path)
        except FileNotFoundError:
            self.directory("keys")
        temporary = _write_beside(path, make(), 0o600)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
        sync_folder(path.parent)
        return _read_secret(path)

    def check_secrets(self) -> None:
        """Raise WeakSecret when one that is there can be guessed: somebody put it there, or it is damaged."""
        for name, least in (("admin.key", ADMIN_KEY_CHARS), *((name, KEY_BYTES) for name in RANDOM_KEYS)):
            path = self.path("keys", name)
            if not path.exists():
                continue
            data = _read_secret(path)
            if len(data) < least or len({*data}) < DISTINCT_MIN:
                raise WeakSecret(
                    f"{path} is no random key of {least} bytes or more ({len(data)} bytes, {len({*data})} different ones): "
                    "restore the one that the hive made, or, if it never was used, delete it and another is made"
                )

    def admin_key(self) -> str:
        """The key that guards the HTTP API: `hive_` and 43 characters that are safe in a URL."""
        return self.secret("admin.key", _new_admin_key).decode().strip()

    def data_key(self) -> bytes:
        """The 32 bytes that encrypt what users typed."""
        return self.secret("data.key", _new_key)

    def ticket_key(self) -> bytes:
        """The 32 bytes that sign workers' tickets."""
        return self.secret("ticket.key", _new_key)


def _new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _new_admin_key() -> bytes:
    return f"hive_{secrets.token_urlsafe(KEY_BYTES)}".encode()


def _read_secret(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            os.fchmod(file.fileno(), 0o600)
        return file.read()


class Claim:
    """Ownership of a folder; a context manager."""

    def __init__(self, folder: Folder, handle: int, what: str) -> None:
        self._folder = folder
        self._handle = handle
        self._what = what
        self.set_url("")

    def set_url(self, url: str) -> None:
        """Say where this process' API answers, for `hivectl` on this machine."""
        # Only the program and its command: arguments may name anything.
        command = f"{Path(sys.argv[0]).name} {self._what}"
        write_atomic(self._folder.path("running.json"), _encode(Running(os.getpid(), self._what, command, url)))

    def check(self) -> None:
        """Raise FolderGone when what lies at the folder's path is not the folder that was claimed any more."""
        root = self._folder.root
        try:
            same = os.path.samestat(os.stat(root / "hive.lock"), os.fstat(self._handle))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise FolderGone(
                f"the data folder {root} was removed, moved or replaced while this hive ran on it; nothing more can be "
                "kept there. Put the folder back (from a copy) and start again; without one a new hive begins there"
            )

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._handle >= 0:
            with contextlib.suppress(FolderGone):  # another's is not ours to tidy
                self.check()
                self._folder.path("running.json").unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
