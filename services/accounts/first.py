"""What must be there before anybody can do anything: the first admin, with the key that lies in the data folder."""

from collections.abc import Callable, Mapping

from events.base import WorkerId
from infra.folder import Folder
from infra.nats_server import WorkerUser
from infra.sealing import Sealer
from projections.access import Access
from services.accounts.commands import Command, Enrol, IssueKey, Register
from services.accounts.keys import digest_of, id_of, prefix_of

ADMIN = "admin"
"""The first admin's user id; it is also whose the jobs of a hive are that knew one key only."""
KEY_NAME = b"made at the first start"


def first_of(folder: Folder, known: Callable[[], Mapping[WorkerId, WorkerUser]]) -> Callable[[Access], list[Command]]:
    """What `AccountsService` is to see to. `known`: workers that an earlier version let in, by its own means.

    The key is issued once: when an admin revoked it, it stays so, and a new file with another key is needed.
    """
    key, sealer = folder.admin_key(), Sealer(folder.data_key())

    def first(state: Access) -> list[Command]:
        commands: list[Command] = []
        if ADMIN not in state.users:
            commands.append(Register(ADMIN, ["admin"]))
        digest = digest_of(key)
        if digest not in state.key_of:
            commands.append(IssueKey(id_of("k", digest), ADMIN, digest, prefix_of(key), sealer.seal(KEY_NAME)))
        for worker, user in known().items():
            if worker not in state.workers and user.public_key not in state.shut_out:
                commands.append(Enrol(worker, user.public_key, user.pool, owner=ADMIN))
        return commands

    return first
