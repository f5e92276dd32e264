"""The configuration of the embedded nats-server, as text: operator mode, with the accounts' JWTs in it.

The accounts are kept in memory and here, not in a folder of the server's: that one is written without fsync, and this
file is on disk before a changed account is pushed, so that whoever was shut out stays out after a power cut too.
"""

from pathlib import Path

import msgspec

from infra.nats_authority import Authority

CONNECTIONS_MAX = 20_000
PAYLOAD_BYTES_MAX = 1024 * 1024
PENDING_BYTES_MAX = 256 * 1024 * 1024
"""What may wait for one client that reads slowly, before the server hangs up on it."""
LOG_BYTES_MAX = 64 * 1024 * 1024
LOG_FILES_MAX = 4
HANDSHAKE_S = 5
STORE_BYTES_MAX = 8 * 1024**4
"""Far above any disk: a limit computed from free space could refuse to load streams on a fuller disk."""
STORE_MEMORY_BYTES_MAX = 256 * 1024 * 1024


class Listening(msgspec.Struct, frozen=True):
    """Where the server listens. `websocket_port`: also for WebSocket, 0: not. `served`: the file with certificate and key
    for both; without one there is no TLS.
    """

    host: str = "127.0.0.1"
    websocket_port: int = 0
    served: Path | None = None


class ServerConfig(msgspec.Struct, frozen=True):
    """What the configuration depends on."""

    home: Path
    port: int
    listening: Listening = Listening()
    sync_always: bool = True


def server_name(authority: Authority) -> str:
    """The server's name: it tells this folder's server from any other."""
    return f"hive-{authority.operator_key[-12:].lower()}"


def listeners(config: ServerConfig) -> str:
    """The part of nats.conf that a running server cannot change."""
    to = config.listening
    host = f"[{to.host}]" if ":" in to.host else to.host
    lines = [f'listen: "{host}:{config.port}"']
    secret = f'cert_file: "{to.served}", key_file: "{to.served}"'
    if to.served is not None:
        # Those who speak TLS at once need not wait for a greeting; others, such as nats-server's tools, get one.
        lines.append(f"tls {{ {secret}, handshake_first: auto, timeout: {HANDSHAKE_S} }}")
    if to.websocket_port:
        tls = f"tls {{ {secret} }}" if to.served is not None else "no_tls: true"
        listen = f'listen: "{host}:{to.websocket_port}"'
        lines.append(f'websocket {{ {listen}, {tls}, handshake_timeout: "{HANDSHAKE_S}s" }}')
    return "\n".join(lines)


def render(config: ServerConfig, authority: Authority) -> str:
    """The text of nats.conf."""
    sync = "always" if config.sync_always else '"2m"'
    accounts = "\n".join(f"  {account}: {jwt}" for account, jwt in authority.accounts().items())
    return f"""\
# Written by hive at each start and whenever a worker is shut out: changes made here are lost.
server_name: "{server_name(authority)}"
{listeners(config)}
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
operator: {authority.operator_jwt()}
system_account: {authority.system_account}
resolver: MEMORY
resolver_preload: {{
{accounts}
}}
"""
