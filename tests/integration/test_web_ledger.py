"""Money over HTTP: paid once, shown to those whose it is, told month by month, disputed and made good."""

import csv
import io
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from infra.database import Database
from services.ledger.state import MICRO
from tests.nats_support import eventually
from tests.people_web_support import Served, people_api

GRANT = 100 * MICRO
TRANSFERS, PAYMENTS = "/v1/ledger/transfers", "/v1/ledger/payments"


@pytest.fixture
async def served(tmp_path: Path, database: Database) -> AsyncGenerator[Served]:
    async with people_api(tmp_path, database, tables=True) as made:
        yield made


class Person:
    """Somebody with a session."""

    def __init__(self, served: Served, id: str, token: str) -> None:
        self.served, self.id, self.token = served, id, token

    @classmethod
    async def join(cls, served: Served, name: str) -> "Person":
        person = cls(served, *await served.join(name))

        async def granted() -> bool:
            return await person.balance() == GRANT

        await eventually(granted, f"{name} has the grant")
        return person

    async def ask(self, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, Any]:
        headers = {"Idempotency-Key": key} if key else None
        return await self.served.ask(method, path, body, self.token, headers)

    async def good(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        status, answer = await self.ask(method, path, body, key)
        assert status in (200, 201), answer
        return answer

    async def bad(self, status: int, method: str, path: str, body: Any = None, key: str = "") -> Any:
        found, answer = await self.ask(method, path, body, key)
        assert found == status, answer
        return answer

    async def balance(self, since: str = "") -> int:
        return (await self.good("GET", f"/v1/ledger/balance?min_position={since}"))["balance"]


async def test_money_goes_from_one_to_another_once(served: Served) -> None:
    ada, bob = await Person.join(served, "ada"), await Person.join(served, "bob")
    body = {"to": "bob", "amount": 30 * MICRO, "memo": "for the coffee"}
    first = await ada.good("POST", TRANSFERS, body, "k1")
    assert (first["existing"], first["balance"]) == (False, 70 * MICRO)
    again = await ada.good("POST", TRANSFERS, body, "k1")
    assert (again["existing"], again["transfer"]) == (True, first["transfer"])
    other = await ada.bad(409, "POST", TRANSFERS, {**body, "memo": "for the tea"}, "k1")
    assert other["type"] == "urn:hive:problem:exists-with-different-fields"
    assert other["field"] == "Idempotency-Key"
    assert await bob.balance(first["position"]) == 130 * MICRO
    assert await ada.balance() == 70 * MICRO
    poor = await ada.bad(402, "POST", TRANSFERS, {"to": bob.id, "amount": 71 * MICRO})
    assert "70 CPT" in poor["detail"]
    (line, *_) = (await bob.good("GET", TRANSFERS))["entries"]
    assert (line["amount"], line["other"], line["memo"]) == (30 * MICRO, f"user:{ada.id}", "for the coffee")
    shown = await bob.good("GET", f"{TRANSFERS}/{first['transfer']}")
    assert (shown["state"], shown["memo"]) == ("posted", "for the coffee")
    cy = await Person.join(served, "cyd")
    await cy.bad(404, "GET", f"{TRANSFERS}/{first['transfer']}")
    await cy.bad(403, "GET", f"/v1/ledger/balance?user={ada.id}")
    async with served.hive.http.get(served.hive.url + "/v1/events?follow=false") as answer:
        assert "coffee" not in await answer.text()


async def test_what_cannot_be_names_its_field(served: Served) -> None:
    ada = await Person.join(served, "ada")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "to"),
        ({"to": "nobody-here", "amount": 5}, "to"),
        ({"legs": [{"to": "nobody-here", "amount": 5}]}, "legs[0].to"),
        ({"to": "ada", "amount": 5}, "to"),
        ({"to": "ada"}, "amount"),
        ({"legs": [{"to": "ada", "amount": 5}], "to": "ada", "amount": 5}, "to"),
        ({"to": "admin", "amount": 5, "kind": "refund"}, "cites"),
        ({"to": "admin", "amount": 5, "kind": "refund", "cites": "t0"}, "cites"),
        ({"to": "admin", "amount": 5, "pending_s": 0.5}, "pending_s"),
    ]
    for body, field in wrong:
        answer = await ada.bad(422, "POST", TRANSFERS, body)
        assert answer["field"] == field, (body, answer)
    for body in ({"to": "admin", "amount": -5}, {"to": "admin", "amount": 1.5}, {"to": "admin", "amount": 10**18}):
        await ada.bad(400, "POST", TRANSFERS, body)
    assert await ada.balance() == GRANT


async def test_two_phases(served: Served) -> None:
    ada, bob = await Person.join(served, "ada"), await Person.join(served, "bob")
    cy = await Person.join(served, "cyd")
    body = {"to": "bob", "amount": 40 * MICRO, "pending_s": 60}
    first = await ada.good("POST", TRANSFERS, body, "k1")
    path = f"{TRANSFERS}/{first['transfer']}"
    held = await ada.good("GET", "/v1/ledger/balance")
    assert (held["balance"], held["pending"]) == (60 * MICRO, 40 * MICRO)
    (seen,) = (await bob.good("GET", "/v1/ledger/pending"))["transfers"]
    assert (seen["id"], seen["state"]) == (first["transfer"], "pending")
    assert (await cy.good("GET", "/v1/ledger/pending"))["transfers"] == []
    await cy.bad(404, "POST", f"{path}/post", {})
    await bob.bad(403, "POST", f"{path}/post", {})
    done = await ada.good("POST", f"{path}/post", {"amount": 10 * MICRO})
    assert done["balance"] == 90 * MICRO
    assert (await ada.good("POST", f"{path}/post", {"amount": 10 * MICRO}))["existing"]
    await bob.bad(409, "POST", f"{path}/void")
    second = await ada.good("POST", TRANSFERS, body, "k2")
    await bob.good("POST", f"{TRANSFERS}/{second['transfer']}/void")
    assert await ada.balance() == 90 * MICRO
    assert (await ada.good("GET", f"{TRANSFERS}/{second['transfer']}"))["state"] == "voided"


async def test_a_month_adds_up_and_goes_into_a_spreadsheet(served: Served) -> None:
    ada, bob = await Person.join(served, "ada"), await Person.join(served, "bob")
    for n in range(5):
        await ada.good("POST", TRANSFERS, {"to": "bob", "amount": MICRO + n, "memo": f"=SUM({n})"})
    await bob.good("POST", TRANSFERS, {"to": "ada", "amount": 7})
    month = await ada.good("GET", "/v1/ledger/statement?limit=4")
    went = 5 * MICRO + 10
    assert (month["opening"], month["came"], month["went"]) == (0, GRANT + 7, went)
    assert month["closing"] == month["opening"] + month["net"] == GRANT + 7 - went
    rest = await ada.good("GET", f"/v1/ledger/statement?limit=4&cursor={month['next']}")
    assert rest["next"] is None
    lines = month["entries"] + rest["entries"]
    assert len({(line["id"], line["n"]) for line in lines}) == 7
    assert sum(line["amount"] for line in lines) == month["net"]
    assert (await ada.good("GET", "/v1/ledger/statement?month=1999-01"))["came"] == 0
    assert (await ada.good("GET", "/v1/ledger/statement?month=2999-01"))["closing"] == month["closing"]
    await ada.bad(400, "GET", "/v1/ledger/statement?month=soon")
    url, headers = f"{served.url}/v1/ledger/statement.csv", {"Authorization": f"Bearer {ada.token}"}
    async with served.http.get(url, headers=headers) as answer:
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [int(row["amount_micro"]) for row in rows] == [line["amount"] for line in reversed(lines)]
    assert rows[1]["memo"] == "'=SUM(0)"
    assert rows[1]["amount_cpt"] == "-1"


async def test_an_admin_pays_out_of_the_hives_accounts_and_sees_where_all_is(served: Served) -> None:
    ada, bob = await Person.join(served, "ada"), await Person.join(served, "bob")
    issue = {"kind": "issue", "source": "mint", "legs": [{"to": "treasury", "amount": 50 * MICRO}]}
    await ada.bad(403, "POST", PAYMENTS, issue)
    status, answer = await served.admin("POST", PAYMENTS, issue)
    assert status == 201, answer
    bulk: list[dict[str, Any]] = [{"to": "ada", "amount": 30 * MICRO}, {"to": "bob", "amount": 21 * MICRO}]
    status, answer = await served.admin("POST", PAYMENTS, {"kind": "payout", "source": "treasury", "legs": bulk})
    assert status == 402, "all or none"
    bulk[1]["amount"] -= MICRO
    status, answer = await served.admin("POST", PAYMENTS, {"kind": "payout", "source": "treasury", "legs": bulk})
    assert status == 201, answer
    assert await ada.balance(answer["position"]) == 130 * MICRO
    assert await bob.balance() == 120 * MICRO
    status, seen = await served.admin("GET", "/v1/ledger/overview")
    assert status == 200
    assert seen["supply"] == seen["users"] + seen["held"] + seen["pending"] + seen["treasury"] + seen["fees"]
    assert seen["treasury"] == 0
    await ada.bad(403, "GET", "/v1/ledger/overview")


async def test_a_dispute_is_ruled_on_and_made_good(served: Served) -> None:
    ada, bob = await Person.join(served, "ada"), await Person.join(served, "bob")
    paid = (await ada.good("POST", TRANSFERS, {"to": "bob", "amount": 30 * MICRO}))["transfer"]
    await bob.bad(404, "POST", "/v1/ledger/disputes", {"cites": paid})
    body = {"cites": paid, "reason": "never came"}
    opened = await ada.good("POST", "/v1/ledger/disputes", body)
    assert (await ada.good("POST", "/v1/ledger/disputes", body))["existing"]
    status, seen = await served.admin("GET", "/v1/ledger/disputes")
    assert [(one["dispute"], one["reason"], one["amount"]) for one in seen["disputes"]] == [
        (opened["dispute"], "never came", 30 * MICRO)
    ]
    assert (await bob.good("GET", "/v1/ledger/disputes"))["disputes"] == []
    path = f"/v1/ledger/disputes/{opened['dispute']}"
    await ada.bad(403, "POST", f"{path}/rule", {"ruling": "upheld"})
    await bob.bad(404, "POST", f"{path}/withdraw")
    status, ruled = await served.admin("POST", f"{path}/rule", {"ruling": "upheld", "amount": 20 * MICRO})
    assert status == 200, ruled
    assert await ada.balance(ruled["position"]) == 90 * MICRO
    correction = await ada.good("GET", f"{TRANSFERS}/dispute:{opened['dispute']}")
    assert (correction["kind"], correction["cites"]) == ("correction", paid)
    await ada.bad(404, "POST", f"{path}/withdraw")


async def test_an_erased_users_money_goes_to_the_treasury(served: Served) -> None:
    ada = await Person.join(served, "ada")
    status, answer = await served.admin("DELETE", f"/v1/users/{ada.id}")
    assert status == 200, answer

    async def gone() -> bool:
        _, seen = await served.admin("GET", "/v1/ledger/overview")
        return seen["treasury"] == GRANT

    await eventually(gone, "the treasury has it")
