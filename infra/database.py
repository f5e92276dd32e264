"""Postgres through asyncpg, typed: fetch, execute, and transactions with COPY. The only module that knows asyncpg.

Two errors: `DatabaseAway` (cannot be reached, or went away; the outcome of what was under way is unknown; try again
later) and `DatabaseRefused` (Postgres answered no: the statement or a value is wrong, trying again changes nothing).
Connections are opened when first needed and again after a loss.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeAlias

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

CONNECTIONS_MAX = 6
CONNECT_S_MAX = 5.0
COMMAND_S_MAX = 60.0
CLOSE_S_MAX = 5.0
COPY_ROWS_MAX = 1000
"""One COPY takes so many rows, about 1 ms of encoding, before others get their turn."""

Record: TypeAlias = Sequence[Any]
"""A row as Postgres gave it: its columns in the order asked for."""


class DatabaseAway(Exception):
    """Postgres cannot be reached, or went away while it was working on this."""


class DatabaseRefused(Exception):
    """Postgres answered that it will not do this; `value`: because of a value that does not fit where it was to go."""

    def __init__(self, detail: str, value: bool = False) -> None:
        super().__init__(detail)
        self.value = value


class Queries(Protocol):
    """What can be asked, in a transaction or outside."""

    async def fetch(self, sql: str, *arguments: Any) -> list[Record]:
        """The rows that `sql` yields; `$1`... are the arguments."""
        ...

    async def execute(self, sql: str, *arguments: Any) -> None:
        """Run `sql`; without arguments it may be several statements."""
        ...


_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)
_VALUE = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""A value does not fit: it is out of range, cannot be held as text, or is too large for an index."""
_ENCODING = (UnicodeError, OverflowError, TypeError)
"""The same, found by asyncpg before it was sent."""


@contextmanager
def _statement() -> Generator[None]:
    """asyncpg's errors as ours, around one statement."""
    try:
        with _block():
            yield
    except _ENCODING as error:
        raise DatabaseRefused(f"{type(error).__name__}: {error}", value=True) from error


@contextmanager
def _block() -> Generator[None]:
    """The same around a block of a caller's, whose own errors pass."""
    try:
        yield
    except _VALUE as error:
        raise DatabaseRefused(f"{type(error).__name__}: {error}", value=True) from error
    except _AWAY as error:
        raise DatabaseAway(f"Postgres is away: {str(error) or type(error).__name__}") from error
    except asyncpg.PostgresError as error:
        raise DatabaseRefused(f"{type(error).__name__}: {error}") from error


class Transaction:
    """Statements that happen all or not at all. Made by `Database.transaction`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *arguments: Any) -> list[Record]:
        with _statement():
            return await self._connection.fetch(sql, *arguments)

    async def execute(self, sql: str, *arguments: Any) -> None:
        with _statement():
            await self._connection.execute(sql, *arguments)

    async def copy(self, schema: str, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, their values in the order of `columns`."""
        for at in range(0, len(rows), COPY_ROWS_MAX):
            with _statement():
                await self._connection.copy_records_to_table(
                    table, schema_name=schema, columns=columns, records=rows[at : at + COPY_ROWS_MAX]
                )
            await asyncio.sleep(0)


class Database:
    """A pool of connections to one Postgres, named by a DSN such as `postgresql://hive@/hive?host=/run/hive`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def fetch(self, sql: str, *arguments: Any) -> list[Record]:
        """The rows that `sql` yields. Raises DatabaseAway, DatabaseRefused."""
        with _statement():
            async with (await self._open()).acquire(timeout=CONNECT_S_MAX) as connection:
                return await connection.fetch(sql, *arguments)

    async def execute(self, sql: str, *arguments: Any) -> None:
        """Run `sql`. Raises DatabaseAway, DatabaseRefused."""
        with _statement():
            async with (await self._open()).acquire(timeout=CONNECT_S_MAX) as connection:
                await connection.execute(sql, *arguments)

    @asynccontextmanager
    async def transaction(self, durable: bool = True) -> AsyncGenerator[Transaction]:
        """One transaction, committed when the block ends well. Without `durable` a crash of Postgres may forget it
        after it was committed, though never a part of it: for what can come back from the log.
        """
        with _block():
            async with (await self._open()).acquire(timeout=CONNECT_S_MAX) as connection:
                async with connection.transaction():
                    if not durable:
                        await connection.execute("SET LOCAL synchronous_commit = off")
                    yield Transaction(connection)

    async def close(self) -> None:
        """Close every connection; one that does not close in time is cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_S_MAX)
        except (OSError, TimeoutError, asyncpg.InterfaceError):
            pool.terminate()

    async def _open(self) -> Any:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
                        self._dsn,
                        min_size=0,
                        max_size=CONNECTIONS_MAX,
                        timeout=CONNECT_S_MAX,
                        command_timeout=COMMAND_S_MAX,
                        reset=_nothing,
                        server_settings={"application_name": "hive", "jit": "off"},
                    )
        return self._pool


async def _nothing(connection: Any) -> None:
    """Instead of a round trip that resets what nobody sets: settings here are LOCAL to their transaction."""
