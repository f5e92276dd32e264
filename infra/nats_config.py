"""The configuration of the embedded nats-server, as text.

Three accounts that share nothing but what is exported here. A worker's reply subjects are not permission-checked by
NATS, so an account that holds streams must hold no worker: WORKERS has no JetStream, and PLATFORM lets it reach only
the subjects below. A service's answer may take `ANSWER_S`, longer than the longest poll, or it is dropped silently.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from events.protocol import POLL_S_MAX
from infra.nkey import BadKey, check_public
from infra.settings import POOL_NAME

ANSWER_S = POLL_S_MAX + 10
WORKER_ID = re.compile(r"w[a-z2-7]{12}")
CONNECTIONS_MAX = 20_000
PAYLOAD_BYTES_MAX = 1024 * 1024
PENDING_BYTES_MAX = 256 * 1024 * 1024
"""What may wait for one client that reads slowly, before the server hangs up on it."""
LOG_BYTES_MAX = 64 * 1024 * 1024
LOG_FILES_MAX = 4
STORE_BYTES_MAX = 8 * 1024**4
"""Far above any disk: a limit computed from free space could refuse to load streams on a fuller disk."""
STORE_MEMORY_BYTES_MAX = 256 * 1024 * 1024


class WorkerUser(msgspec.Struct, frozen=True, gc=False):
    """A worker that may connect: its public key, and the pool it belongs to."""

    public_key: str
    pool: str = "default"


class ServerConfig(msgspec.Struct, frozen=True):
    """What the configuration depends on."""

    home: Path
    host: str
    port: int
    platform_key: str
    sys_key: str
    sync_always: bool = True

    @property
    def server_name(self) -> str:
        """The server's name: it tells this folder's server from any other."""
        return f"hive-{self.platform_key[-12:].lower()}"


def check_worker(worker_id: str, user: WorkerUser) -> None:
    """Raise ValueError unless both can stand in the configuration."""
    if not WORKER_ID.fullmatch(worker_id):
        raise ValueError(f"not a worker's id: {worker_id!r}; it is w and 12 of a-z and 2-7")
    if not POOL_NAME.fullmatch(user.pool):
        raise ValueError(f"not a pool's name: {user.pool!r}; it is 1 to 32 of a-z, 0-9, _ and -")
    check_public(user.public_key)


def reserve(users: Mapping[str, WorkerUser], worker_id: str, user: WorkerUser) -> None:
    """Raise ValueError when the key is already another worker's: nats-server refuses one key for two users."""
    for other, known in users.items():
        if other != worker_id and known.public_key == user.public_key:
            raise BadKey(f"the key {user.public_key} is already worker {other}'s; a worker makes a key of its own")


def render(config: ServerConfig, workers: Mapping[str, WorkerUser]) -> str:
    """The text of nats.conf."""
    sync = "always" if config.sync_always else '"2m"'
    users = "\n".join(_worker(worker_id, user) for worker_id, user in sorted(workers.items()))
    return f"""\
# Written by hive at each start and whenever a worker is added or removed: changes made here are lost.
server_name: "{config.server_name}"
listen: "{config.host}:{config.port}"
pid_file: "{config.home}/nats.pid"
log_file: "{config.home}/nats.log"
logfile_size_limit: {LOG_BYTES_MAX}
logfile_max_num: {LOG_FILES_MAX}
max_payload: {PAYLOAD_BYTES_MAX}
max_connections: {CONNECTIONS_MAX}
max_pending: {PENDING_BYTES_MAX}
write_deadline: "10s"
ping_interval: "20s"
ping_max: 3
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
jetstream {{
  store_dir: "{config.home}/data"
  sync_interval: {sync}
  strict: true
  max_mem: {STORE_MEMORY_BYTES_MAX}
  max_file: {STORE_BYTES_MAX}
}}
system_account: SYS
accounts {{
  SYS {{ users: [ {{ nkey: {config.sys_key} }} ] }}
  PLATFORM {{
    jetstream: enabled
    users: [ {{ nkey: {config.platform_key} }} ]
    exports: [
      {{ service: "req.*.*.*", accounts: [WORKERS], response_threshold: "{ANSWER_S}s" }}
      {{ service: "hb.*.*", accounts: [WORKERS] }}
      {{ service: "tok.*.*.*", accounts: [WORKERS] }}
      {{ stream: "push.*.*.>", accounts: [WORKERS] }}
    ]
  }}
  WORKERS {{
    imports: [
      {{ service: {{ account: PLATFORM, subject: "req.*.*.*" }} }}
      {{ service: {{ account: PLATFORM, subject: "hb.*.*" }} }}
      {{ service: {{ account: PLATFORM, subject: "tok.*.*.*" }} }}
      {{ stream: {{ account: PLATFORM, subject: "push.*.*.>" }} }}
    ]
    users: [
{users}
    ]
  }}
}}
"""


def _worker(worker_id: str, user: WorkerUser) -> str:
    check_worker(worker_id, user)
    pool = user.pool
    publish = f'"req.{pool}.{worker_id}.*", "hb.{pool}.{worker_id}", "tok.{pool}.{worker_id}.*"'
    subscribe = f'"_INBOX_{worker_id}.>", "push.{pool}.{worker_id}.>", "push.{pool}.all.>"'
    permissions = f"publish: {{ allow: [{publish}] }}, subscribe: {{ allow: [{subscribe}] }}"
    return f"      {{ nkey: {user.public_key}, permissions: {{ {permissions} }} }}"
