"""The embedded nats-server: a child process that outlives its parent's death and is found again.

Everything it has lies under `nats/` in the data folder. The server writes its own pid file, so a hive that was killed
leaves an orphan that the next `start()` recognises by its command line (it names our configuration) and adopts. The
port is chosen once and kept: workers know it.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import psutil
import structlog

from infra.files import sync_folder
from infra.folder import Folder, write_atomic
from infra.link import Link, LinkDown, LinkTimeout, NoResponders
from infra.nats_authority import WORKER_JWT_S, Authority
from infra.nats_config import Listening, ServerConfig, listeners, render, server_name
from infra.nats_process import (
    POLL_S,
    NatsServerError,
    complaint,
    end,
    end_child,
    free_port,
    greets,
    is_free,
    launch,
    runs,
    size,
)
from infra.tls import Trust, reached_at

START_S = 60.0
"""A server with a long log reads it before it listens."""
KEEP_S = 0.1
ANSWER_S = 10.0
PORT_TRIES = 5
RETRY_S = 1.0
UPDATED = "jwt updated"
JETSTREAM = "jetstream"
OLD_ACCOUNT = "PLATFORM"
"""How the platform's account was called before there was an operator, and its folder of streams."""

_log: Any = structlog.get_logger()


class WorkerUser(msgspec.Struct, frozen=True, gc=False):
    """A worker: its public key, and the pool it belongs to."""

    public_key: str
    pool: str = "default"


class _Said(msgspec.Struct, frozen=True):
    message: str = ""


class _Update(msgspec.Struct, frozen=True):
    """A server's answer to a changed account."""

    data: _Said = _Said()


def _reload_subject(link: Link) -> str:
    # SIGHUP does the same and tells nobody when it is done, or that it failed.
    return f"$SYS.REQ.SERVER.{link.server_id}.RELOAD"


_workers_of = msgspec.json.Decoder(dict[str, WorkerUser]).decode
_object_of = msgspec.json.Decoder(dict[str, Any]).decode


class NatsServer:
    """The nats-server of a data folder. The caller has claimed the folder."""

    def __init__(
        self,
        folder: Folder,
        port: int = 0,
        listening: Listening = Listening(),
        sync_always: bool = True,
        trust: Trust | None = None,
    ) -> None:
        self._home = folder.path("nats")
        self._wanted_port = port
        self._listening, self._host = listening, listening.host
        self._sync_always = sync_always
        self._trust = trust or Trust()
        """For this machine's own connections."""
        self._child: subprocess.Popen[bytes] | None = None
        self._adopted: psutil.Process | None = None
        self._changing = asyncio.Lock()
        self._stopping = False
        self._revoked = self._told = 0
        """How many times somebody was shut out, and how many of them the running server knows of."""
        self.authority = Authority(folder)
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"{'tls' if self._listening.served else 'nats'}://{reached_at(self._host)}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 when none was started or adopted."""
        return self._child.pid if self._child else self._adopted.pid if self._adopted else 0

    def known(self) -> Mapping[str, WorkerUser]:
        """The workers that a version before there was an operator let in, by id. Raises NatsServerError."""
        file = self._home / "workers.json"
        try:
            return _workers_of(file.read_bytes())
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise NatsServerError(f"{file} is damaged ({error}); restore it, or delete it and enrol again") from None

    # Start and stop

    async def start(self) -> None:
        """Adopt our orphan if it lives, else start a server; it answers when this returns. Raises NatsServerError."""
        self._stopping = False
        self.known()
        kept = self._kept_port()
        orphan = self._find_orphan()
        self.port = kept
        if orphan is not None and kept and self._wanted_port in (0, kept) and self._is_of_our_kind():
            self._adopted = orphan
            if await self._listens(orphan.is_running):
                _log.info("nats.adopted", pid=orphan.pid, port=kept)
                await self._reload()
                return
        if orphan is not None:
            # It has another port, or an older version's accounts, or does not answer: our data cannot have two servers.
            await end(orphan)
        self._adopted = None
        self._take_over_streams()
        await self._launch(self._wanted_port or kept)

    async def _launch(self, port: int) -> None:
        for attempt in range(PORT_TRIES):
            self.port = port or free_port(self._host)
            if port and not is_free(self._host, port):
                raise NatsServerError(
                    f"port {port} for nats-server is taken by another program; stop that, or choose another port with "
                    f"`nats_port` in hive.toml (workers on other machines must then be told)"
                )
            if (web := self._listening.websocket_port) and not is_free(self._host, web):
                raise NatsServerError(
                    f"port {web} for NATS over WebSocket is taken by another program; stop that, or choose another with "
                    "`nats_websocket_port` in hive.toml"
                )
            revoked = self._revoked
            self._write_config()
            error = await self._spawn()
            if error is None:
                self._told = revoked
                write_atomic(self._home / "port", str(self.port).encode())
                _log.info("nats.started", pid=self.pid, port=self.port)
                return
            if "address already in use" not in error or port:
                raise NatsServerError(f"nats-server did not start: {error} (its log: {self._home / 'nats.log'})")
            _log.warning("nats.port_lost", port=self.port, attempt=attempt)
        raise NatsServerError("no free port found for nats-server; choose one with `nats_port` in hive.toml")

    async def _spawn(self) -> str | None:
        """Run the program; None once it answers, else what it said before it ended."""
        said = self._home / "nats.err"
        log_start = size(self._home / "nats.log")
        child = self._child = launch(self._home, said)
        if await self._listens(lambda: child.poll() is None):
            return None
        if child.poll() is None:
            child.kill()
            child.wait()
            return f"it did not answer within {START_S:g} s"
        return (
            complaint(said, 0) or complaint(self._home / "nats.log", log_start) or f"it ended with {child.returncode}"
        )

    async def _listens(self, runs: Callable[[], bool]) -> bool:
        """Whether the server answers on its port, before it ends or START_S passed."""
        deadline = asyncio.get_running_loop().time() + START_S
        while asyncio.get_running_loop().time() < deadline:
            if await greets(reached_at(self._host).strip("[]"), self.port, server_name(self.authority)):
                return runs()
            if not runs():
                return False
            await asyncio.sleep(POLL_S)
        return False

    def alive(self) -> bool:
        """Whether the server's process runs."""
        if self._child is not None:
            return self._child.poll() is None
        return self._adopted is not None and runs(self._adopted)

    async def ensure(self) -> bool:
        """Start it again, on the same port, when it is dead; whether that was needed. Raises NatsServerError."""
        async with self._changing:
            if self._stopping or self.alive():
                return False
            _log.warning("nats.died", pid=self.pid, port=self.port)
            self._child = self._adopted = None
            await self._launch(self.port)
            return True

    async def keep(self) -> None:
        """Watch over the server until cancelled: a dead one is back within a fraction of a second."""
        said = ""
        while True:
            pause = KEEP_S
            try:
                await self.ensure()
                await self._tell_revoked(self._revoked)
                said = ""
            except NatsServerError as error:
                # Its port or disk may be free again soon, and everything else waits for it.
                pause = RETRY_S
                if str(error) != said:
                    said = str(error)
                    _log.error("nats.not_back", error=said)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the server: politely, then not."""
        self._stopping = True
        async with self._changing:
            child, adopted = self._child, self._adopted
            self._child = self._adopted = None
            if child is not None:
                await end_child(child)
            elif adopted is not None:
                await end(adopted)

    # Workers

    def admit(self, worker_id: str, public_key: str, pool: str) -> str:
        """A new JWT for a worker: with it, and its seed, it may connect at once. Raises ValueError for what is no worker.

        Nothing is written and the server is not told: who may come in is for the caller to know.
        """
        expires_at_s = int(time.time()) + WORKER_JWT_S
        return self.authority.worker_jwt(worker_id, public_key, pool, expires_at_s)

    async def revoke(self, public_key: str) -> None:
        """Void every JWT that this key has, and disconnect who uses one, by when this returns. JWTs to come are good.

        It is on disk first: should the server not take it now (NatsServerError), it is told again, or started with it.
        Raises ValueError for what is no key.
        """
        self.authority.revoke(public_key)
        self._revoked += 1
        await self._tell_revoked(self._revoked)

    async def _tell_revoked(self, wanted: int) -> None:
        """Have the running server take the account of the workers; one that is dead takes it when it starts. Many who
        are shut out at once share one message.
        """
        async with self._changing:
            if self._told >= wanted or self._stopping:
                return
            count, account = self._revoked, self.authority.workers_account
            self._write_config()
            subject = f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE"
            said = await self._tell(lambda _: subject, self.authority.workers_account_jwt().encode())
            if said and msgspec.convert(said, _Update).data.message != UPDATED:
                # No worker has connected since the server started: it has not looked at the account yet.
                said = await self._tell(_reload_subject, b"")
            if said:
                self._told = count

    async def renewed(self) -> None:
        """Have the running server take its certificate again, for new connections. Raises NatsServerError."""
        async with self._changing:
            await self._reload()

    async def _reload(self) -> None:
        """Have the running server take the whole configuration."""
        self._write_config()
        await self._tell(_reload_subject, b"")

    async def _tell(self, subject: Callable[[Link], str], data: bytes) -> dict[str, Any]:
        """The server's answer; empty when it is dead. Raises NatsServerError when it lives and does not do it."""
        if not self.alive():
            return {}
        try:
            link = await Link.open(
                self.url, self.authority.system, "hive nats settings", wait_s=ANSWER_S, trust=self._trust
            )
            try:
                answer = _object_of((await link.request(subject(link), data, ANSWER_S)).data)
            finally:
                await link.close()
        except (LinkDown, LinkTimeout, NoResponders) as error:
            if not self.alive():
                return {}
            raise NatsServerError(f"nats-server did not take what was changed: {error}") from error
        if problem := answer.get("error"):
            raise NatsServerError(f"nats-server refused what was changed: {problem.get('description', problem)}")
        return answer

    def _write_config(self) -> None:
        write_atomic(self._home / "nats.conf", render(self._config(), self.authority).encode())

    def _config(self) -> ServerConfig:
        return ServerConfig(self._home, self.port, self._listening, self._sync_always)

    # What an earlier hive left

    def _kept_port(self) -> int:
        try:
            return int((self._home / "port").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _find_orphan(self) -> psutil.Process | None:
        try:
            process = psutil.Process(int((self._home / "nats.pid").read_text()))
            ours = str(self._home / "nats.conf") in process.cmdline()
        except (FileNotFoundError, ValueError, psutil.Error):
            return None
        return process if ours and runs(process) else None

    def _is_of_our_kind(self) -> bool:
        """Whether what runs was started with this authority, not by a version before there was one, and listens as it
        should.
        """
        try:
            config = (self._home / "nats.conf").read_text()
        except OSError:
            return False
        return f'"{server_name(self.authority)}"' in config and listeners(self._config()) + "\n" in config

    def _take_over_streams(self) -> None:
        """Give the streams of a folder from before there was an operator to the platform's account."""
        streams = self._home / "data" / JETSTREAM
        old, new = streams / OLD_ACCOUNT, streams / self.authority.platform_account
        if not old.is_dir():
            return
        if new.exists():
            raise NatsServerError(f"there are streams in {old} and in {new}; move the ones that are not yours away")
        old.rename(new)
        sync_folder(streams)
        _log.info("nats.streams_taken_over", account=self.authority.platform_account)
