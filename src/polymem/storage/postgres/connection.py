"""One database on a PostgreSQL server: a pool of connections, and units of work that outlive a lost one.

A unit is a coroutine over a connection. It may be run more than once, each time from the start and on another
connection, so it must change nothing but the database.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncCursor
from psycopg.pq import Format
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from polymem.errors import PolymemError, SettingsInvalid, StorageUnavailable
from polymem.storage.postgres.driver import (
    OLDEST_PGVECTOR,
    OLDEST_POSTGRES,
    Connection,
    connection_options,
    is_collision,
    is_lost,
    set_up,
    storage_error,
    translated,
)

Result = TypeVar("Result")
Unit = Callable[[Connection], Awaitable[Result]]

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.5
_ASK_AGAIN_SECONDS: Final = 0.5
_COLLISIONS_BORNE: Final = 8
_CLOSING_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 300.0
_LIFETIME_SECONDS: Final = 3600.0
_WAITING_PER_CONNECTION: Final = 64


class BinaryCursor(AsyncCursor[tuple[Any, ...]]):
    """A cursor that fetches values in their binary form."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.format = Format.BINARY


class Database:
    """Units of work on one database. Made by `open`."""

    def __init__(self, url: str, pool: AsyncConnectionPool[Connection], *, patience_seconds: float) -> None:
        self.url = url
        self._pool = pool
        self._patience_seconds = patience_seconds
        self._is_closed = False
        self._writing: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, url: str, *, connections: int, patience_seconds: float) -> "Database":
        """The database answers, is new enough, and has pgvector.

        `connections`: at most so many at a time. `patience_seconds`: how long a unit waits for a connection, and how
        long it is tried again when the server goes away under it. Raises `SettingsInvalid` and the storage errors.
        """
        await _inspect(url)
        pool = AsyncConnectionPool(
            url,
            connection_class=Connection,
            kwargs={**connection_options(), "cursor_factory": BinaryCursor},
            configure=set_up,
            min_size=1,
            max_size=connections,
            timeout=patience_seconds,
            max_waiting=connections * _WAITING_PER_CONNECTION,
            max_idle=_IDLE_SECONDS,
            max_lifetime=_LIFETIME_SECONDS,
            reconnect_timeout=_ASK_AGAIN_SECONDS / 2,
            name="polymem",
            open=False,
        )
        await pool.open()
        return cls(url, pool, patience_seconds=patience_seconds)

    async def read(self, unit: Unit[Result], *, in_snapshot: bool = False) -> Result:
        """What the unit returns. Each statement sees all that was committed before it; `in_snapshot`: all see the same.

        Raises the storage errors.
        """
        self._require_open()

        async def attempt(connection: Connection) -> Result:
            if not in_snapshot:
                return await unit(connection)
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                return await unit(connection)
            finally:
                await _end(connection, "COMMIT")

        return await self._run(attempt)

    async def write(self, unit: Unit[Result], *, was_stored: Unit[bool] | None = None) -> Result:
        """What the unit returns, once it is durable; a unit that raises stores nothing and its error is raised.

        When the answer to the commit is lost, `was_stored` is asked on another connection whether it went through;
        without it that is `StorageUnavailable`. A caller that goes away does not take its accepted unit back. Raises
        the storage errors.
        """
        self._require_open()
        # In a task of its own: cancelled half way, nobody could tell whether it was stored.
        writing = asyncio.create_task(self._write(unit, was_stored))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        return await asyncio.shield(writing)

    async def _write(self, unit: Unit[Result], was_stored: Unit[bool] | None) -> Result:
        async def attempt(connection: Connection) -> Result:
            await connection.execute("BEGIN")
            try:
                result = await unit(connection)
            except BaseException:
                await _end(connection, "ROLLBACK")
                raise
            try:
                await connection.execute("COMMIT")
            except psycopg.OperationalError as error:
                if not is_lost(error, connection):
                    raise
                raise _AnswerLost(result) from error
            return result

        try:
            return await self._run(attempt)
        except _AnswerLost as lost:
            if was_stored is None:
                raise StorageUnavailable(
                    "the database went away while it stored this; it may have been stored"
                ) from lost
            if await self._run(was_stored):
                result: Result = lost.result
                return result
        return await self._write(unit, was_stored)

    def _written(self, writing: asyncio.Task[Any]) -> None:
        """The unit has ended; an error of which nobody is left to be told is one of an abandoned call."""
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()

    async def alone(self) -> Connection:
        """A connection outside of the pool, for who keeps it: to listen, to build. Raises the storage errors."""
        with translated():
            connection = await psycopg.AsyncConnection.connect(self.url, **connection_options())
            try:
                await set_up(connection)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def close(self) -> None:
        """What was accepted is durable and every connection is closed; closing twice is harmless."""
        self._is_closed = True
        if self._writing:
            await asyncio.wait(self._writing, timeout=_CLOSING_SECONDS)
        await self._pool.close(timeout=_CLOSING_SECONDS)

    def _require_open(self) -> None:
        if self._is_closed:
            raise StorageUnavailable("the storage is closed")

    async def _run(self, unit: Unit[Result]) -> Result:
        """What the unit returns, run again while its connection is lost or others are in its way."""
        deadline = monotonic() + self._patience_seconds
        pause, collisions = _FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                return await self._run_once(unit)
            except _Again as again:
                is_collision = again.is_collision
                collisions += is_collision
                if monotonic() + pause > deadline or collisions > _COLLISIONS_BORNE:
                    raise again.meaning from again
            if not is_collision:
                await self._drop_lost()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self, unit: Unit[Result]) -> Result:
        """What the unit returns. Raises `_Again` when it may be run again, else the storage errors."""
        async with self._connection() as connection:
            try:
                return await unit(connection)
            except psycopg.Error as error:
                known = storage_error(error)
                if known is not None and (is_lost(error, connection) or is_collision(error)):
                    raise _Again(known, is_collision=is_collision(error)) from error
                if known is None:
                    raise
                raise known from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self._take()
        try:
            yield connection
        finally:
            await asyncio.shield(self._pool.putconn(connection))

    async def _take(self) -> Connection:
        """A connection of the pool. Raises `StorageUnavailable` when there is none in time.

        The pool stops trying to connect soon after the server went away, and tries again when it is asked again.
        """
        deadline = monotonic() + self._patience_seconds
        while True:
            left = deadline - monotonic()
            try:
                return await self._pool.getconn(timeout=max(0.0, min(left, _ASK_AGAIN_SECONDS)))
            except PoolTimeout as error:
                if left <= _ASK_AGAIN_SECONDS:
                    raise StorageUnavailable("the database gives no connection in time") from error
            except psycopg.Error as error:
                # Too many wait for a connection already, or the pool is being closed.
                raise StorageUnavailable("the database has no connection free") from error

    async def _drop_lost(self) -> None:
        """Idle connections that are lost, too, are replaced before a unit meets them."""
        await self._pool.check()


class _Again(Exception):
    """The unit was rolled back for a reason that may be gone at the next try."""

    def __init__(self, meaning: PolymemError, *, is_collision: bool) -> None:
        super().__init__(meaning.message)
        self.meaning = meaning
        self.is_collision = is_collision


class _AnswerLost(Exception):
    """The connection ended between the commit and its answer; `result` is what the unit gave."""

    def __init__(self, result: Any) -> None:
        super().__init__("the answer to a commit was lost")
        self.result = result


async def _end(connection: Connection, statement: str) -> None:
    """The transaction is over; on a lost connection the server ends it by itself."""
    if not connection.closed:
        await connection.execute(statement)


async def _inspect(url: str) -> None:
    """The server at `url` is one that we can work with. Raises `SettingsInvalid` and the storage errors."""
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise SettingsInvalid("setting database_url: not a postgresql:// URL") from error
    try:
        with translated():
            connection = await psycopg.AsyncConnection.connect(url, **connection_options())
    except StorageUnavailable as error:
        reason = _connection_refused(error.__cause__)
        raise (error if reason is None else SettingsInvalid(reason)) from error
    with translated():
        async with connection:
            await _require_versions(connection)


def _connection_refused(error: BaseException | None) -> str | None:
    """What is wrong with the URL, where the server says so while connecting: there psycopg tells it in words alone."""
    said = str(error)
    if "authentication failed" in said or "no password supplied" in said or "no pg_hba.conf entry" in said:
        return "setting database_url: the server refuses this user or password"
    if 'database "' in said and "does not exist" in said:
        return "setting database_url: the server has no such database"
    if 'role "' in said and "does not exist" in said:
        return "setting database_url: the server has no such user"
    if said.startswith("invalid ") or " invalid " in said:
        return "setting database_url: an option of the URL has a value that is not allowed"
    return None


async def _require_versions(connection: psycopg.AsyncConnection[Any]) -> None:
    major = connection.info.server_version // 10_000
    if major < OLDEST_POSTGRES:
        raise SettingsInvalid(
            f"setting database_url: PostgreSQL {major} is too old; {OLDEST_POSTGRES} or newer is needed"
        )
    cursor = await connection.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')"
    )
    row = await cursor.fetchone()
    installed, available = row if row is not None else (None, None)
    wanted = ".".join(str(part) for part in OLDEST_PGVECTOR)
    if installed is None and available is None:
        raise SettingsInvalid(f"setting database_url: the server lacks the extension pgvector {wanted} or newer")
    if installed is None:
        try:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject):
            installed = available  # another process was quicker
        except psycopg.errors.InsufficientPrivilege as error:
            raise SettingsInvalid(
                "setting database_url: this user may not install pgvector; an administrator runs"
                " CREATE EXTENSION vector in this database once"
            ) from error
        installed = available
    parts = tuple(int(part) for part in str(installed).split(".")[:2])
    if parts < OLDEST_PGVECTOR:
        raise SettingsInvalid(
            f"setting database_url: pgvector {installed} is too old; {wanted} or newer is needed"
            " (ALTER EXTENSION vector UPDATE)"
        )
