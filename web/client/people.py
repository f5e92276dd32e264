"""Users, sessions and invitations: `AsyncHive.people`, and what needs no key: registering, logging in, one-time links."""

from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec

from events.account import Limits, Role
from infra.tls import Trust
from web import people_schema as schema
from web.client.codec import done_of, encode, name
from web.client.http import TRY_S_MAX, Http, Query
from web.schema import LIMIT_MAX, Done

_user_of = msgspec.json.Decoder(schema.UserView).decode
_users_of = msgspec.json.Decoder(schema.UsersAnswer).decode
_tokens_of = msgspec.json.Decoder(schema.TokensAnswer).decode
_sessions_of = msgspec.json.Decoder(schema.SessionsAnswer).decode
_registered_of = msgspec.json.Decoder(schema.RegisteredAnswer).decode
_link_of = msgspec.json.Decoder(schema.LinkAnswer).decode
_new_invite_of = msgspec.json.Decoder(schema.NewInvite).decode
_invites_of = msgspec.json.Decoder(schema.InvitesAnswer).decode


class _Ask(Protocol):
    def __call__(self, method: str, path: str, query: Query | None = None, body: Any = None) -> Awaitable[bytes]: ...


class AsyncPeople:
    """Asks through its client. Errors are HiveErrors."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask

    # Oneself

    async def me(self) -> schema.UserView:
        """Whose key or session this is."""
        return _user_of(await self._ask("GET", "/v1/me"))

    async def set_email(self, email: str, password: str) -> schema.UserView:
        """Set one's own address ("": none)."""
        return _user_of(await self._ask("PATCH", "/v1/me", None, schema.SetMailBody(email, password)))

    async def change_password(self, old: str, new: str) -> schema.TokensAnswer:
        """Set another password; every session ends, and a new one begins."""
        return _tokens_of(await self._ask("POST", "/v1/me/password", None, schema.PasswordBody(old, new)))

    async def sign_out(self) -> None:
        """End all one's own sessions."""
        await self._ask("POST", "/v1/me/sign-out")

    async def sessions(self) -> list[schema.SessionView]:
        """One's own logins that are open, the one used last first."""
        return _sessions_of(await self._ask("GET", "/v1/me/sessions")).sessions

    async def end_session(self, session: str) -> None:
        """End one of them."""
        await self._ask("DELETE", f"/v1/me/sessions/{name(session)}")

    async def erase_me(self, password: str) -> None:
        """Erase oneself, for good."""
        await self._ask("POST", "/v1/me/erase", None, schema.EraseBody(password))

    # Users

    async def users(self) -> list[schema.UserView]:
        """Everybody, in order of their ids."""
        found: list[schema.UserView] = []
        after: str | None = ""
        while after is not None:
            query: Query = [("after", after), ("limit", str(LIMIT_MAX))]
            page = _users_of(await self._ask("GET", "/v1/users", query))
            found += page.users
            after = page.next
        return found

    async def named(self, called: str) -> schema.UserView | None:
        """The user with this name."""
        found = _users_of(await self._ask("GET", "/v1/users", [("name", called)])).users
        return found[0] if found else None

    async def user(self, user: str) -> schema.UserView:
        """One by id."""
        return _user_of(await self._ask("GET", f"/v1/users/{name(user)}"))

    async def set_roles(self, user: str, roles: list[Role]) -> Done:
        """Give a user these roles and no others."""
        return done_of(await self._ask("PUT", f"/v1/users/{name(user)}/roles", None, schema.RolesBody(roles)))

    async def set_limits(self, user: str, limits: Limits) -> Done:
        """Give a user limits of its own."""
        body = schema.LimitsBody(limits.requests_per_min, limits.open_jobs, limits.queued_tasks, limits.upload_bytes)
        return done_of(await self._ask("PUT", f"/v1/users/{name(user)}/limits", None, body))

    async def suspend(self, user: str) -> Done:
        """Let a user do nothing until it is resumed."""
        return done_of(await self._ask("POST", f"/v1/users/{name(user)}/suspend"))

    async def resume(self, user: str) -> Done:
        """Let a suspended user act again."""
        return done_of(await self._ask("POST", f"/v1/users/{name(user)}/resume"))

    async def sign_out_user(self, user: str) -> Done:
        """End a user's sessions."""
        return done_of(await self._ask("POST", f"/v1/users/{name(user)}/sign-out"))

    async def reset_link(self, user: str) -> schema.LinkAnswer:
        """A one-time token with which a user sets a password."""
        return _link_of(await self._ask("POST", f"/v1/users/{name(user)}/reset-link"))

    async def erase_user(self, user: str) -> Done:
        """Erase a user, for good."""
        return done_of(await self._ask("DELETE", f"/v1/users/{name(user)}"))

    # Invitations

    async def invite(
        self, roles: list[Role] | None = None, uses: int = 1, expires_in: int = 7 * schema.DAY_S
    ) -> schema.NewInvite:
        """Let `uses` people register as these roles, for `expires_in` seconds."""
        body = schema.InviteBody(roles or ["user"], uses, expires_in)
        return _new_invite_of(await self._ask("POST", "/v1/invites", None, body))

    async def invites(self) -> list[schema.InviteView]:
        """Invitations that were not revoked."""
        return _invites_of(await self._ask("GET", "/v1/invites")).invites

    async def revoke_invite(self, invite: str) -> Done:
        """End an invitation."""
        return done_of(await self._ask("DELETE", f"/v1/invites/{name(invite)}"))


class Door:
    """What needs no key, at the hive at `url`. Errors are HiveErrors."""

    def __init__(self, url: str, try_s: float = TRY_S_MAX, trust: Trust | None = None) -> None:
        self.url, self._try_s, self._trust = url, try_s, trust

    async def _post(self, path: str, body: msgspec.Struct) -> bytes:
        http = Http(self.url, "", self._try_s, self._trust)
        try:
            return await http.ask("POST", path, None, encode(body), {"Content-Type": "application/json"})
        finally:
            await http.close()

    async def register(self, called: str, password: str, email: str = "", invite: str = "", human: str = "") -> str:
        """Make a user; its id. `human`: what the check for humans gave, where the hive wants it."""
        body = schema.RegisterBody(called, password, email, invite, human)
        return _registered_of(await self._post("/v1/auth/register", body)).user

    async def log_in(self, called: str, password: str, human: str = "") -> schema.TokensAnswer:
        """Begin a session."""
        body = schema.LoginBody(called, password, human=human)
        return _tokens_of(await self._post("/v1/auth/login", body))

    async def refresh(self, token: str) -> schema.TokensAnswer:
        """The next tokens of a session; `token` is used up."""
        return _tokens_of(await self._post("/v1/auth/refresh", schema.RefreshBody(token)))

    async def log_out(self, token: str) -> None:
        """End the session of a refresh token."""
        await self._post("/v1/auth/logout", schema.RefreshBody(token))

    async def request_reset(self, email: str, human: str = "") -> None:
        """Have a link sent that sets a password."""
        await self._post("/v1/auth/reset-request", schema.MailBody(email, human))

    async def reset(self, token: str, password: str) -> str:
        """Set a password with a one-time token; whose."""
        return _registered_of(await self._post("/v1/auth/reset", schema.ResetBody(token, password))).user

    async def verify(self, token: str) -> str:
        """Show that an address is one's own; whose."""
        return _registered_of(await self._post("/v1/auth/verify", schema.TokenBody(token))).user
