"""Prices, quotes and jobs that cost something, over HTTP and through pool and ledger as they run."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from events.ledger import user_account
from events.spec import JobSpec
from events.task import Detail
from infra.settings import Settings
from tests.nats_support import until
from tests.web_support import Api, api
from web.client import AsyncHive, Job
from web.client.errors import HiveError

WAIT_S = 20.0
MICRO = 1_000_000
SLEEPS = JobSpec(kind="noop", cpus=1, time_limit=3600)


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    settings = Settings(sign_up_grant_cpt=2, admin_grant_cpt=100)
    async with api(tmp_path, tables=True, settings=settings, economy=True) as served:
        await until(lambda: has(served, "admin") == 100 * MICRO, "the admin has the start grant")
        yield served


@pytest.fixture
async def client(hive: Api) -> AsyncGenerator[AsyncHive]:
    async with AsyncHive(hive.url, hive.key) as made:
        yield made


def has(hive: Api, user: str) -> int:
    return hive.core.money.view.books.balance(user_account(user))


async def poor(hive: Api) -> AsyncHive:
    """A user with 2 CPT."""
    key = await hive.key_of("user")
    await until(lambda: has(hive, "uuser") == 2 * MICRO, "a new user has the grant")
    return AsyncHive(hive.url, key)


async def refused(work: Any) -> HiveError:
    with pytest.raises(HiveError) as caught:
        await work
    return caught.value


async def test_a_quote_says_what_and_why_and_changes_nothing(hive: Api, client: AsyncHive) -> None:
    before = await hive.core.log.last("evt.>")
    answer = await client.costs.quote([JobSpec(command=["x"], count=2, cpus=0.5, time_limit=7200, priority=10)])
    (job,) = answer.jobs
    assert (answer.economy, answer.prices, answer.balance, answer.missing) == (True, "default", 100 * MICRO, 0)
    assert (job.base, job.per_hour, job.hold, job.limited) == (1500, 750_000, 3_003_000, True)
    assert [(line.what, line.amount) for line in job.lines] == [("base", 1500), ("cpu", 500_000), ("priority", 250_000)]
    assert answer.hold == job.hold
    assert await hive.core.log.last("evt.>") == before


async def test_a_job_is_held_paid_and_the_rest_comes_back(hive: Api, client: AsyncHive) -> None:
    async with hive.crew(detail=lambda run, index: Detail(wall_ms=10**9)) as crew:
        crew.hold.clear()
        job = await client.submit_spec(SLEEPS)
        await until(lambda: bool(crew.orders), "the job was funded and given out")
        await until(lambda: has(hive, "admin") == 100 * MICRO - 1_001_000, "what it may cost is set aside")
        shown = (await client.job(job)).cost
        assert shown is not None
        assert (shown.held, shown.charged, shown.per_hour, shown.prices) == (1_001_000, 0, MICRO, "default")
        crew.hold.set()
        await client.result(job, WAIT_S)
    books = hive.core.money.view.books
    await until(lambda: not books.holds, "the hold is released")
    spent = 100 * MICRO - has(hive, "admin")
    # The machine is the admin's own: what is not the fee comes back.
    assert spent == books.balance("fees")
    # The report lies: what counts is the pool's own clock, some milliseconds of it.
    assert 1000 <= spent * 10 < 1000 + 10_000
    assert (await client.job(job)).cost is None


async def test_who_has_too_little_is_refused_at_once_with_what_is_missing(hive: Api) -> None:
    async with await poor(hive) as user:
        error = await refused(user.submit_spec(JobSpec(kind="noop", cpus=3, time_limit=3600)))
        assert (error.status, error.code) == (402, "insufficient-funds")
        assert "may cost 3.001 CPT, and you have 2: 1.001 are missing" in str(error)
        assert not (await user.jobs()).jobs


async def test_of_two_that_race_for_the_same_money_one_is_let_in(hive: Api) -> None:
    spec = JobSpec(kind="noop", cpus=1.5, time_limit=3600)
    async with await poor(hive) as user:
        both = [user.submit_spec(spec, idempotency_key=key) for key in ("a", "b")]
        made = await asyncio.gather(*both, return_exceptions=True)
        out = [one for one in made if isinstance(one, HiveError)]
        jobs = [one for one in made if isinstance(one, Job)]
        assert [error.status for error in out] in ([], [402])
        await until(lambda: has(hive, "uuser") < MICRO, "one of them is held for")
        if not out:  # both were let in: the ledger is who decides
            ends = [await user.job(job) for job in jobs]
            while not any(job.state == "cancelled" for job in ends):
                ends = [await user.job(job) for job in jobs]
            (lost,) = [job for job in ends if job.state == "cancelled"]
            assert lost.reason == "it may cost 1.501 CPT, and its owner has 1.002 less"


async def test_asking_again_under_the_same_key_does_not_need_the_money_again(hive: Api) -> None:
    async with await poor(hive) as user:
        spec = JobSpec(kind="noop", cpus=1.9, time_limit=3600)
        first = await user.submit_spec(spec, idempotency_key="once")
        await until(lambda: has(hive, "uuser") < MICRO, "it is held")
        again = await user.submit_spec(spec, idempotency_key="once")
        assert (again.job, again.existing) == (first.job, True)
        assert (await refused(user.submit_spec(spec))).status == 402


async def test_max_cpt(client: AsyncHive) -> None:
    error = await refused(client.submit(kind="noop", cpus=1, time_limit=3600, max_cpt=1.0))
    assert (error.status, error.field) == (422, "max_cpt")
    assert "it may cost 1.001 CPT, and max_cpt is 1" in str(error)
    await client.submit(kind="noop", cpus=1, time_limit=3600, max_cpt=1.001)


async def test_prices_are_set_for_jobs_from_then_on(hive: Api, client: AsyncHive) -> None:
    assert (await client.costs.prices()).rates["cpu_hour"] == MICRO
    done = await client.costs.set_prices({"cpu_hour": 0, "base": 7})
    assert (done.prices, done.existing) == ("v1", False)
    assert (await client.costs.set_prices({"cpu_hour": 0, "base": 7})).existing
    assert (await client.costs.quote([SLEEPS])).hold == 7
    error = await refused(client.costs.set_prices({"cpus": 1}))
    assert (error.status, error.field) == (422, "rates.cpus")
    async with await poor(hive) as user:
        assert (await refused(user.costs.set_prices({}))).status == 403


async def test_where_the_economy_is_off_nothing_is_held(tmp_path: Path) -> None:
    async with (
        api(tmp_path, tables=True) as served,
        AsyncHive(served.url, served.key) as client,
        served.crew(),
    ):
        assert (await client.costs.quote([SLEEPS])).economy is False
        await client.result(await client.submit_spec(SLEEPS), WAIT_S)
        assert not [account for account in served.core.money.view.books.balances if account.startswith("hold:")]
