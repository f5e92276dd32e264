"""Sessions: what one login opens. A short access token, which is checked without asking anybody, and a refresh token,
which gets the next pair and is good once.

An access token is a JWT (HS256) with `sub` (user), `sid` (the session's family), `iat` and `exp`, both in ms. A refresh
token is random, known here by its digest. One that comes a second time was stolen, or its thief came first: the family
ends. Only right after it was used may it come again, from a client that never saw the answer. Refresh tokens carry a
MAC, so that nobody can end a family with a token that was never given out.

A family that ended is refused by this process at once; another one's access tokens of it run out by themselves, unless
its user signs out everywhere, which every process follows in the log (see `Access`).
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

import jwt
import msgspec

from events.base import UserId
from infra.identity_store import IdentityStore, SessionRow
from projections.access import Access

ACCESS_MS = 15 * 60_000
REFRESH_MS = 30 * 86_400_000
GRACE_MS = 10_000
"""For so long after it was used a refresh token may come again."""
ENDED_MAX = 100_000
SHOWN_MAX = 100
TOKEN_CHARS_MAX = 1024
FAMILY_BYTES, SECRET_BYTES, MAC_BYTES = 12, 32, 16
ALGORITHM = "HS256"
_JWT_OPTIONS = {"require": ["sub", "sid", "iat", "exp"], "verify_iat": False, "verify_exp": False, "verify_sub": False}
"""Times are compared with the `now` that is given, not with a clock of the library's own."""


class BadToken(Exception):
    """It opens nothing; the text says why."""


class Session(NamedTuple):
    """What an access token says: whose session it is of, and when the token was made (ms)."""

    user: UserId
    family: str
    issued_at: int


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """What opens a session, and until when (ms)."""

    user: UserId
    family: str
    access: str
    expires_at: int
    refresh: str
    refresh_expires_at: int


def judge(row: SessionRow, digest: bytes, fresh: bytes, now: int) -> SessionRow:
    """What becomes of a session when the refresh token with this digest comes at `now` (ms): it goes on with `fresh`,
    or it ends. One that is over stays as it is. Pure.
    """
    if row.ended or now >= row.expires:
        return row
    if hmac.compare_digest(row.digest, digest):
        return msgspec.structs.replace(row, digest=fresh, before=digest, rotated=now, expires=now + REFRESH_MS)
    if hmac.compare_digest(row.before, digest) and now - row.rotated <= GRACE_MS:
        return msgspec.structs.replace(row, digest=fresh)
    return msgspec.structs.replace(row, ended=now)


class Sessions:
    """Begins, goes on with, checks and ends sessions. `key`: 32 secret bytes that sign the tokens."""

    def __init__(self, key: bytes, store: IdentityStore) -> None:
        self._store = store
        self._access_key, self._mac_key, self._csrf_key = (
            hashlib.blake2b(key=key, person=use, digest_size=32).digest() for use in (b"access", b"refresh", b"csrf")
        )
        self._ended: OrderedDict[str, int] = OrderedDict()

    def check(self, token: str, now: int) -> Session:
        """What a valid access token says, at `now` (ms). Raises BadToken.

        Whether its user may still come in is for `Access` to say: see `stands`.
        """
        try:
            said = jwt.decode(token[:TOKEN_CHARS_MAX], self._access_key, [ALGORITHM], options=_JWT_OPTIONS)  # pyright: ignore[reportUnknownMemberType, reportArgumentType]
        except (jwt.InvalidTokenError, UnicodeEncodeError):
            raise BadToken("the key or access token is none of ours") from None
        user, family, issued_at, expires_at = (said[name] for name in ("sub", "sid", "iat", "exp"))
        if now >= expires_at:
            raise BadToken("the access token is over; get another with the refresh token")
        if family in self._ended:
            raise BadToken("the session was ended; log in again")
        return Session(user, family, issued_at)

    async def begin(self, user: UserId, access: Access) -> Tokens:
        """A new session. Raises DatabaseAway."""
        family, now = secrets.token_hex(FAMILY_BYTES), _now()
        # Clocks differ: whoever signs in after they signed out everywhere must not find themselves signed out.
        known = access.users.get(user)
        began = max(now, known.signed_out_at + 1 if known else 0)
        refresh = self._new_refresh(family)
        row = SessionRow(family, user, _digest(refresh), b"", began, now, now + REFRESH_MS)
        await self._store.add_session(row)
        return self._tokens(row, refresh, began)

    async def refresh(self, token: str, access: Access) -> Tokens:
        """The next tokens of the session. Raises BadToken, DatabaseAway."""
        family = self._family_of(token)
        fresh, now = self._new_refresh(family), _now()
        row = await self._store.session(family)
        # Asked before the token is used up: whoever is suspended goes on where they were, once they are not.
        if row is not None and (why := stands(access, Session(row.user, family, row.began))):
            raise BadToken(why)
        changed = await self._store.change_session(family, lambda row: judge(row, _digest(token), _digest(fresh), now))
        if changed is None:
            raise BadToken("the session is over; log in again")
        before, after = changed
        if after.ended and not before.ended:
            self._end(family)
            raise BadToken("the refresh token was used before, so the session was ended; log in again")
        if after == before:
            raise BadToken("the session is over; log in again")
        return self._tokens(after, fresh, max(now, after.began))

    async def end(self, family: str) -> None:
        """End a session; one that is over or unknown stays so. Raises DatabaseAway: here it has ended even so."""
        self._end(family)
        now = _now()
        await self._store.change_session(
            family, lambda row: row if row.ended else msgspec.structs.replace(row, ended=now)
        )

    async def of(self, user: UserId) -> list[SessionRow]:
        """The user's open sessions, the one used last first, SHOWN_MAX at most. Raises DatabaseAway."""
        return await self._store.sessions_of(user, _now(), SHOWN_MAX)

    async def end_own(self, user: UserId, family: str) -> bool:
        """End this session, if it is the user's; whether it is. Raises DatabaseAway."""
        row = await self._store.session(family)
        if row is None or row.user != user or row.ended:
            return False
        await self.end(family)
        return True

    async def end_with(self, token: str) -> None:
        """End the session of this refresh token. Raises BadToken, DatabaseAway."""
        await self.end(self._family_of(token))

    async def end_all(self, user: UserId) -> None:
        """End every session of the user. Raises DatabaseAway."""
        for family in await self._store.end_sessions(user, _now()):
            self._end(family)

    def csrf(self, family: str) -> str:
        """What an unsafe request that comes with the session's cookies must say in a header."""
        return _text(hmac.digest(self._csrf_key, family.encode(), "sha256"))

    def _end(self, family: str) -> None:
        now = _now()
        self._ended[family] = now + ACCESS_MS
        self._ended.move_to_end(family)
        while len(self._ended) > ENDED_MAX or next(iter(self._ended.values())) < now:
            self._ended.popitem(last=False)

    def _tokens(self, row: SessionRow, refresh: str, issued_at: int) -> Tokens:
        expires_at = issued_at + ACCESS_MS
        claims = {"sub": row.user, "sid": row.family, "iat": issued_at, "exp": expires_at}
        access = jwt.encode(claims, self._access_key, ALGORITHM)  # pyright: ignore[reportUnknownMemberType]
        return Tokens(row.user, row.family, access, expires_at, refresh, row.expires)

    def _new_refresh(self, family: str) -> str:
        said = f"{family}.{secrets.token_urlsafe(SECRET_BYTES)}"
        return f"{said}.{self._mac(said)}"

    def _mac(self, said: str) -> str:
        return _text(hmac.digest(self._mac_key, said.encode(), "sha256")[:MAC_BYTES])

    def _family_of(self, token: str) -> str:
        said, _, mac = token[:TOKEN_CHARS_MAX].rpartition(".")
        if not token.isascii() or not hmac.compare_digest(mac, self._mac(said)):
            raise BadToken("the refresh token is none of ours")
        return said.partition(".")[0]


def stands(access: Access, session: Session) -> str:
    """Why a session with a valid token opens nothing, "" when it does: for the gate, which sees each request. Pure."""
    user = access.users.get(session.user)
    if user is None or user.state == "erased":
        return "there is no such user any more"
    if user.state == "suspended":
        return "the user is suspended; ask an admin"
    if session.issued_at <= user.signed_out_at:
        return "the session was ended by signing out everywhere; log in again"
    return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _now() -> int:
    return time.time_ns() // 1_000_000
