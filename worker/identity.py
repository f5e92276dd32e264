"""Who a worker is: a key that it makes itself, in its state folder. Only the public half ever leaves the machine."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from events.base import WorkerId
from infra import nkey
from infra.folder import Claim, Folder, FolderInUse

SEED_NAME = "worker.seed"
SYSTEMD_ENV = "CREDENTIALS_DIRECTORY"


class StateInUse(Exception):
    """Another agent runs in this state folder; the text names it and the remedy."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A worker's id, derived from its public key (`U...`), and where its secret seed lies."""

    worker: WorkerId
    public_key: str
    seed_path: Path


def load_or_create(state: Path, environ: Mapping[str, str] = os.environ) -> Identity:
    """The identity kept in the folder `state`, made the first time; or the one that systemd hands in as the credential
    `worker.seed` (LoadCredential=). Raises infra.nkey.BadKey for a damaged seed.
    """
    handed = Path(environ.get(SYSTEMD_ENV, "")) / SEED_NAME
    if environ.get(SYSTEMD_ENV) and handed.is_file():
        return _of(handed.read_text(), handed)
    folder = Folder(state)
    seed = folder.secret(SEED_NAME, lambda: nkey.new_user_seed().encode()).decode()
    return _of(seed, folder.path("keys", SEED_NAME))


def _of(seed: str, path: Path) -> Identity:
    public_key = nkey.public_of(seed)
    return Identity(nkey.worker_id_of(public_key), public_key, path)


def claim(state: Path) -> Claim:
    """Own the state folder until `release()` or this process ends. Raises StateInUse."""
    folder = Folder(state)
    try:
        return folder.claim("worker run")
    except FolderInUse:
        owner = folder.running()
        who = f"process {owner.pid}; stop it (`kill {owner.pid}`)" if owner else "another process; wait for it to end"
        raise StateInUse(f"a worker runs in {folder.root} already: {who}, or choose another folder") from None
