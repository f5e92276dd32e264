"""What a control plane's process is on its machine: what it is asked for and says, its name, the port it had, and the
Postgres that it keeps alive.
"""

import asyncio
import os
import secrets
import socket
from pathlib import Path

import msgspec
import structlog

from infra.folder import Claim
from infra.postgres import Postgres
from infra.postgres_system import PostgresError

POSTGRES_LOOK_S = 1.0

ROLES = frozenset({"api", "pool", "projector", "accounts", "ledger"})
_log = structlog.get_logger()


class RunOptions(msgspec.Struct, frozen=True):
    """What `hivectl up` and `serve` ask for. None: as the settings say."""

    data: Path
    what: str = "serve"
    port: int | None = None
    host: str | None = None
    roles: frozenset[str] = ROLES
    local_workers: int = 0
    unsafe_durability: bool | None = None


class Started(msgspec.Struct, frozen=True):
    """What a started control plane tells its user. `first`: the admin key was made just now."""

    url: str
    data: Path
    key_file: Path
    first: bool


class CannotRun(Exception):
    """The control plane cannot start or go on; the text says why and what to do."""


def own_name() -> str:
    """What this process' writers are called in the log."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"


def port_in(file: Path) -> int:
    """The port of last time, which workers know; 0 when there is none. Only taken when any free one will do."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


async def keep_postgres(postgres: Postgres, claim: Claim) -> None:
    """Have a dead Postgres started again, for ever. Raises FolderGone: no new one where a hive was deleted."""
    while True:
        await asyncio.sleep(POSTGRES_LOOK_S)
        claim.check()
        try:
            await postgres.ensure()
        except (PostgresError, OSError) as error:
            _log.warning("postgres.away", why=str(error))
