"""The process and the port of a nats-server: finding, starting, hearing and ending it."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

STOP_S = 10.0
POLL_S = 0.01
CONNECT_S = 2.0
PORT_TRIES_MAX = 100
PORTS = range(20_000, 32_000)
OUTPUT_BYTES_MAX = 64 * 1024


class NatsServerError(Exception):
    """The embedded nats-server cannot run; the text says why and what to do."""


def program() -> Path:
    """The nats-server that was installed beside this Python. Raises NatsServerError."""
    path = Path(sys.executable).parent / "nats-server"
    if not path.is_file():
        raise NatsServerError(f"no nats-server at {path}; install Hive's dependencies (`make setup`)")
    return path


def launch(home: Path, said: Path) -> "subprocess.Popen[bytes]":
    """Start it with the configuration in `home`, in a session of its own; what it says before its log is open goes to `said`."""
    with open(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        # Its own session: a Ctrl-C in our terminal is ours to handle.
        return subprocess.Popen(
            [program(), "-c", home / "nats.conf"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=home,
            umask=0o077,
        )


def runs(process: psutil.Process) -> bool:
    """Whether a process is there and not only waited for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def end(process: psutil.Process) -> None:
    """End a process that is not our child: politely, then not. Raises NatsServerError."""
    await _signal_until(lambda: not runs(process), process.send_signal)


async def end_child(child: "subprocess.Popen[bytes]") -> None:
    """The same for our child."""
    await _signal_until(lambda: child.poll() is not None, child.send_signal)


async def _signal_until(ended: Callable[[], bool], send: Callable[[int], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            send(number)
        except (ProcessLookupError, psutil.Error):
            return
        deadline = asyncio.get_running_loop().time() + STOP_S
        while asyncio.get_running_loop().time() < deadline:
            if ended():
                return
            await asyncio.sleep(POLL_S)
    raise NatsServerError("nats-server did not end, not even by SIGKILL; its disk may hang")


async def greets(host: str, port: int, name: str) -> bool:
    """Whether the NATS server of this name says hello there; another one may have been faster on a free port."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return f'"server_name":"{name}"'.encode() in await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return False


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str) -> int:
    """A port that nobody has. Raises NatsServerError."""
    # Below the range from which systems take ports for outgoing connections: one of those could hold ours just when
    # a killed server wants it back.
    for port in random.sample(PORTS, PORT_TRIES_MAX):
        if is_free(host, port):
            return port
    raise NatsServerError("no free port found for nats-server; choose one with `nats_port` in hive.toml")


def size(path: Path) -> int:
    """Bytes in a file, 0 without one."""
    return path.stat().st_size if path.exists() else 0


def complaint(path: Path, start: int) -> str:
    """What the server said was wrong, from byte `start` of its output on; else the last thing it said."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            lines = file.read(OUTPUT_BYTES_MAX).decode(errors="replace").splitlines()
    except OSError:
        return ""
    wrong = [line.partition("] ")[2] for line in lines for tag in ("[FTL]", "[ERR]") if tag in line]
    return "; ".join(text.partition("] ")[2] or text for text in wrong) or "".join(lines[-1:])
