"""Looking after keys, secrets for tasks, enrolment tokens and the identities of workers: `AsyncHive.access`; and joining
with a token.
"""

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from events.account import Role
from events.base import WorkerId
from infra.tls import Trust
from services.accounts.keys import secret_of
from web import keys_schema as schema
from web.client.codec import done_of, enrol_of, name
from web.client.http import TRY_S_MAX, Http, Query
from web.reports_schema import ReportView, TaskReport, TaskReports
from web.schema import Done, EnrolAnswer, RenameBody
from web.secrets_schema import SecretBody, SecretsAnswer, SecretView

_keys_of = msgspec.json.Decoder(schema.KeysAnswer).decode
_new_key_of = msgspec.json.Decoder(schema.NewKey).decode
_enrolments_of = msgspec.json.Decoder(schema.EnrolmentsAnswer).decode
_secrets_of = msgspec.json.Decoder(SecretsAnswer).decode
_report_of = msgspec.json.Decoder(ReportView).decode
_task_reports_of = msgspec.json.Decoder(TaskReports).decode
_new_enrolment_of = msgspec.json.Decoder(schema.NewEnrolment).decode


class _Ask(Protocol):
    def __call__(self, method: str, path: str, query: Query | None = None, body: Any = None) -> Awaitable[bytes]: ...


class AsyncAccess:
    """Asks through its client. Errors are HiveErrors."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask

    async def keys(self, user: str = "") -> list[schema.KeyView]:
        """One's own API keys, or those of `user`; without those that were revoked."""
        return _keys_of(await self._ask("GET", "/v1/keys", [("user", user)] if user else None)).keys

    async def make_key(
        self,
        label: str = "",
        *,
        role: Role | None = None,
        scopes: list[str] | None = None,
        expires_in: int | None = None,
        user: str = "",
        requests_per_min: int = 0,
    ) -> schema.NewKey:
        """Another API key; its text is in the answer and nowhere else. `expires_in`: seconds; `requests_per_min` 0: as often
        as its user may.
        """
        body = schema.KeyBody(label, role, scopes or [], expires_in, user, requests_per_min)
        return _new_key_of(await self._ask("POST", "/v1/keys", None, body))

    async def rotate_key(self, key: str, grace: int = 3600) -> schema.NewKey:
        """A new key in place of this one; both are good for `grace` seconds."""
        path = f"/v1/keys/{name(key)}/rotate"
        return _new_key_of(await self._ask("POST", path, None, schema.RotateBody(grace)))

    async def revoke_key(self, key: str) -> Done:
        """End a key, at once."""
        return done_of(await self._ask("DELETE", f"/v1/keys/{name(key)}"))

    async def secrets(self) -> list[SecretView]:
        """One's secrets for tasks: names and times; values are shown to nobody."""
        return _secrets_of(await self._ask("GET", "/v1/secrets")).secrets

    async def set_secret(self, label: str, value: str) -> Done:
        """Set a secret for tasks, in place of the value that it had."""
        return done_of(await self._ask("PUT", f"/v1/secrets/{name(label)}", None, SecretBody(value)))

    async def remove_secret(self, label: str) -> Done:
        """Destroy a secret for tasks."""
        return done_of(await self._ask("DELETE", f"/v1/secrets/{name(label)}"))

    async def report(self, digest: str) -> ReportView:
        """A worker's report as it was signed."""
        return _report_of(await self._ask("GET", f"/v1/reports/{name(digest)}"))

    async def reports_of(self, job: str, index: int) -> list[TaskReport]:
        """Which reports say how the attempts of a task ended."""
        return _task_reports_of(await self._ask("GET", f"/v1/jobs/{name(job)}/tasks/{index}/reports")).reports

    async def enrolments(self) -> list[schema.EnrolmentView]:
        """Enrolment tokens that were not revoked."""
        return _enrolments_of(await self._ask("GET", "/v1/enrolments")).enrolments

    async def make_enrolment(
        self,
        uses: int = 1,
        expires_in: int = schema.DAY_S,
        owner: str = "",
        labels: dict[str, str] | None = None,
    ) -> schema.NewEnrolment:
        """A token that brings `uses` workers in (0: any number), for `expires_in` seconds; they get the `labels`."""
        body = schema.EnrolmentBody(uses, expires_in, owner, labels or {})
        return _new_enrolment_of(await self._ask("POST", "/v1/enrolments", None, body))

    async def revoke_enrolment(self, enrolment: str) -> Done:
        """End a token; the workers that it brought in stay."""
        return done_of(await self._ask("DELETE", f"/v1/enrolments/{name(enrolment)}"))

    async def ban_worker(self, worker: WorkerId) -> Done:
        """Shut a worker out for good: its key can never be enrolled again."""
        return done_of(await self._ask("POST", f"/v1/workers/{name(worker)}/ban"))

    async def rename_worker(self, worker: WorkerId, label: str) -> Done:
        """Give a worker another name for people."""
        return done_of(await self._ask("PATCH", f"/v1/workers/{name(worker)}", None, RenameBody(label)))


async def join(
    url: str, token: str, public_key: str, sign: Callable[[bytes], bytes], label: str = "", trust: Trust | None = None
) -> EnrolAnswer:
    """Bring the machine with this nkey into the hive at `url`; needs no API key. `sign` gives the 64 bytes of the nkey's
    signature. Raises HiveError.
    """
    signature = base64.b64encode(sign(schema.join_text(token, public_key))).decode()
    body = msgspec.json.encode(schema.JoinBody(secret_of(token), public_key, signature, label))
    http = Http(url, "", TRY_S_MAX, trust)
    try:
        return enrol_of(await http.ask("POST", "/v1/workers/join", None, body, {"Content-Type": "application/json"}))
    finally:
        await http.close()
