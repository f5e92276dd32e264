"""The `identity` schema: who users are, in Postgres. Unlike the `read` schema it cannot come back from the log, so each
commit waits for the disk whatever the server's own setting; it is small, and to be backed up.

It holds names, sealed e-mail addresses, password hashes, wrapped data keys, and digests of what opens something, never
the thing itself. Times are ms since 1970 (0: never). The schema is made, and brought up to date, before the first use.
Everything raises DatabaseAway while Postgres is away, and nothing was changed then or the outcome is unknown.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import msgspec

from events.account import KeyId
from events.base import Sealed, UserId
from infra.database import Database, Record, Transaction

LOCK = 0x48495649
"""Key of the advisory lock under which the schema is changed."""
PAGE_MAX = 1000

LinkKind: TypeAlias = Literal["reset", "verify"]

MIGRATIONS = (
    """
    CREATE TABLE identity.users (
        user_id text PRIMARY KEY, name text NOT NULL, folded text NOT NULL UNIQUE, password text NOT NULL DEFAULT '',
        mail_key text NOT NULL DEFAULT '', mail_data bytea NOT NULL DEFAULT '', mail_digest bytea NOT NULL DEFAULT '',
        verified boolean NOT NULL DEFAULT false, created bigint NOT NULL, registered boolean NOT NULL DEFAULT false);
    CREATE UNIQUE INDEX ON identity.users (mail_digest) WHERE verified;
    CREATE INDEX ON identity.users (created) WHERE NOT registered;
    CREATE TABLE identity.data_keys (
        key_id text PRIMARY KEY, user_id text NOT NULL UNIQUE REFERENCES identity.users ON DELETE CASCADE,
        wrapped bytea NOT NULL, created bigint NOT NULL);
    CREATE TABLE identity.sessions (
        family text PRIMARY KEY, user_id text NOT NULL REFERENCES identity.users ON DELETE CASCADE,
        digest bytea NOT NULL, before bytea NOT NULL DEFAULT '', began bigint NOT NULL, rotated bigint NOT NULL,
        expires bigint NOT NULL, ended bigint NOT NULL DEFAULT 0);
    CREATE INDEX ON identity.sessions (user_id);
    CREATE INDEX ON identity.sessions (expires);
    CREATE TABLE identity.links (
        digest bytea PRIMARY KEY, user_id text NOT NULL REFERENCES identity.users ON DELETE CASCADE,
        kind text NOT NULL, expires bigint NOT NULL, used bigint NOT NULL DEFAULT 0);
    CREATE INDEX ON identity.links (user_id);
    CREATE TABLE identity.key_uses (key text PRIMARY KEY, user_id text NOT NULL, at bigint NOT NULL);
    CREATE INDEX ON identity.key_uses (user_id);
    """,
    """
    CREATE TABLE identity.secrets (
        secret_id text PRIMARY KEY, user_id text NOT NULL, key_id text NOT NULL, name bytea NOT NULL,
        value bytea NOT NULL, set_at bigint NOT NULL);
    CREATE INDEX ON identity.secrets (user_id);
    """,
    "CREATE TABLE identity.failures (name bytea PRIMARY KEY, failures integer NOT NULL, since bigint NOT NULL);",
)
"""Each is carried out once, in order; later ones are added at the end and never changed afterwards."""


class NameTaken(Exception):
    """There is a user with this name, or with one that looks like it."""


class MailTaken(Exception):
    """Another user has shown that this e-mail address is theirs."""


class UserRow(msgspec.Struct, frozen=True, gc=False):
    """Who a user is. `password`: a hash, "" for none. `registered`: the log knows the user; until then the row only
    keeps the name. `mail_digest`: of the folded address, under a key; empty without an address.
    """

    user: UserId
    name: str
    password: str
    mail: Sealed | None
    mail_digest: bytes
    verified: bool
    created: int
    registered: bool


class KeyRow(msgspec.Struct, frozen=True, gc=False):
    """A user's data key, wrapped."""

    key: str
    user: UserId
    wrapped: bytes
    created: int


class SessionRow(msgspec.Struct, frozen=True, gc=False):
    """A session: every token that came from one login. `digest`: of the refresh token in use, `before`: of the one that
    it took the place of, at `rotated`.
    """

    family: str
    user: UserId
    digest: bytes
    before: bytes
    began: int
    rotated: int
    expires: int
    ended: int = 0


_USER = "user_id, name, password, mail_key, mail_data, mail_digest, verified, created, registered"
_KEY = "key_id, user_id, wrapped, created"
_SESSION = "family, user_id, digest, before, began, rotated, expires, ended"


def _user_of(row: Record) -> UserRow:
    user, name, password, key, data, digest, verified, created, registered = row
    mail = Sealed(key, data) if key else None
    return UserRow(user, name, password, mail, digest, verified, created, registered)


class IdentityStore:
    """The schema in one Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made = False
        self._making = asyncio.Lock()

    # The schema

    async def ensure(self) -> None:
        """Make the schema, or bring it up to date; once done, nothing."""
        if self._made:
            return
        async with self._making:
            if self._made:
                return
            async with self._database.transaction() as transaction:
                await _migrate(transaction)
            self._made = True

    async def _fetch(self, sql: str, *arguments: object) -> list[Record]:
        await self.ensure()
        return await self._database.fetch(sql, *arguments)

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[Transaction]:
        await self.ensure()
        async with self._database.transaction() as transaction:
            await transaction.execute("SET LOCAL synchronous_commit = on")
            yield transaction

    async def _write(self, sql: str, *arguments: object) -> list[Record]:
        async with self._writing() as transaction:
            return await transaction.fetch(sql, *arguments)

    # Users

    async def add_user(self, user: UserId, name: str, folded: str, password: str, now: int) -> None:
        """Keep a name for a user whom the log does not know yet; the same user twice is the same. Raises NameTaken."""
        added = await self._write(
            "INSERT INTO identity.users (user_id, name, folded, password, created) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT DO NOTHING RETURNING 1",
            user, name, folded, password, now,
        )  # fmt: skip
        if not added and not await self._fetch(
            "SELECT 1 FROM identity.users WHERE user_id = $1 AND folded = $2", user, folded
        ):
            raise NameTaken(f"the name {name!r}, or one that looks like it, is taken")

    async def set_registered(self, user: UserId) -> bool:
        """The log knows the user now. False: the row is not there any more."""
        return bool(
            await self._write("UPDATE identity.users SET registered = true WHERE user_id = $1 RETURNING 1", user)
        )

    async def user(self, user: UserId) -> UserRow | None:
        """Who the user is."""
        rows = await self._fetch(f"SELECT {_USER} FROM identity.users WHERE user_id = $1", user)
        return _user_of(rows[0]) if rows else None

    async def user_named(self, folded: str) -> UserRow | None:
        """The user whose name folds to this."""
        rows = await self._fetch(f"SELECT {_USER} FROM identity.users WHERE folded = $1", folded)
        return _user_of(rows[0]) if rows else None

    async def user_of_mail(self, digest: bytes) -> UserRow | None:
        """The user who has shown that the address with this digest is theirs."""
        rows = await self._fetch(f"SELECT {_USER} FROM identity.users WHERE verified AND mail_digest = $1", digest)
        return _user_of(rows[0]) if rows else None

    async def users(self, after: UserId = "", limit: int = PAGE_MAX) -> list[UserRow]:
        """Registered users in order of their ids, those after `after`."""
        rows = await self._fetch(
            f"SELECT {_USER} FROM identity.users WHERE registered AND user_id > $1 ORDER BY user_id LIMIT $2",
            after, min(limit, PAGE_MAX),
        )  # fmt: skip
        return [_user_of(row) for row in rows]

    async def pending(self, before: int) -> list[UserId]:
        """Users whose names were kept before `before` and who are not marked as registered."""
        rows = await self._fetch(
            f"SELECT user_id FROM identity.users WHERE NOT registered AND created < $1 LIMIT {PAGE_MAX}", before
        )
        return [row[0] for row in rows]

    async def known(self, users: Sequence[UserId]) -> list[UserId]:
        """Those of these users that anything is kept of."""
        rows = await self._fetch(
            "SELECT user_id FROM identity.users WHERE user_id = ANY($1)"
            " UNION SELECT user_id FROM identity.key_uses WHERE user_id = ANY($1)"
            " UNION SELECT user_id FROM identity.secrets WHERE user_id = ANY($1)",
            [*users],
        )  # fmt: skip
        return [row[0] for row in rows]

    async def set_password(self, user: UserId, password: str, instead_of: str | None = None) -> bool:
        """Set the hash, if it is still `instead_of` (None: whatever it is); whether it was set."""
        return bool(
            await self._write(
                "UPDATE identity.users SET password = $2 WHERE user_id = $1 AND ($3::text IS NULL OR password = $3)"
                " RETURNING 1",
                user, password, instead_of,
            )
        )  # fmt: skip

    async def set_mail(self, user: UserId, mail: Sealed | None, digest: bytes) -> None:
        """Set the address, which is nobody's for sure until it is verified; links sent to the one before are void."""
        async with self._writing() as transaction:
            await transaction.execute("DELETE FROM identity.links WHERE user_id = $1 AND kind = 'verify'", user)
            await transaction.execute(
                "UPDATE identity.users SET mail_key = $2, mail_data = $3, mail_digest = $4, verified = false"
                " WHERE user_id = $1",
                user, mail.key if mail else "", mail.data if mail else b"", digest,
            )  # fmt: skip

    async def set_verified(self, user: UserId) -> None:
        """The address is the user's. Raises MailTaken."""
        async with self._writing() as transaction:
            # Of two users with one address, who verify it at once, the second one sees the first.
            await transaction.execute("LOCK TABLE identity.users IN SHARE ROW EXCLUSIVE MODE")
            taken = await transaction.fetch(
                "SELECT 1 FROM identity.users a JOIN identity.users b USING (mail_digest)"
                " WHERE a.user_id = $1 AND b.user_id <> $1 AND b.verified",
                user,
            )
            if taken:
                raise MailTaken("another user has this address")
            await transaction.execute(
                "UPDATE identity.users SET verified = true WHERE user_id = $1 AND mail_digest <> ''", user
            )

    async def remove_users(self, users: Sequence[UserId]) -> None:
        """Destroy everything that is kept of these users: rows, data keys, sessions, links, uses of keys, secrets."""
        async with self._writing() as transaction:
            for table in ("key_uses", "secrets"):
                await transaction.execute(f"DELETE FROM identity.{table} WHERE user_id = ANY($1)", [*users])
            await transaction.execute("DELETE FROM identity.users WHERE user_id = ANY($1)", [*users])

    # Data keys

    async def add_key(self, row: KeyRow) -> KeyRow | None:
        """Keep a data key for a user who has none; the one that the user has then, None when there is no such user."""
        async with self._writing() as transaction:
            await transaction.execute(
                f"INSERT INTO identity.data_keys ({_KEY}) SELECT $1, user_id, $3, $4 FROM identity.users"
                " WHERE user_id = $2 ON CONFLICT (user_id) DO NOTHING",
                row.key, row.user, row.wrapped, row.created,
            )  # fmt: skip
            rows = await transaction.fetch(f"SELECT {_KEY} FROM identity.data_keys WHERE user_id = $1", row.user)
        return KeyRow(*rows[0]) if rows else None

    async def all_keys(self, after: str = "") -> list[KeyRow]:
        """A page of all data keys in order of their ids."""
        rows = await self._fetch(
            f"SELECT {_KEY} FROM identity.data_keys WHERE key_id > $1 ORDER BY key_id LIMIT {PAGE_MAX}", after
        )
        return [KeyRow(*row) for row in rows]

    async def some_keys(self, keys: Sequence[str], users: Sequence[UserId]) -> list[KeyRow]:
        """The data keys with these ids, and those of these users."""
        rows = await self._fetch(
            f"SELECT {_KEY} FROM identity.data_keys WHERE key_id = ANY($1) OR user_id = ANY($2)", [*keys], [*users]
        )
        return [KeyRow(*row) for row in rows]

    async def destroy_keys(self, users: Sequence[UserId]) -> None:
        """Destroy the data keys of these users."""
        await self._write("DELETE FROM identity.data_keys WHERE user_id = ANY($1)", [*users])

    # Sessions

    async def add_session(self, row: SessionRow) -> None:
        """Keep a session."""
        await self._write(
            f"INSERT INTO identity.sessions ({_SESSION}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            *msgspec.structs.astuple(row),
        )

    async def session(self, family: str) -> SessionRow | None:
        """One session."""
        rows = await self._fetch(f"SELECT {_SESSION} FROM identity.sessions WHERE family = $1", family)
        return SessionRow(*rows[0]) if rows else None

    async def change_session(
        self, family: str, change: Callable[[SessionRow], SessionRow]
    ) -> tuple[SessionRow, SessionRow] | None:
        """The session before and after `change`, which nobody else changes meanwhile; None when there is none."""
        async with self._writing() as transaction:
            rows = await transaction.fetch(
                f"SELECT {_SESSION} FROM identity.sessions WHERE family = $1 FOR UPDATE", family
            )
            if not rows:
                return None
            old = SessionRow(*rows[0])
            new = change(old)
            if new != old:
                await transaction.execute(
                    "UPDATE identity.sessions SET digest = $2, before = $3, rotated = $4, expires = $5, ended = $6"
                    " WHERE family = $1",
                    family, new.digest, new.before, new.rotated, new.expires, new.ended,
                )  # fmt: skip
        return old, new

    async def end_sessions(self, user: UserId, now: int) -> list[str]:
        """End every session of the user; their families."""
        rows = await self._write(
            "UPDATE identity.sessions SET ended = $2 WHERE user_id = $1 AND ended = 0 RETURNING family", user, now
        )
        return [row[0] for row in rows]

    async def sessions_of(self, user: UserId, now: int, limit: int) -> list[SessionRow]:
        """The user's open sessions, the one used last first."""
        open_ = f"SELECT {_SESSION} FROM identity.sessions WHERE user_id = $1 AND ended = 0 AND expires > $2"
        rows = await self._fetch(f"{open_} ORDER BY rotated DESC LIMIT $3", user, now, limit)
        return [SessionRow(*row) for row in rows]

    async def forget_over(self, now: int) -> None:
        """Forget sessions and links that opened nothing any more when it became `now`."""
        async with self._writing() as transaction:
            await transaction.execute("DELETE FROM identity.sessions WHERE expires < $1", now)
            await transaction.execute("DELETE FROM identity.links WHERE expires < $1", now)

    # One-time links

    async def add_link(self, digest: bytes, user: UserId, kind: LinkKind, expires: int) -> None:
        """Keep a link; those of its kind that the user had before are void."""
        async with self._writing() as transaction:
            await transaction.execute("DELETE FROM identity.links WHERE user_id = $1 AND kind = $2", user, kind)
            await transaction.execute(
                "INSERT INTO identity.links (digest, user_id, kind, expires) VALUES ($1, $2, $3, $4)",
                digest, user, kind, expires,
            )  # fmt: skip

    async def link(self, digest: bytes, kind: LinkKind, now: int) -> UserId:
        """Whose link it is, "" when it is none that opens anything."""
        rows = await self._fetch(
            "SELECT user_id FROM identity.links WHERE digest = $1 AND kind = $2 AND used = 0 AND expires > $3",
            digest, kind, now,
        )  # fmt: skip
        return rows[0][0] if rows else ""

    async def use_link(self, digest: bytes, kind: LinkKind, now: int) -> bool:
        """Use the link up; whether it was still good. Of two that try, one is told so."""
        return bool(
            await self._write(
                "UPDATE identity.links SET used = $3 WHERE digest = $1 AND kind = $2 AND used = 0 AND expires > $3"
                " RETURNING 1",
                digest, kind, now,
            )
        )  # fmt: skip

    # Uses of API keys

    async def note_uses(self, uses: Mapping[KeyId, tuple[UserId, int]]) -> None:
        """Keep when each key was last used."""
        await self._write(
            "INSERT INTO identity.key_uses (key, user_id, at) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])"
            " ON CONFLICT (key) DO UPDATE SET at = greatest(identity.key_uses.at, excluded.at)",
            [*uses], [user for user, _ in uses.values()], [at for _, at in uses.values()],
        )  # fmt: skip

    async def uses(self, keys: Sequence[KeyId]) -> dict[KeyId, int]:
        """When each of these keys was last used, as far as it is known."""
        rows = await self._fetch("SELECT key, at FROM identity.key_uses WHERE key = ANY($1)", [*keys])
        return {row[0]: row[1] for row in rows}


async def _migrate(transaction: Transaction) -> None:
    await transaction.execute("SET LOCAL synchronous_commit = on")
    # Two control planes that start together: the second one waits, and finds it done.
    await transaction.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    await transaction.execute(
        "CREATE SCHEMA IF NOT EXISTS identity; CREATE TABLE IF NOT EXISTS identity.version (version int NOT NULL)"
    )
    rows = await transaction.fetch("SELECT version FROM identity.version")
    version = rows[0][0] if rows else 0
    if not rows:
        await transaction.execute("INSERT INTO identity.version VALUES (0)")
    for migration in MIGRATIONS[version:]:
        await transaction.execute(migration)
    await transaction.execute("UPDATE identity.version SET version = greatest(version, $1)", len(MIGRATIONS))
