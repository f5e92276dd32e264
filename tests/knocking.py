"""Connections that nobody should let in, many at once: what a stranger, or a worker that was shut out, can try."""

import asyncio
import base64
import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from infra import nkey
from infra.nats_server import NatsServer
from infra.nkey import Signer

KNOCK_S = 30.0
AT_ONCE = 200
LINE_BYTES_MAX = 64 * 1024


def _connect(**more: Any) -> bytes:
    said = {"verbose": False, "pedantic": False, "lang": "x", "version": "0", "protocol": 1, **more}
    return b"CONNECT " + json.dumps(said).encode() + b"\r\nPING\r\n"


def _signed(seed: str, nonce: str, **more: Any) -> bytes:
    signature = base64.urlsafe_b64encode(Signer(seed).sign(nonce.encode())).rstrip(b"=").decode()
    return _connect(sig=signature, **more)


def attempts(server: NatsServer) -> list[Callable[[str], bytes]]:
    """What to say to the server's greeting, by its nonce; each must be refused."""
    mine, theirs = nkey.new_user_seed(), nkey.new_user_seed()
    key = nkey.public_of(theirs)
    jwt = server.admit(nkey.worker_id_of(key), key, "default")
    return [
        lambda nonce: _connect(),
        lambda nonce: _connect(user="admin", **{"pass": "admin"}),
        lambda nonce: _connect(auth_token="token"),
        lambda nonce: _signed(mine, nonce, nkey=nkey.public_of(mine)),
        lambda nonce: _signed(mine, nonce, jwt=jwt),
        lambda nonce: _signed(theirs, "another", jwt=jwt),
        lambda nonce: _signed(theirs, nonce, jwt=jwt[:-4] + "AAAA"),
        lambda nonce: _connect(jwt="x" * 3000, sig="y"),
        lambda nonce: b"SUB > 1\r\nPUB evt.pool.default 1\r\nx\r\nPING\r\n",
        lambda nonce: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda nonce: b"CONNECT {" + b"[" * 2000 + b"\r\n",
        lambda nonce: os.urandom(512) + b"\r\n",
    ]


async def knock(server: NatsServer, count: int, at_once: int = AT_ONCE) -> Counter[str]:
    """`count` such connections, `at_once` of them open: how each ended (`refused`, `closed`, `let in`)."""
    ways, ended, turns = attempts(server), Counter[str](), iter(range(count))

    async def one_after_another() -> None:
        for turn in turns:
            ended[await _one(server.port, ways[turn % len(ways)])] += 1

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return ended


async def _one(port: int, say: Callable[[str], bytes]) -> str:
    async with asyncio.timeout(KNOCK_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_BYTES_MAX)
        try:
            nonce = json.loads((await reader.readline()).removeprefix(b"INFO "))["nonce"]
            writer.write(say(nonce))
            while line := await reader.readline():
                if line.startswith(b"-ERR"):
                    return "refused"
                if line.startswith((b"PONG", b"+OK", b"MSG")):
                    return "let in"
            return "closed"
        except (ConnectionError, ValueError):
            return "closed"
        finally:
            writer.close()
