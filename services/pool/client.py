"""Asking the writer of one pool."""

from typing import TypeAlias

import msgspec

from infra.link import Link
from services.asking import Ask, AskClient, Near
from services.pool.commands import Command

PoolClient: TypeAlias = AskClient[Command]
ask_of = msgspec.msgpack.Decoder(Ask[Command]).decode


def service_of(pool: str) -> str:
    """What a pool's service is asked as."""
    return f"pool.{pool}"


def pool_client(link: Link, pool: str, near: "Near[Command] | None" = None) -> PoolClient:
    """Asks the writer of `pool`; see AskClient."""
    return AskClient(link, service_of(pool), near)
