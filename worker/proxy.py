"""The way out for tasks that may reach some hosts only: a proxy of the agent's that listens inside of the task's own network,
where there is nothing else. HTTP by CONNECT and by whole URLs; names are resolved here, so that a task needs no DNS.
"""

import asyncio
import contextlib
import ctypes
import ipaddress
import os
import socket
import threading
from urllib.parse import urlsplit

import structlog

from events.limits import covers
from worker import tree
from worker.state import Key

PORT = 3128
HEAD_BYTES_MAX = 16 * 1024
HEAD_S, CONNECT_S, IDLE_S = 10.0, 10.0, 600.0
CONNECTIONS_MAX = 64
"""Of one task at a time."""
PIECE_BYTES = 64 * 1024
BACKLOG = 64
READY_S, READY_PAUSE_S = 5.0, 0.002
_CLONE_NEWNET = 0x40000000
_END = b"\r\n\r\n"

_log = structlog.get_logger()
_setns = ctypes.CDLL(None, use_errno=True).setns


class NoWay(Exception):
    """The proxy cannot be had where the task is; the text says why."""


class Proxies:
    """The proxies of tasks that run."""

    def __init__(self) -> None:
        self._open: dict[Key, asyncio.Server] = {}

    async def open(self, key: Key, pid: int, hosts: list[str], named: list[str]) -> None:
        """Listen in the network that process `pid` is in, for a task that may reach these hosts. Those that the machine's
        owner `named` may be anywhere, others must have a public address. Raises NoWay.
        """
        listening = await listen_in(pid)
        busy = asyncio.Semaphore(CONNECTIONS_MAX)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async with busy:
                with contextlib.suppress(
                    OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError
                ):
                    await self._serve(reader, writer, hosts, named)
                writer.close()

        self._open[key] = await asyncio.start_server(serve, sock=listening, limit=HEAD_BYTES_MAX)

    def close(self, key: Key) -> None:
        """The task has ended."""
        server = self._open.pop(key, None)
        if server is not None:
            server.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hosts: list[str], named: list[str]
    ) -> None:
        async with asyncio.timeout(HEAD_S):
            head = await reader.readuntil(_END)
        first, _, rest = head.partition(b"\r\n")
        method, target, version = first.decode("ascii").split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            said, head = b"HTTP/1.1 200 Connection established\r\n\r\n", b""
        else:
            parts = urlsplit(target)
            host, port = parts.hostname or "", str(parts.port or 80)
            path = target.partition("://")[2].partition("/")[2]
            # One request a connection: what follows on it could be for somebody else.
            said, head = (
                b"",
                f"{method} /{path} {version}\r\nConnection: close\r\n".encode("ascii") + _without_hops(rest),
            )
        where = f"{host.lower()}:{port}"
        if not any(covers(host, where) for host in hosts):
            writer.write(_refusal(403, f"{where} is none of the hosts that this task may reach"))
            await writer.drain()
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                address = await self._address(host.lower(), int(port), any(covers(host, where) for host in named))
                out_reader, out_writer = await asyncio.open_connection(address, int(port))
        except (OSError, TimeoutError) as error:
            writer.write(_refusal(502, f"{where} cannot be reached: {error or 'no answer'}"))
            await writer.drain()
            return
        try:
            writer.write(said)
            out_writer.write(head)
            await asyncio.gather(_pass_on(reader, out_writer), _pass_on(out_reader, writer))
        finally:
            out_writer.close()

    @staticmethod
    async def _address(host: str, port: int, anywhere: bool) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if anywhere or ipaddress.ip_address(str(address[0])).is_global:
                return str(address[0])
        raise OSError("it has no public address, and the machine's owner does not name it")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE_S):
            data = await reader.read(PIECE_BYTES)
        if not data:
            break
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _without_hops(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith((b"proxy-", b"connection:")))


def _refusal(status: int, why: str) -> bytes:
    body = f"{why}\n".encode()
    return b"HTTP/1.1 %d Refused\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
        status, len(body), body,
    )  # fmt: skip


async def first_inside(pid: int) -> int:
    """The first process in the box that process `pid` of bubblewrap is making. Raises NoWay."""
    until = asyncio.get_running_loop().time() + READY_S
    while asyncio.get_running_loop().time() < until:
        if inside := tree.children(pid):
            return inside[0]
        await asyncio.sleep(READY_PAUSE_S)
    raise NoWay("the task's box was not made")


async def listen_in(pid: int) -> socket.socket:
    """A socket that listens at PORT of the loopback device in the network of process `pid`, once that has one of its own.
    Raises NoWay.
    """
    ours = os.stat("/proc/self/ns/net").st_ino
    until = asyncio.get_running_loop().time() + READY_S
    while True:
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino != ours:
                break
        except OSError:
            pass
        if asyncio.get_running_loop().time() > until:
            raise NoWay("the task has no network of its own")
        await asyncio.sleep(READY_PAUSE_S)
    made: list[socket.socket | OSError] = []
    # A thread of its own, which ends in that network: none that others use may be left there.
    thread = threading.Thread(target=_listen, args=(pid, made))
    thread.start()
    await asyncio.to_thread(thread.join)
    if isinstance(made[0], OSError):
        raise NoWay(f"the agent cannot listen in the task's network: {made[0].strerror}")
    return made[0]


def _listen(pid: int, made: list[socket.socket | OSError]) -> None:
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", PORT))
        listening.listen(BACKLOG)
        listening.setblocking(False)
        made.append(listening)
    except OSError as error:
        made.append(error)
