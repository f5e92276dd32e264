"""The platform's HTTP side, played for an agent under test: blobs, results, secrets, credentials."""

import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from aiohttp import web

from infra import renewal
from infra.renewal import CredentialBody, RekeyBody
from services.credentials import CredentialDesk, CredentialRefused

_credential_body_of = msgspec.json.Decoder(CredentialBody).decode
_rekey_body_of = msgspec.json.Decoder(RekeyBody).decode


class Shelf:
    """Blobs and results over HTTP."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.sealed: dict[str, bytes] = {}
        """The sealed secrets of each job."""
        self.asked: list[tuple[str, str, str]] = []
        self.failures: list[int] = []
        """Statuses to answer the next requests with."""
        self.desk: CredentialDesk | None = None
        self.mints: dict[tuple[str, str], Callable[[], str]] = {}
        """Who may have a JWT, by id and public key."""
        self.credentials: list[tuple[int, str]] = []
        """Status and code of each answer to a request for a JWT."""
        self.url = ""

    def put(self, data: bytes) -> str:
        """Store a blob; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def mint(self, worker: str, public_key: str) -> str:
        """What the platform does for a credential desk."""
        return self.mints.get((worker, public_key), str)()

    async def _rekey(self, request: web.Request) -> web.StreamResponse:
        assert self.desk is not None
        try:
            answer = await self.desk.rekey(_rekey_body_of(await request.read()))
        except CredentialRefused as error:
            return web.json_response({"type": f"urn:hive:problem:{error.code}", "now": error.now}, status=403)
        return web.Response(body=msgspec.json.encode(answer))

    async def _credential(self, request: web.Request) -> web.StreamResponse:
        assert self.desk is not None
        try:
            answer = await self.desk.issue(_credential_body_of(await request.read()))
        except CredentialRefused as error:
            self.credentials.append((403, error.code))
            return web.json_response({"type": f"urn:hive:problem:{error.code}", "now": error.now}, status=403)
        self.credentials.append((200, ""))
        return web.Response(body=msgspec.json.encode(answer))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs, request.headers.get("Authorization", "")))
        if self.failures:
            return web.json_response({"title": "failed", "detail": "said the test"}, status=self.failures.pop(0))
        name = request.path.rpartition("/")[2]
        if request.path.endswith("/secrets"):
            sealed = base64.b64encode(self.sealed[request.path.split("/")[3]])
            return web.json_response({"sealed": sealed.decode()})
        if request.path.startswith("/v1/jobs/"):
            found = self.results[request.path.split("/")[3]]
            after = int(request.query.get("after", "0"))
            more = str(after + 2) if after + 2 < len(found) else None
            return web.json_response({"results": found[after : after + 2], "next": more, "position": "1.1"})
        if request.method == "PUT":
            data = await request.read()
            assert hashlib.sha256(data).hexdigest() == name
            self.blobs[name] = data
            return web.Response(status=201)
        if name not in self.blobs:
            return web.json_response({"title": "not found", "detail": f"no blob {name}"}, status=404)
        return web.Response(body=self.blobs[name])

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator["Shelf"]:
        """Serve on a free port."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post(renewal.PATH, self._credential)
        app.router.add_post(renewal.REKEY_PATH, self._rekey)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()
