"""An agent's NATS JWT: got, kept, renewed, and what it does when it gets none."""

import asyncio
import itertools
import time
from pathlib import Path

import pytest

from infra.nats_jwt import read_user
from infra.renewal import NOT_ENROLLED, STALE
from tests.nats_support import until
from tests.worker_support import POOL, Rig
from worker import credential, signed

YEAR_MS = 365 * 24 * 3600 * 1000


def kept(rig: Rig) -> Path:
    """Where an agent keeps its JWT."""
    return rig.root / "keys" / credential.JWT_NAME


def minting(rig: Rig, life_s: int) -> None:
    """Have the platform give JWTs with this life."""
    authority, who = rig.server.authority, rig.who
    rig.shelf.mints[who.worker, who.public_key] = lambda: authority.worker_jwt(
        who.worker, who.public_key, POOL, int(time.time()) + life_s
    )


def nobody(rig: Rig) -> None:
    """Have the platform not know the worker."""
    rig.shelf.mints.clear()


async def test_an_agent_without_a_jwt_gets_one_and_keeps_it_for_itself(rig: Rig) -> None:
    await rig.start()
    assert rig.shelf.credentials == [(200, "")]
    assert kept(rig).stat().st_mode & 0o777 == 0o600
    claims = read_user(kept(rig).read_text())
    assert (claims.sub, claims.name) == (rig.who.public_key, rig.who.worker)


async def test_the_next_agent_uses_what_was_kept_also_while_the_api_is_away(rig: Rig) -> None:
    task = await rig.start()
    await rig.kill(task)
    nobody(rig)
    await rig.start(api_url="http://127.0.0.1:1")
    assert len({session for session, _ in rig.pool.hellos}) == 2


@pytest.mark.parametrize("damage", ["", "not a JWT", "a.b.c", "another"])
async def test_what_is_no_jwt_of_its_own_is_not_used(rig: Rig, damage: str) -> None:
    task = await rig.start()
    await rig.kill(task)
    if damage == "another":
        damage = rig.server.authority.platform_jwt()
    kept(rig).write_text(damage)
    await rig.start()
    assert rig.shelf.credentials == [(200, ""), (200, "")]


@pytest.mark.parametrize("off", [YEAR_MS, -YEAR_MS])
async def test_a_clock_that_is_off_by_a_year_does_not_matter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    right = signed.now
    monkeypatch.setattr(signed, "now", lambda: right() + off)
    minting(rig, 3)
    await rig.start()
    assert [code for _, code in rig.shelf.credentials[:2]] == [STALE, ""]
    # It renews by the platform's clock, and is right about that from then on.
    await until(lambda: len(rig.shelf.credentials) >= 4, "it renews twice")
    assert {code for _, code in rig.shelf.credentials[1:]} == {""}


async def test_a_jwt_is_renewed_before_it_ends_and_the_agent_goes_on(rig: Rig) -> None:
    minting(rig, 3)
    await rig.start()
    first = read_user(kept(rig).read_text())
    await until(lambda: read_user(kept(rig).read_text()).exp > first.exp, "another is kept")
    assert time.time() < first.exp
    await until(lambda: time.time() > first.exp + 0.5, "the first is over")
    # Its connection ended with the first, and it is back with the other.
    assert (await rig.pool.ended(rig.pool.sh("exit 3"))).code == 3


async def test_an_agent_that_is_shut_out_asks_and_comes_back_when_it_may(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential, "RETRY_S_MAX", 0.2)
    await rig.start()
    mints = dict(rig.shelf.mints)
    nobody(rig)
    await rig.server.revoke(rig.who.public_key)
    await until(lambda: (403, NOT_ENROLLED) in rig.shelf.credentials, "it asks, in vain")
    assert rig.agent._link.refused
    rig.shelf.mints |= mints
    async with asyncio.timeout(20):
        await rig.agent._link.wait_connected()
    assert rig.shelf.credentials[-1] == (200, "")


async def test_who_is_refused_asks_ever_more_rarely(at_work: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [0.05, 0.1, 0.2, 0.4, 0.4, 0.4]
    monkeypatch.setattr(credential, "RETRY_S_MIN", wanted[0])
    monkeypatch.setattr(credential, "RETRY_S_MAX", wanted[-1])
    monkeypatch.setattr(credential.random, "uniform", lambda low, high: high)
    asked: list[float] = []

    def refuse() -> str:
        asked.append(time.monotonic())
        return ""

    at_work.shelf.mints[at_work.who.worker, at_work.who.public_key] = refuse
    await at_work.server.revoke(at_work.who.public_key)
    await until(lambda: len(asked) > len(wanted), "it asks again and again")
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert [gap >= pause for gap, pause in zip(gaps, wanted, strict=False)] == [True] * len(wanted)
