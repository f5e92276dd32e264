"""A task's folder: made, filled with its inputs, searched for its results, removed. Names from users stay inside it."""

import asyncio
import contextlib
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import msgspec
import structlog

from events.base import Digest, JobId
from events.protocol import OpenSecrets, Run
from events.spec import Each
from events.task import FileRef
from infra.sealed_box import NotForUs, open_with
from worker.api import Api, Unavailable
from worker.cache import Cache
from worker.executors.base import Rejected
from worker.fetch import Fetcher, Urls
from worker.inputs import Filler
from worker.results import Known, Left, collect, known_in, store, wants_lists
from worker.state import Key
from worker.volumes import Volumes

EACH_JOBS_MAX = 8
FOLDER_MODE = 0o700
SPARE_MAX = 64
"""Empty folders kept for the next tasks."""

_log = structlog.get_logger()
_each_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
_opened_of = msgspec.json.Decoder(OpenSecrets).decode
_one_of = msgspec.json.Decoder(Each).decode


class Places:
    """Task folders below `root`. `seed` tells that of the worker's present key, which secrets are sealed to."""

    def __init__(self, root: str, cache: Cache, api: Api, urls: Urls, seed: Callable[[], str]) -> None:
        self._fetcher = Fetcher(urls)
        self._filler = Filler(cache, api, self._fetcher)
        self._root, self._cache, self._api, self._seed = root, cache, api, seed
        self._each: OrderedDict[tuple[JobId, Digest], list[msgspec.Raw]] = OrderedDict()
        self._removing: set[asyncio.Future[None]] = set()
        self._folders: dict[Key, str] = {}
        self._known: dict[str, Known] = {}
        """What was in a folder before its task, where that matters."""
        self._spare: list[str] = []
        self._made = 0
        self.volumes: Volumes | None = None
        """What can bound the size of a folder, where the machine can."""
        self._bounded: set[Key] = set()
        self._held: dict[Key, list[Callable[[], None]]] = {}

    def path(self, key: Key) -> str:
        """The folder of an attempt that `make` was called for."""
        return self._folders[key]

    def make(self, key: Key) -> str:
        """An empty folder for an attempt: a new one, or one that an earlier task left empty. Raises Rejected.

        Making and removing a folder costs more than starting a short process, on a disk that is fsynced all the time.
        """
        folder = self._spare.pop() if self._spare else self._new()
        self._folders[key] = folder
        return folder

    def _new(self) -> str:
        while True:
            self._made += 1
            folder = f"{self._root}/{self._made}"
            try:
                os.mkdir(folder, FOLDER_MODE)
            except FileExistsError:
                continue  # an earlier session's; it goes when its processes are known to be gone
            except OSError as error:
                raise Rejected(f"no folder could be made for the task on this machine: {error.strerror}") from None
            return folder

    async def bound(self, key: Key, size: int) -> None:
        """Let an attempt's empty folder hold `size` bytes at most. Raises Rejected."""
        if self.volumes is None:
            raise Rejected("this machine cannot bound the size of a task's folder")
        await self.volumes.mount(self._folders[key], size)
        self._bounded.add(key)

    def hold(self, key: Key, release: Callable[[], None]) -> None:
        """Call `release` once the attempt needs its folder no more."""
        self._held.setdefault(key, []).append(release)

    def adopt(self, folders: dict[Key, str]) -> None:
        """These folders of an earlier agent's attempts are in use."""
        self._folders.update(folders)
        self._bounded.update(key for key, folder in folders.items() if os.path.ismount(folder))

    def remove(self, key: Key) -> None:
        """An attempt needs its folder no more: keep it for the next task when it is as good as new, else remove it."""
        folder, held, bounded = self._folders.pop(key, None), self._held.pop(key, []), key in self._bounded
        self._bounded.discard(key)
        for release in held:
            release()
        if folder is None:
            return
        self._known.pop(folder, None)
        if not bounded and len(self._spare) < SPARE_MAX and _as_new(folder):
            self._spare.append(folder)
            return
        removing: asyncio.Future[None] = asyncio.get_running_loop().run_in_executor(None, self._clear, folder, bounded)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)

    def _clear(self, folder: str, bounded: bool) -> None:
        if bounded and self.volumes is not None:
            self.volumes.release(folder)
        _remove(folder)

    async def close(self) -> None:
        """Let go, once nothing is being removed any more."""
        await self._fetcher.close()
        await asyncio.gather(*self._removing, return_exceptions=True)

    async def each(self, order: Run, index: int) -> Each:
        """What this task has of its own. Raises Rejected."""
        if not order.text.each:
            return Each()
        known = (order.job, order.text.each)
        try:
            entries = self._each.get(known)
            if entries is None:
                entries = _each_of(await self._cache.read(order.text.each, order.ticket))
                self._each[known] = entries
                while len(self._each) > EACH_JOBS_MAX:
                    self._each.popitem(last=False)
            if index >= len(entries):
                raise Rejected(
                    f"the list `each` has {len(entries)} entries, none for task {index}; one a task is needed"
                )
            return _one_of(entries[index])
        except Unavailable as error:
            raise Rejected(f"the list `each` could not be fetched: {error}") from None
        except msgspec.DecodeError as error:
            raise Rejected(f"the list `each` has no usable entry {index}: {error}") from None

    async def fill(self, order: Run, folder: str, own: Each) -> None:
        """Put every input and the parameters of the task into its folder. Raises Rejected."""
        await self._filler.fill(order, folder, own)
        if wants_lists(order) and (order.text.inputs or own.inputs):
            self._known[folder] = await asyncio.to_thread(known_in, folder)

    async def secrets(self, order: Run, index: int) -> dict[str, str]:
        """The secrets that the task asked for, by variable; opened here, and kept nowhere. Raises Rejected."""
        if not order.text.secrets:
            return {}
        try:
            sealed = await self._api.secrets(order.job, index, order.ticket)
            opened = _opened_of(open_with(self._seed(), sealed))
        except Unavailable as error:
            raise Rejected(f"the task's secrets could not be fetched: {error}") from None
        except (NotForUs, msgspec.DecodeError):
            raise Rejected("the task's secrets were sealed to another key than this machine's") from None
        if opened.job != order.job:
            raise Rejected("the platform sent the secrets of another job")
        return opened.env

    async def collect(self, order: Run, folder: str, named: Sequence[str], whole: bool) -> list[FileRef]:
        """Store what an attempt left: what was declared, all of which must be there if `whole`, and what it `named`
        itself. Raises NotWritten, and Unavailable when they cannot be stored.
        """
        return await collect(self._api, order, folder, Left(tuple(named), whole, self._known.get(folder, {})))

    async def store(self, order: Run, data: bytes) -> Digest:
        """Store bytes of an attempt; their digest, "" when there are none. Raises Unavailable."""
        return await store(self._api, order, data) if data else ""


def give(folder: str, uid: int) -> None:
    """Make `folder` and the folders in it the user's (-1: they stay ours). Files in it stay ours, to be read: some of them
    are links to the cache's. Raises Rejected.
    """
    if uid < 0:
        return
    try:
        for here, _, _ in os.walk(folder):
            os.chown(here, uid, uid, follow_symlinks=False)
    except OSError as error:
        raise Rejected(f"the task's folder could not be given to a user of its own: {error.strerror}") from None


def _as_new(folder: str) -> bool:
    """Whether this is still an empty folder, and ours alone."""
    try:
        mode = os.lstat(folder).st_mode
        if not stat.S_ISDIR(mode) or stat.S_IMODE(mode) != FOLDER_MODE:
            return False
        with os.scandir(folder) as found:
            return next(found, None) is None
    except OSError:
        return False


def _remove(folder: str) -> None:
    if os.path.islink(folder):
        os.unlink(folder)  # a task put it there; what it points to is none of ours
        return
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        # A task may have taken its own folders' permissions away.
        for here, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(here, FOLDER_MODE)
                for name in os.listdir(here):
                    if not os.path.islink(f"{here}/{name}") and os.path.isdir(f"{here}/{name}"):
                        os.chmod(f"{here}/{name}", FOLDER_MODE)
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        _log.warning("worker.folder_left", folder=folder)


def clear(root: str, but: Collection[str]) -> None:
    """Remove every task folder that an earlier agent left, `but` those in use."""
    os.makedirs(root, FOLDER_MODE, exist_ok=True)
    for name in os.listdir(root):
        path = f"{root}/{name}"
        if path in but:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            _remove(path)
        else:
            os.unlink(path)
