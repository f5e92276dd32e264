"""Secrets for tasks: kept sealed, listed by name alone, and handed to nobody but the worker that has a lease of the task."""

import base64
import contextlib
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.account import SecretRemoved, SecretSet
from events.protocol import OpenSecrets
from infra import nkey
from infra.database import Database
from infra.sealed_box import NotForUs, open_with, seal_to
from infra.tickets import SECRETS
from services.accounts.commands import BanWorker
from tests.nats_support import eventually
from tests.people_support import PASSWORD, accounts_log
from tests.people_web_support import Served, people_api
from tests.postgres_support import Server
from tests.web_support import Crew

VALUE = "swordfish-4711-tango"
FAR_MS = 4_000_000_000_000
_opened_of = msgspec.json.Decoder(OpenSecrets).decode


@pytest.fixture
async def served(tmp_path: Path, database: Database) -> AsyncGenerator[Served]:
    async with people_api(tmp_path, database, tables=True) as made:
        yield made


def code(answer: Any) -> str:
    return answer["type"].rpartition(":")[2]


async def submit(served: Served, access: str, **more: Any) -> str:
    body = {"command": ["true"], "secrets": [{"name": "db", "env": "DB_PASSWORD"}], **more}
    status, answer = await served.ask("POST", "/v1/jobs", body, access)
    assert status == 201, answer
    return answer["jobs"][0]["job"]


@contextlib.asynccontextmanager
async def held(served: Served) -> AsyncGenerator[Crew]:
    """A worker that says that its tasks run, and ends none before it is let."""
    async with served.hive.crew(starts=True) as crew:
        crew.hold.clear()
        yield crew


async def order_of(crew: Crew, job: str) -> str:
    """The ticket that the worker got with the job."""

    async def ordered() -> bool:
        return any(order.job == job for order in crew.orders)

    await eventually(ordered, "the worker has the job")
    return next(order.ticket for order in crew.orders if order.job == job)


async def fetch(served: Served, job: str, ticket: str, index: int = 0) -> tuple[int, Any]:
    headers = {"Authorization": f"Ticket {ticket}"}
    return await served.ask("POST", f"/v1/jobs/{job}/secrets", {"index": index}, headers=headers)


def ticket_of(served: Served, worker: str, job: str) -> str:
    """One that was issued to this worker."""
    return served.hive.core.tickets.issue(worker, job, [SECRETS], FAR_MS)


async def test_from_setting_to_removing(served: Served) -> None:
    _, ada = await served.join("ada")
    _, eve = await served.join("eve")
    assert (await served.ask("PUT", "/v1/secrets/db", {"value": "before"}, ada))[0] == 200
    assert (await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada))[0] == 200
    status, listed = await served.ask("GET", "/v1/secrets", token=ada)
    assert status == 200
    assert [(one["name"], *one) for one in listed["secrets"]] == [("db", "name", "set_at")]
    assert (await served.ask("GET", "/v1/secrets", token=eve))[1] == {"secrets": []}
    status, problem = await served.ask(
        "POST", "/v1/jobs", {"command": ["true"], "secrets": [{"name": "db", "env": "X"}]}, eve
    )
    assert (status, problem["field"]) == (422, "secrets[0].name")
    assert (await served.ask("DELETE", "/v1/secrets/db", token=eve))[0] == 404
    assert len(await served.host.store._fetch("SELECT 1 FROM identity.secrets")) == 1
    assert (await served.ask("DELETE", "/v1/secrets/db", token=ada))[0] == 200
    assert await served.host.store._fetch("SELECT 1 FROM identity.secrets") == []
    assert (await served.ask("DELETE", "/v1/secrets/db", token=ada))[0] == 404
    facts = [event for message in await accounts_log(served.hive.link) for event in message.events()]
    kinds = [type(fact) for fact in facts if isinstance(fact, SecretSet | SecretRemoved)]
    assert kinds == [SecretSet, SecretSet, SecretRemoved]


@pytest.mark.parametrize(
    ("name", "body", "status", "field"),
    [
        ("-db", {"value": "x"}, 422, "name"),
        ("a b", {"value": "x"}, 422, "name"),
        ("x" * 65, {"value": "x"}, 422, "name"),
        ("db", {"value": "a\0b"}, 422, "value"),
        ("db", {"value": ""}, 400, "value"),
        ("db", {"value": "x" * 16_385}, 400, "value"),
        ("db", {}, 400, "value"),
    ],
)
async def test_what_cannot_be_set(served: Served, name: str, body: Any, status: int, field: str) -> None:
    _, ada = await served.join()
    given, problem = await served.ask("PUT", f"/v1/secrets/{name}", body, ada)
    assert (given, problem["field"]) == (status, field), problem
    assert (await served.ask("GET", "/v1/secrets", token=ada))[1] == {"secrets": []}


async def test_only_the_worker_with_the_lease_opens_them(served: Served) -> None:
    _, ada = await served.join("ada")
    await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada)
    async with held(served) as crew, held(served) as other:
        job = await submit(served, ada)
        await eventually(lambda: _any_orders(crew, other), "somebody has the job")
        mine, theirs = (crew, other) if crew.orders else (other, crew)
        ticket = await order_of(mine, job)
        status, answer = await fetch(served, job, ticket)
        assert status == 200, answer
        sealed = base64.b64decode(answer["sealed"])
        assert VALUE.encode() not in sealed
        opened = _opened_of(open_with(mine.seed, sealed))
        assert opened == OpenSecrets(job, {"DB_PASSWORD": VALUE})
        with pytest.raises(NotForUs):
            open_with(theirs.seed, sealed)
        # With a real ticket, but no lease; of a task that there is not; as people; with the ticket of another job.
        assert (await fetch(served, job, ticket_of(served, theirs.worker, job)))[0] == 403
        assert (await fetch(served, job, ticket, 1))[0] == 403
        for token in (ada, served.hive.key):
            assert (await served.ask("POST", f"/v1/jobs/{job}/secrets", {"index": 0}, token))[0] == 403
        assert (await fetch(served, job, ticket_of(served, mine.worker, "jother")))[0] == 403
        without = served.hive.core.tickets.issue(mine.worker, job, [], FAR_MS)
        assert (await fetch(served, job, without))[0] == 403
        for name, told in (("job", f"/v1/jobs/{job}"), ("list", "/v1/secrets"), ("tasks", f"/v1/jobs/{job}/tasks")):
            status, said = await served.ask("GET", told, token=ada)
            assert status == 200
            assert VALUE not in str(said), name
        mine.hold.set()

        async def over() -> bool:
            return (await fetch(served, job, ticket))[0] == 403

        await eventually(over, "the lease has ended, and the ticket opens nothing")


async def _any_orders(*crews: Crew) -> bool:
    return any(crew.orders for crew in crews)


async def test_a_banned_worker_gets_none_though_it_holds_the_lease(served: Served) -> None:
    _, ada = await served.join()
    await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada)
    async with held(served) as crew:
        job = await submit(served, ada)
        ticket = await order_of(crew, job)
        assert (await fetch(served, job, ticket))[0] == 200
        core = served.hive.core
        answer = await core.accounts.ask([BanWorker(crew.worker)], "test")
        assert await core.access.reached(answer.position, 5)
        assert (await fetch(served, job, ticket))[0] == 403


async def test_removed_or_erased_it_is_gone_also_for_a_task_that_waits(served: Served) -> None:
    user, ada = await served.join()
    await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada)
    async with held(served) as crew:
        job = await submit(served, ada)
        ticket = await order_of(crew, job)
        assert (await served.ask("DELETE", "/v1/secrets/db", token=ada))[0] == 200
        status, problem = await fetch(served, job, ticket)
        assert (status, problem["field"], "db" in problem["detail"]) == (410, "secrets[0]", False)
        await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada)
        assert (await fetch(served, job, ticket))[0] == 200
        assert (await served.ask("POST", "/v1/me/erase", {"password": PASSWORD}, ada))[0] == 204
        assert (await fetch(served, job, ticket))[0] == 410
        assert await served.host.store.known([user]) == []
        assert await served.host.store._fetch("SELECT 1 FROM identity.secrets") == []


async def test_while_postgres_is_away_a_task_may_ask_again(served: Served, server: Server) -> None:
    _, ada = await served.join()
    await served.ask("PUT", "/v1/secrets/db", {"value": VALUE}, ada)
    async with held(served) as crew:
        job = await submit(served, ada)
        ticket = await order_of(crew, job)
        server.stop(signal.SIGKILL)
        try:
            assert (await fetch(served, job, ticket))[0] == 503
            assert (await served.ask("PUT", "/v1/secrets/db", {"value": "other"}, served.hive.key))[0] == 503
            assert (await served.ask("GET", "/v1/secrets", token=served.hive.key))[0] == 503
        finally:
            server.start()

        async def back() -> bool:
            return (await fetch(served, job, ticket))[0] == 200

        await eventually(back, "Postgres is back")


def test_a_box_opens_with_its_own_seed_alone() -> None:
    seed, other = nkey.new_user_seed(), nkey.new_user_seed()
    sealed = seal_to(nkey.public_of(seed), VALUE.encode())
    assert open_with(seed, sealed) == VALUE.encode()
    for wrong_seed, wrong in ((other, sealed), (seed, sealed[:-1] + bytes([sealed[-1] ^ 1])), (seed, b"")):
        with pytest.raises(NotForUs):
            open_with(wrong_seed, wrong)
    with pytest.raises(nkey.BadKey):
        seal_to("U" + "A" * 55, b"x")
