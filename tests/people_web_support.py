"""A served API with the routes of people, behind the gate."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from infra.database import Database
from infra.settings import Settings
from services.accounts.hosted import PeopleHost
from tests.people_support import PASSWORD
from tests.web_support import Api, api
from web.server import Server

Answer = tuple[int, Any]


@dataclass
class Served:
    """The API, its hive, and a session of HTTP without credentials of its own."""

    hive: Api
    host: PeopleHost
    server: Server
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = "", headers: dict[str, str] | None = None
    ) -> Answer:
        """Status and decoded body."""
        sent = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        async with self.http.request(method, self.url + path, json=body, headers=sent) as answer:
            data = await answer.read()
            return answer.status, await answer.json(content_type=None) if data else None

    async def admin(self, method: str, path: str, body: Any = None) -> Answer:
        """The same, as the admin."""
        return await self.ask(method, path, body, self.hive.key)

    async def join(self, name: str = "ada", mail: str = "") -> tuple[str, str]:
        """Register and log in: id and access token."""
        status, answer = await self.ask(
            "POST", "/v1/auth/register", {"name": name, "password": PASSWORD, "email": mail}
        )
        assert status == 201, answer
        status, tokens = await self.ask("POST", "/v1/auth/login", {"name": name, "password": PASSWORD})
        assert status == 200, tokens
        return answer["user"], tokens["access"]


@contextlib.asynccontextmanager
async def people_api(
    root: Path, database: Database, *, tables: bool = False, **settings: Any
) -> AsyncGenerator[Served]:
    """An API where anybody may register, unless the settings say otherwise; with `tables`, history too."""
    wanted: dict[str, Any] = {"registration": "open", **settings}
    async with api(root, tables=tables, identities=database, settings=Settings(**wanted)) as hive:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
            yield Served(hive, hive.core.people, hive.server, http)
