"""Rewards over HTTP and through pool and ledger as they run: chosen, paid, explained, rebased, levels shown."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from events.ledger import user_account
from events.spec import JobSpec
from events.task import Detail
from infra.settings import Settings
from projections.levels import HOUR_US
from services.ledger.policies.base import case_of
from services.ledger.policies.registry import BY_KEY
from tests.nats_support import until
from tests.web_support import Api, api
from web.client import AsyncHive
from web.client.errors import HiveError

MICRO = 1_000_000
WAIT_S = 20.0
GRANT = 50 * MICRO
MUCH = 10**12
"""For a machine hour: the tasks take milliseconds."""
TASK = JobSpec(kind="noop", cpus=1, time_limit=60)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    settings = Settings(sign_up_grant_cpt=50, admin_grant_cpt=0)
    async with api(tmp_path, tables=True, settings=settings, economy=True) as served:
        yield served


@pytest.fixture
async def admin(hive: Api) -> AsyncGenerator[AsyncHive]:
    async with AsyncHive(hive.url, hive.key) as made:
        yield made


@pytest.fixture
async def user(hive: Api) -> AsyncGenerator[AsyncHive]:
    key = await hive.key_of("user")
    await until(lambda: has(hive, "uuser") == GRANT, "the user has the grant")
    async with AsyncHive(hive.url, key) as made:
        yield made


def has(hive: Api, user: str) -> int:
    return hive.core.money.view.books.balance(user_account(user))


def earned(hive: Api) -> int:
    """What the admin, whose the worker is, has beside the grant."""
    return has(hive, "admin") - GRANT


async def ran(hive: Api, user: AsyncHive, count: int = 1) -> list[str]:
    """Jobs of one task each that the admin's worker ran; their rewards."""
    view, rewards = hive.core.money.view, list[str]()
    before = view.rewards.earned.get("admin", 0)
    for _ in range(count):
        job = await user.submit_spec(TASK)
        await user.result(job, WAIT_S)
        await until(lambda: not view.books.holds, "it is settled")
        task = (await user.tasks(job)).tasks[0]
        rewards.append(f"reward:{job.job}:{task.lease}:0")
    assert view.rewards.earned.get("admin", 0) > before
    return rewards


async def refused(work: Any) -> HiveError:
    with pytest.raises(HiveError) as caught:
        await work
    return caught.value


async def test_policies_are_chosen_by_who_may(admin: AsyncHive, user: AsyncHive) -> None:
    policies = {one.policy: one for one in await user.rewards.policies()}
    assert {name: one.mode for name, one in policies.items()} == {
        "market": "paying", "usage": "off", "contribution": "off",
    }  # fmt: skip
    assert policies["usage"].defaults["base"] == 10 * MICRO
    assert (await refused(user.rewards.set_policy("usage", "paying"))).status == 403
    done = await admin.rewards.set_policy("usage", "paying", params={"base": 5})
    assert not done.existing
    assert (await admin.rewards.set_policy("usage", "paying", params={"base": 5})).existing
    policies = {one.policy: one for one in await user.rewards.policies(min_position=done.position)}
    assert (policies["usage"].mode, policies["usage"].params) == ("paying", {"base": 5})
    assert policies["market"].mode == "shadow"
    error = await refused(admin.rewards.set_policy("usage", "paying", params={"bonus": 1}))
    assert (error.status, error.code) == (422, "bad-param")
    assert "usage@1 has no such parameter; it has base" in str(error)
    assert (await refused(admin.rewards.set_policy("nonsense", "paying"))).status == 404
    error = await refused(admin.rewards.set_policy("usage", "paying", version=9))
    assert "there are market@1, usage@1" in str(error)


async def test_a_reward_is_explained_to_those_it_concerns(hive: Api, admin: AsyncHive, user: AsyncHive) -> None:
    await admin.rewards.set_policy("contribution", "shadow")
    await admin.rewards.set_policy("usage", "paying", params={"base": MUCH})
    async with hive.crew(detail=lambda run, index: Detail(wall_ms=5, cpu_ms=5)):
        (reward,) = await ran(hive, user)
    for client in (admin, user):
        told = await client.rewards.explain(reward)
        assert told.holds
        assert told.wrong == []
        assert (told.owner, told.amount) == ("admin", told.paid)
        assert [(one.policy, one.pays) for one in told.policies] == [
            ("usage", True), ("contribution", False), ("market", False),
        ]  # fmt: skip
        (evidence,) = told.evidence
        assert (evidence.type, evidence.by) == ("task.finished", f"worker:{told.worker}")
        for one in told.policies:  # anybody can do what the hive did
            case = case_of(told.work, one.terms)
            assert BY_KEY[f"{one.policy}@{one.version}"].score(case, one.params).amount == one.amount
    async with AsyncHive(hive.url, await hive.key_of("user", "stranger")) as stranger:
        error = await refused(stranger.rewards.explain(reward))
        assert (error.status, error.code) == (404, "not-found")
    for nothing in ("reward:nojob:1:0", reward[:-1] + "9", "settle:a:1:0", "x"):
        assert (await refused(admin.rewards.explain(nothing))).status == 404


async def test_a_rebase_says_what_would_change_and_makes_it_good(hive: Api, admin: AsyncHive, user: AsyncHive) -> None:
    async with hive.crew(detail=lambda run, index: Detail(wall_ms=5, cpu_ms=5)) as crew:
        rewards = await ran(hive, user, 3)
    had = earned(hive)
    assert (await refused(user.rewards.rebase("usage", 0))).status == 403
    told = await admin.rewards.rebase("usage", 0, params={"base": MUCH, "reported_max": 200})
    (change,) = told.changes
    assert (change.worker, change.owner, change.before, change.rewards) == (crew.worker, "admin", had, 3)
    assert (told.rebase, earned(hive)) == ("", had)
    done = await admin.rewards.rebase("usage", 0, params={"base": MUCH, "reported_max": 200}, dry_run=False)
    assert done.rebase.startswith("rebase:")
    assert earned(hive) == change.after > had
    again = await admin.rewards.rebase("usage", 0, params={"base": MUCH, "reported_max": 200}, dry_run=False)
    assert (again.rebase, earned(hive)) == ("", change.after)
    (made,) = (await admin.rewards.explain(rewards[0])).rebases
    assert (made.rebase, made.policy, made.params) == (done.rebase, "usage", {"base": MUCH, "reported_max": 200})
    back = await admin.rewards.rebase("market", 0, dry_run=False)
    assert back.rebase
    assert earned(hive) == had
    assert (await admin.rewards.rebase("market", 2**50)).rewards == 0
    assert "no such parameter" in str(await refused(admin.rewards.rebase("market", 0, params={"base": 1})))


async def test_levels_and_a_leaderboard_on_which_nobody_stands_unasked(
    hive: Api, admin: AsyncHive, user: AsyncHive
) -> None:
    async with hive.crew(detail=lambda run, index: Detail(wall_ms=5, cpu_ms=5)) as crew:
        await ran(hive, user)
        (mine,) = await admin.rewards.levels()
    assert (mine.worker, mine.owner, mine.level, mine.next, mine.next_hours) == (
        crew.worker,
        "admin",
        "",
        "bronze",
        100,
    )
    assert mine.uptime == 100
    assert mine.earned == earned(hive)
    (theirs,) = await user.rewards.levels()
    assert theirs.earned is None
    board = await user.rewards.leaderboard()
    assert (board.leaders, board.listed) == ([], False)
    hive.core.money.view.rewards.standings[crew.worker].credited_us = 500 * HOUR_US
    done = await admin.rewards.list_me(True)
    (leader,) = (await user.rewards.leaderboard(min_position=done.position)).leaders
    assert (leader.rank, leader.owner, leader.level, leader.hours, leader.workers) == (1, "admin", "silver", 500, 1)
    done = await admin.rewards.list_me(False)
    assert (await admin.rewards.leaderboard(min_position=done.position)).leaders == []
