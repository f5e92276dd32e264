"""Task folders that cannot outgrow a size: each a file system of its own in a sparse file. As root, where loop devices are."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import structlog

from events.units import size_text
from infra.disk import free_bytes
from worker.executors.base import Rejected

MKFS = ("-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0")
"""No journal: after a power cut nothing of it is wanted."""
OPTIONS = "loop,nosuid,nodev,noatime,errors=remount-ro"
BYTES_MIN = 4 * 1024**2
"""Less holds no file system worth the name."""
STEP_S = 60.0
MOUNTS = Path("/proc/self/mounts")

_log = structlog.get_logger()


class Volumes:
    """The volumes of one worker; their files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def mount(self, place: str, size: int) -> None:
        """Put a new volume of `size` bytes at the empty folder `place`. Raises Rejected."""
        free = free_bytes(self._folder)
        if size > free:
            raise Rejected(f"needs {size_text(size)} of disk; this machine has {size_text(free)} free")
        work = asyncio.ensure_future(asyncio.to_thread(self.make, place, size))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        except OSError as error:
            raise Rejected(f"no volume could be made for the task: {error}") from None

    def make(self, place: str, size: int) -> None:
        """As `mount`, without a look at what is free. Blocks for a moment. Raises OSError."""
        file = self._file(place)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, max(size, BYTES_MIN))
        finally:
            os.close(fd)
        try:
            _step("mkfs.ext4", *MKFS, str(file))
            _step("mount", "-t", "ext4", "-o", OPTIONS, str(file), place)
        except OSError:
            file.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):
            os.rmdir(f"{place}/lost+found")
        os.chmod(place, 0o700)

    def release(self, place: str) -> None:
        """Take away the volume at `place`, if there is one, with all that is in it. Blocks for a moment."""
        file = self._file(place)
        if not file.exists():
            return
        try:
            _step("umount", place)
        except OSError:
            with contextlib.suppress(OSError):  # in use by what is about to end, or not mounted at all
                _step("umount", "-l", place)
        file.unlink(missing_ok=True)

    def clear(self, root: str, keep: set[str] | frozenset[str] = frozenset()) -> None:
        """Take away what an earlier agent left below `root`, but for the folders in `keep`. Blocks."""
        for line in MOUNTS.read_text().splitlines():
            place = line.split(" ")[1].encode().decode("unicode_escape")
            if place.startswith(f"{root}/") and place not in keep:
                with contextlib.suppress(OSError):
                    _step("umount", "-l", place)
        kept = {self._file(place).name for place in keep}
        for file in self._folder.glob("*.img"):
            if file.name not in kept:
                file.unlink(missing_ok=True)

    def _file(self, place: str) -> Path:
        return self._folder / f"{os.path.basename(place)}.img"


def find(folder: Path) -> tuple[Volumes | None, str]:
    """Volumes with their files in `folder`, or why there can be none here. Blocks for a moment."""
    if os.geteuid() != 0:
        return None, "only root can mount volumes that bound a task's folder"
    if missing := [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name) is None]:
        return None, f"{missing[0]} is not installed (packages e2fsprogs and mount)"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            volumes = Volumes(folder)
            try:
                volumes.make(place, BYTES_MIN)
            finally:
                volumes.release(place)
    except OSError as error:
        return None, f"volumes cannot be mounted here: {error}"
    return Volumes(folder), ""


def _step(program: str, *args: str) -> None:
    """Run it. Raises OSError."""
    try:
        done = subprocess.run([program, *args], check=False, capture_output=True, text=True, timeout=STEP_S)
    except subprocess.TimeoutExpired:
        raise OSError(f"{program} did not end within {STEP_S:g} s") from None
    if done.returncode:
        raise OSError(f"{program}: {done.stderr.strip()[:200]}")
