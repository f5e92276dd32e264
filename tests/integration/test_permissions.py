"""Who may have which route: every route, every role, and a stranger. A route without a row here fails."""

from services.accounts.roles import ROLES
from tests.web_support import Api
from web.app import ROUTES

ALL: frozenset[str] = frozenset(ROLES)
NOBODY_ASKED = frozenset({"stranger", *ROLES})
JOBS = frozenset({"admin", "operator", "user"})
READERS = JOBS | {"observer"}
ADMIN = frozenset({"admin"})
LOOKERS = frozenset({"admin", "operator", "observer"})
PAYERS = frozenset({"admin", "operator", "user", "owner"})
KEEPERS = frozenset({"admin", "operator", "owner"})

MAY: dict[tuple[str, str], frozenset[str]] = {
    ("POST", "/v1/jobs"): JOBS,
    ("POST", "/v1/quotes"): JOBS,
    ("GET", "/v1/prices"): ALL,
    ("PUT", "/v1/prices"): ADMIN,
    ("GET", "/v1/jobs"): READERS,
    ("GET", "/v1/jobs/{job}"): READERS,
    ("POST", "/v1/jobs/{job}/cancel"): JOBS,
    ("GET", "/v1/jobs/{job}/results"): READERS,
    ("GET", "/v1/jobs/{job}/tasks"): READERS,
    ("GET", "/v1/jobs/{job}/tasks/{index}/output"): READERS,
    ("GET", "/v1/jobs/{job}/tasks/{index}/emitted"): READERS,
    ("POST", "/v1/jobs/{job}/secrets"): frozenset(),
    ("GET", "/v1/secrets"): JOBS,
    ("PUT", "/v1/secrets/{name}"): JOBS,
    ("DELETE", "/v1/secrets/{name}"): JOBS,
    ("PUT", "/v1/blobs/{digest}"): JOBS,
    ("GET", "/v1/blobs/{digest}"): READERS,
    ("HEAD", "/v1/blobs/{digest}"): READERS,
    ("POST", "/v1/blobs/missing"): READERS,
    ("POST", "/v1/blobs/expire"): ADMIN,
    ("GET", "/v1/events"): ALL,
    ("GET", "/v1/reports/{digest}"): LOOKERS | KEEPERS,
    ("GET", "/v1/jobs/{job}/tasks/{index}/reports"): LOOKERS | KEEPERS,
    ("GET", "/v1/workers"): ALL,
    ("GET", "/v1/workers/{worker}"): ALL,
    ("GET", "/v1/workers/{worker}/usage"): ALL,
    ("POST", "/v1/workers"): KEEPERS,
    ("POST", "/v1/workers/{worker}/drain"): KEEPERS,
    ("POST", "/v1/workers/{worker}/configure"): KEEPERS,
    ("POST", "/v1/workers/{worker}/ban"): KEEPERS,
    ("PATCH", "/v1/workers/{worker}"): KEEPERS,
    ("DELETE", "/v1/workers/{worker}"): KEEPERS,
    ("GET", "/v1/status"): ALL,
    ("GET", "/ready"): ALL,
    ("GET", "/health"): NOBODY_ASKED,
    ("GET", "/v1/keys"): ALL,
    ("POST", "/v1/keys"): ALL,
    ("POST", "/v1/keys/{key}/rotate"): ALL,
    ("DELETE", "/v1/keys/{key}"): ALL,
    ("GET", "/v1/enrolments"): KEEPERS,
    ("POST", "/v1/enrolments"): KEEPERS,
    ("DELETE", "/v1/enrolments/{enrolment}"): KEEPERS,
    ("POST", "/v1/workers/join"): NOBODY_ASKED,
    ("POST", "/v1/worker/credential"): NOBODY_ASKED,
    ("POST", "/v1/worker/rekey"): NOBODY_ASKED,
    ("GET", "/v1/auth/options"): NOBODY_ASKED,
    ("POST", "/v1/auth/register"): NOBODY_ASKED,
    ("POST", "/v1/auth/login"): NOBODY_ASKED,
    ("POST", "/v1/auth/refresh"): NOBODY_ASKED,
    ("POST", "/v1/auth/logout"): NOBODY_ASKED,
    ("POST", "/v1/auth/reset-request"): NOBODY_ASKED,
    ("POST", "/v1/auth/reset"): NOBODY_ASKED,
    ("POST", "/v1/auth/verify"): NOBODY_ASKED,
    ("GET", "/v1/me"): ALL,
    ("PATCH", "/v1/me"): ALL,
    ("POST", "/v1/me/password"): ALL,
    ("POST", "/v1/me/sign-out"): ALL,
    ("POST", "/v1/me/erase"): ALL,
    ("GET", "/v1/me/sessions"): ALL,
    ("DELETE", "/v1/me/sessions/{session}"): ALL,
    ("GET", "/v1/users"): LOOKERS,
    ("GET", "/v1/users/{user}"): LOOKERS,
    ("PUT", "/v1/users/{user}/roles"): ADMIN,
    ("PUT", "/v1/users/{user}/limits"): ADMIN,
    ("POST", "/v1/users/{user}/suspend"): ADMIN,
    ("POST", "/v1/users/{user}/resume"): ADMIN,
    ("POST", "/v1/users/{user}/sign-out"): ADMIN,
    ("POST", "/v1/users/{user}/reset-link"): ADMIN,
    ("DELETE", "/v1/users/{user}"): ADMIN,
    ("GET", "/v1/invites"): LOOKERS,
    ("POST", "/v1/invites"): ADMIN,
    ("DELETE", "/v1/invites/{invite}"): ADMIN,
    ("GET", "/v1/rewards/policies"): ALL,
    ("PUT", "/v1/rewards/policies/{policy}"): ADMIN,
    ("GET", "/v1/rewards/levels"): ALL,
    ("GET", "/v1/rewards/leaderboard"): ALL,
    ("PUT", "/v1/rewards/leaderboard"): PAYERS,
    ("POST", "/v1/rewards/rebase"): ADMIN,
    ("GET", "/v1/rewards/{reward}"): ALL,
    ("GET", "/v1/ledger/balance"): ALL,
    ("GET", "/v1/ledger/transfers"): ALL,
    ("POST", "/v1/ledger/transfers"): PAYERS,
    ("GET", "/v1/ledger/transfers/{id}"): ALL,
    ("POST", "/v1/ledger/transfers/{id}/post"): PAYERS,
    ("POST", "/v1/ledger/transfers/{id}/void"): PAYERS,
    ("GET", "/v1/ledger/pending"): ALL,
    ("GET", "/v1/ledger/statement"): ALL,
    ("GET", "/v1/ledger/statement.csv"): ALL,
    ("GET", "/v1/ledger/overview"): LOOKERS,
    ("GET", "/v1/ledger/accounts"): LOOKERS,
    ("GET", "/v1/ledger/export"): LOOKERS,
    ("POST", "/v1/ledger/payments"): ADMIN,
    ("GET", "/v1/ledger/disputes"): ALL,
    ("POST", "/v1/ledger/disputes"): PAYERS,
    ("POST", "/v1/ledger/disputes/{id}/rule"): ADMIN,
    ("POST", "/v1/ledger/disputes/{id}/withdraw"): PAYERS,
}
"""Who is let in; whether there is such a thing, and it is theirs, is asked then. The first line of each handler."""
HARMLESS = {
    "{job}": "jaaaaaaaaaaaaaaaa", "{index}": "0", "{digest}": "0" * 64, "{worker}": "waaaaaaaaaaaa", "{key}": "k0",
    "{enrolment}": "e0", "{user}": "unobody", "{invite}": "i0",
    "{name}": "token", "{session}": "nothing", "{id}": "t0",
}  # fmt: skip
CLOSED = (401, 403)
NO_KEY = "there is no key"


def routes() -> list[tuple[str, str]]:
    """Every method and path that the application has, parameters as `{name}`."""
    found: list[tuple[str, str]] = []
    for handler in ROUTES:
        for path in handler.paths:
            plain = "/".join(part.split(":")[0] + "}" if part.startswith("{") else part for part in path.split("/"))
            found += [(method, plain) for method in handler.http_methods]
    return sorted(found)


def test_every_route_has_a_row() -> None:
    assert set(routes()) == set(MAY)


async def test_who_may_have_what(hive: Api) -> None:
    keys = {"stranger": "", **{role: await hive.key_of(role) for role in ROLES}}
    wrong: list[str] = []
    for method, path in routes():
        for who, key in keys.items():
            if who == "admin" and method == "DELETE":
                continue  # what it names is nothing; the others show that it is closed
            address = path
            for name, value in HARMLESS.items():
                address = address.replace(name, value)
            headers = {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
            body = {} if method in ("POST", "PUT", "PATCH", "DELETE") else None
            async with hive.http.request(method, hive.url + address, headers=headers, json=body) as answer:
                text = await answer.text()
                # What checks for itself may refuse what it was given, but not for want of a key.
                open_ = answer.status not in CLOSED or (MAY[method, path] is NOBODY_ASKED and NO_KEY not in text)
                if open_ != (who in MAY[method, path]) or answer.status == 500:
                    wrong.append(f"{who} {method} {path}: {answer.status} {text[:200]}")
    assert not wrong, "\n".join(wrong)
