"""Headers of every answer, and other sites: which may read answers, refusals too, and ask beforehand."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.web_support import Api, api
from web.core import Network

SITE = "https://pages.example.org"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
ASKS = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.fixture
async def hive(tmp_path: Path) -> AsyncGenerator[Api]:
    """An API that one other site may use."""
    async with api(tmp_path, network=Network(cors_origins=(SITE,))) as served:
        yield served


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/v1/status", "", 200),
        ("GET", "/v1/status", "Bearer wrong", 401),
        ("GET", "/v1/jobs/nothing", "", 404),
        ("GET", "/nothing", "", 404),
        ("DELETE", "/v1/status", "", 405),
        ("POST", "/v1/jobs", "", 400),
        ("GET", "/schema/openapi.json", "", 200),
        ("GET", "/v1/events?follow=false", "", 200),
        ("OPTIONS", "/v1/jobs", "Bearer wrong", 401),
    ],
)
async def test_every_answer_has_them(hive: Api, method: str, path: str, key: str, status: int) -> None:
    headers = {"Origin": SITE, **({"Authorization": key} if key else {})}
    async with hive.http.request(method, hive.url + path, headers=headers) as answer:
        assert answer.status == status, await answer.text()
        assert {name: answer.headers[name] for name in SAFE} == SAFE
        assert answer.headers["Access-Control-Allow-Origin"] == SITE
        assert "Origin" in answer.headers.getall("Vary")
        assert "retry-after" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Strict-Transport-Security" not in answer.headers, "there is no TLS"


async def test_a_browser_may_ask_beforehand_without_a_key(hive: Api) -> None:
    headers = {**ASKS, "Authorization": ""}
    async with hive.http.options(hive.url + "/v1/jobs", headers=headers) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == SITE
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert {"authorization", "idempotency-key"} <= {
            name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")
        }


@pytest.mark.parametrize("origin", ["https://evil.example", "http://pages.example.org", f"{SITE}.evil.example", "null"])
async def test_other_sites_may_not(hive: Api, origin: str) -> None:
    for method in ("OPTIONS", "GET"):
        headers = {**ASKS, "Origin": origin, **({"Authorization": ""} if method == "OPTIONS" else {})}
        async with hive.http.request(method, hive.url + "/v1/status", headers=headers) as answer:
            assert answer.status == (401 if method == "OPTIONS" else 200)
            assert not [name for name in answer.headers if name.startswith("Access-Control-")]
