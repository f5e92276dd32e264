"""People over HTTP: who may do what, what answers say, cookies, and what stands in the audit."""

from collections.abc import AsyncGenerator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from events import catalog
from events.account import UserActed
from events.catalog import ACCOUNTS_SUBJECT
from infra.database import Database
from tests.nats_support import eventually
from tests.people_support import OTHER, PASSWORD
from tests.people_web_support import Served, people_api
from web.app import ROUTES
from web.caller import NOBODY


@pytest.fixture
async def served(tmp_path: Path, database: Database) -> AsyncGenerator[Served]:
    async with people_api(tmp_path, database) as made:
        yield made


def code(answer: Any) -> str:
    return answer["type"].rpartition(":")[2]


async def test_from_registering_to_being_erased(served: Served) -> None:
    user, access = await served.join("ada", "ada@example.org")
    status, me = await served.ask("GET", "/v1/me", token=access)
    assert status == 200
    assert (me["user"], me["name"], me["email"], me["roles"]) == (user, "ada", "ada@example.org", ["user"])
    assert "jobs:own" in me["scopes"]
    status, again = await served.ask("POST", "/v1/me/password", {"old": PASSWORD, "new": OTHER}, access)
    assert status == 200
    assert (await served.ask("GET", "/v1/me", token=access))[0] == 401
    status, problem = await served.ask(
        "PATCH", "/v1/me", {"email": "x@example.org", "password": PASSWORD}, again["access"]
    )
    assert (status, code(problem)) == (401, "wrong-login")
    status, me = await served.ask("PATCH", "/v1/me", {"email": "new@example.org", "password": OTHER}, again["access"])
    assert (status, me["email"]) == (200, "new@example.org")
    assert (await served.ask("POST", "/v1/me/erase", {"password": OTHER}, again["access"]))[0] == 204
    assert (await served.ask("GET", "/v1/me", token=again["access"]))[0] == 401
    assert (await served.admin("GET", f"/v1/users/{user}"))[0] == 404


async def test_refresh_and_logout(served: Served) -> None:
    await served.join()
    _, first = await served.ask("POST", "/v1/auth/login", {"name": "ada", "password": PASSWORD})
    status, second = await served.ask("POST", "/v1/auth/refresh", {"refresh": first["refresh"]})
    assert status == 200
    assert (await served.ask("GET", "/v1/me", token=second["access"]))[0] == 200
    assert (await served.ask("POST", "/v1/auth/logout", {"refresh": second["refresh"]}))[0] == 204
    assert (await served.ask("GET", "/v1/me", token=second["access"]))[0] == 401
    for token in (first["refresh"], second["refresh"], "x", ""):
        status, problem = await served.ask("POST", "/v1/auth/refresh", {"refresh": token})
        assert (status, code(problem)) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"name": "ad", "password": PASSWORD}, 422, "name"),
        ({"name": "hive", "password": PASSWORD}, 422, "name"),
        ({"name": "ada", "password": "password123"}, 422, "password"),
        ({"name": "ada", "password": PASSWORD, "email": "x"}, 422, "email"),
        ({"name": "ada", "password": PASSWORD, "invite": "hivi_x"}, 403, "invite"),
        ({"name": "ada"}, 400, "password"),
        ({"name": "ada", "password": PASSWORD, "roles": ["admin"]}, 400, "roles"),
        ({"name": "a" * 101, "password": PASSWORD}, 400, "name"),
        ({"name": "ada", "password": "x" * 1025}, 400, "password"),
    ],
)
async def test_what_is_wrong_is_named(served: Served, body: dict[str, Any], status: int, field: str) -> None:
    got, problem = await served.ask("POST", "/v1/auth/register", body)
    assert (got, problem["field"]) == (status, field), problem
    assert problem["detail"]


async def test_taken_names_and_wrong_passwords(served: Served) -> None:
    await served.join("ada")
    status, problem = await served.ask("POST", "/v1/auth/register", {"name": "AdA", "password": OTHER})
    assert (status, code(problem), problem["field"]) == (409, "name-taken", "name")
    for name in ("ada", "nobody"):
        status, problem = await served.ask("POST", "/v1/auth/login", {"name": name, "password": OTHER})
        assert (status, code(problem), problem["detail"]) == (401, "wrong-login", "the name or the password is wrong")


async def test_too_many_failures_are_told_to_wait(served: Served) -> None:
    body = {"name": "nobody", "password": OTHER}
    for _ in range(10):
        assert (await served.ask("POST", "/v1/auth/login", body))[0] == 401
    async with served.http.post(served.url + "/v1/auth/login", json=body) as answer:
        assert answer.status == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 300


# Those who look after users


async def test_looking_after_users(served: Served) -> None:
    user, access = await served.join("ada", "ada@example.org")
    status, page = await served.admin("GET", "/v1/users")
    assert status == 200
    assert {"admin", "ada"} >= {one["name"] for one in page["users"]} >= {"ada"}
    _, page = await served.admin("GET", "/v1/users?name=ADA")
    assert [one["user"] for one in page["users"]] == [user]
    assert page["users"][0]["email"] == "ada@example.org"
    _, page = await served.admin("GET", "/v1/users?name=àda")
    assert page["users"] == []

    assert (await served.ask("GET", "/v1/users", token=access))[0] == 403
    assert (await served.admin("PUT", f"/v1/users/{user}/roles", {"roles": ["operator"]}))[0] == 200
    status, page = await served.ask("GET", "/v1/users?name=ada", token=access)
    assert status == 200
    assert page["users"][0]["email"] == "", "addresses are for who looks after users"
    assert (await served.ask("PUT", f"/v1/users/{user}/roles", {"roles": ["admin"]}, access))[0] == 403

    assert (await served.admin("PUT", f"/v1/users/{user}/limits", {"open_jobs": 7}))[0] == 200
    _, shown = await served.admin("GET", f"/v1/users/{user}")
    assert shown["limits"]["open_jobs"] == 7
    assert (await served.admin("POST", f"/v1/users/{user}/suspend"))[0] == 200
    assert (await served.ask("GET", "/v1/me", token=access))[0] == 401
    assert (await served.admin("POST", f"/v1/users/{user}/resume"))[0] == 200
    assert (await served.ask("GET", "/v1/me", token=access))[0] == 200
    assert (await served.admin("POST", f"/v1/users/{user}/sign-out"))[0] == 200
    assert (await served.ask("GET", "/v1/me", token=access))[0] == 401

    status, link = await served.admin("POST", f"/v1/users/{user}/reset-link")
    assert status == 201
    assert (await served.ask("POST", "/v1/auth/reset", {"token": link["token"], "password": OTHER}))[0] == 200
    assert (await served.ask("POST", "/v1/auth/reset", {"token": link["token"], "password": OTHER}))[0] == 403
    assert (await served.ask("POST", "/v1/auth/login", {"name": "ada", "password": OTHER}))[0] == 200
    assert (await served.admin("DELETE", f"/v1/users/{user}"))[0] == 200
    assert (await served.ask("POST", "/v1/auth/login", {"name": "ada", "password": OTHER}))[0] == 401
    status, problem = await served.admin("DELETE", "/v1/users/admin")
    assert (status, code(problem)) == (409, "last-admin")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "roles", {"roles": ["user"]}), ("PUT", "limits", {}), ("POST", "suspend", None), ("POST", "resume", None),
        ("POST", "sign-out", None), ("POST", "reset-link", None), ("DELETE", "", None), ("GET", "", None),
    ],
)  # fmt: skip
async def test_nobody_by_that_id(served: Served, method: str, path: str, body: Any) -> None:
    status, problem = await served.admin(method, f"/v1/users/nobody/{path}".rstrip("/"), body)
    assert (status, problem["field"]) == (404, "user")


async def test_every_change_is_in_the_audit_with_who_and_from_where(served: Served) -> None:
    user, _ = await served.join()
    await served.admin("PUT", f"/v1/users/{user}/roles", {"roles": ["owner"]})
    await served.admin("POST", f"/v1/users/{user}/reset-link")
    _, made = await served.admin("POST", "/v1/invites", {"uses": 2})
    await served.admin("DELETE", f"/v1/invites/{made['invite']['invite']}")
    acts: list[UserActed] = []
    async for entries in served.hive.core.log.read(ACCOUNTS_SUBJECT, 1):
        for entry in entries:
            acts += [event for event in catalog.decode(entry.data).events() if isinstance(event, UserActed)]
        break
    name = made["invite"]["invite"]
    said = [("user.roles", user), ("user.reset_link", user), ("invite.issue", name), ("invite.revoke", name)]
    assert [(act.action, act.target) for act in acts] == said
    for act in acts:
        assert act.user == "admin"
        assert act.address is not None
        assert served.host.keyring.open(act.address) == b"127.0.0.1"


async def test_invitations_over_http(tmp_path: Path, database: Database) -> None:
    async with people_api(tmp_path, database, registration="invite") as served:
        body = {"name": "ada", "password": PASSWORD}
        status, problem = await served.ask("POST", "/v1/auth/register", body)
        assert (status, code(problem)) == (403, "closed")
        status, made = await served.admin("POST", "/v1/invites", {"roles": ["operator"], "uses": 1})
        assert (status, made["invite"]["state"]) == (201, "live")
        assert (await served.ask("POST", "/v1/auth/register", {**body, "invite": made["text"]}))[0] == 201
        _, listed = await served.admin("GET", "/v1/invites")
        assert [(one["state"], one["used"]) for one in listed["invites"]] == [("used", 1)]
        assert made["text"] not in str(listed)
        status, problem = await served.ask(
            "POST", "/v1/auth/register", {"name": "bob", "password": PASSWORD, "invite": made["text"]}
        )
        assert (status, code(problem)) == (403, "bad-invite")
        assert (await served.admin("POST", "/v1/invites", {"roles": ["king"]}))[0] == 400
        assert (await served.admin("POST", "/v1/invites", {"roles": ["user", "user"]}))[0] == 422
        assert (await served.admin("DELETE", "/v1/invites/inone"))[0] == 404


# Cookies


async def logged_in_by_cookie(served: Served, **headers: str) -> tuple[SimpleCookie, str]:
    body = {"name": "ada", "password": PASSWORD, "cookie": True}
    async with served.http.post(served.url + "/v1/auth/login", json=body, headers=headers) as answer:
        assert answer.status == 200
        said = await answer.json()
        assert "access" not in said
        assert "refresh" not in said
        cookies = SimpleCookie()
        for line in answer.headers.getall("Set-Cookie"):
            cookies.load(line)
    return cookies, said["csrf"]


def sent(cookies: SimpleCookie) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())}


async def test_cookies_open_what_they_should_to_our_own_pages_alone(served: Served) -> None:
    await served.join()
    cookies, csrf = await logged_in_by_cookie(served)
    for name, readable in (("hive_access", False), ("hive_refresh", False), ("hive_csrf", True)):
        assert cookies[name]["samesite"].lower() == "strict"
        assert bool(cookies[name]["httponly"]) != readable
        assert not cookies[name]["secure"], "a page on this machine comes without TLS"
    assert cookies["hive_refresh"]["path"] == "/v1/auth"
    assert cookies["hive_csrf"].value == csrf
    with_cookies = sent(cookies)
    assert (await served.ask("GET", "/v1/me", headers=with_cookies))[0] == 200
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": csrf[:-1]}, {"X-CSRF-Token": "é"}):
        for path in ("/v1/me/sign-out", "/v1/auth/refresh", "/v1/auth/logout"):
            status, problem = await served.ask("POST", path, headers={**with_cookies, **wrong})
            assert (status, code(problem)) == (403, "csrf")
    good = {**with_cookies, "X-CSRF-Token": csrf}
    async with served.http.post(served.url + "/v1/auth/refresh", headers=good) as answer:
        assert answer.status == 200
        assert len(answer.headers.getall("Set-Cookie")) == 3
    async with served.http.post(served.url + "/v1/auth/logout", headers=good) as answer:
        assert answer.status == 204
        assert all("Max-Age=0" in line for line in answer.headers.getall("Set-Cookie"))
    assert (await served.ask("GET", "/v1/me", headers=with_cookies))[0] == 401


async def test_pages_from_elsewhere_get_secure_cookies_and_forms_none(served: Served) -> None:
    await served.join()
    cookies, _ = await logged_in_by_cookie(served, Host="hive.example.org")
    assert all(morsel["secure"] for morsel in cookies.values())
    form = b'{"name": "ada", "password": "%s", "cookie": true}' % PASSWORD.encode()
    async with served.http.post(
        served.url + "/v1/auth/login", data=form, headers={"Content-Type": "text/plain"}
    ) as answer:
        assert answer.status in (400, 403)
        assert "Set-Cookie" not in answer.headers


# Closed


async def test_strangers_and_workers_get_nothing(served: Served) -> None:
    for route in ROUTES:
        if route.opt.get("needs") == NOBODY:
            continue
        for path in route.paths:
            for method in route.http_methods:
                for token in ("", "x.y.z", "hive_none"):
                    status, _ = await served.ask(
                        method, path.replace("{user:str}", "u").replace("{invite:str}", "i"), token=token
                    )
                    assert status == 401, (method, path)


async def test_the_admin_sets_a_password_by_link(served: Served) -> None:
    async def there() -> bool:
        return await served.host.store.user("admin") is not None

    await eventually(there, "the admin has a row")
    _, link = await served.admin("POST", "/v1/users/admin/reset-link")
    assert (await served.ask("POST", "/v1/auth/reset", {"token": link["token"], "password": OTHER}))[0] == 200
    _, tokens = await served.ask("POST", "/v1/auth/login", {"name": "admin", "password": OTHER})
    status, me = await served.ask("GET", "/v1/me", token=tokens["access"])
    assert (status, me["name"], me["roles"]) == (200, "admin", ["admin"])
