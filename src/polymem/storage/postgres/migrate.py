"""The schema of a database is this program's: numbered migrations, forward only, each applied once.

One process at a time: an advisory lock of the database holds the others up until the schema stands. A file whose first
line is `-- online` is run statement by statement outside of a transaction, for what must not lock a large table
(CREATE INDEX CONCURRENTLY); each of its statements must be harmless to run again, because a process may die between
two of them.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import psycopg

from polymem.storage.postgres.driver import Connection, translated
from polymem.storage.schema import Migration, lacking, migrations_in

# "pmem" in ASCII, and one number for each thing that one process at a time may do.
MIGRATING: Final = (0x706D656D, 1)

_LOCK_PAUSE_SECONDS: Final = 0.05
_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
  number  integer PRIMARY KEY,
  name    text NOT NULL,
  sha256  text NOT NULL
)
"""


def packaged_migrations() -> tuple[Migration, ...]:
    """The migrations that this program brings, in order."""
    return migrations_in("polymem.storage.postgres.migrations")


async def pending(connection: Connection, migrations: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """The migrations that the database still lacks.

    Raises `StorageDamaged` when it is one of a newer polymem, or its migrations are not those that we know.
    """
    known = packaged_migrations() if migrations is None else tuple(migrations)
    with translated():
        try:
            cursor = await connection.execute("SELECT number, name, sha256 FROM migrations ORDER BY number")
        except psycopg.errors.UndefinedTable:
            return known
        applied = await cursor.fetchall()
    return lacking(applied, known)


async def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> int:
    """The database has the given migrations (default: this program's); how many were applied.

    The connection is in autocommit mode and the caller's alone. Raises `StorageDamaged`, and the storage errors.
    """
    if not await pending(connection, migrations):
        return 0
    with translated():
        # Asked again and again, not waited for: building an index online waits for every other session's statement,
        # and one that waits for this lock would never end. The lock goes with the connection, however that ends.
        while not await _locked(connection):  # noqa: ASYNC110 - the lock is another process's, nothing here can tell
            await asyncio.sleep(_LOCK_PAUSE_SECONDS)
        try:
            await connection.execute(_TABLE)
            wanted = await pending(connection, migrations)
            for migration in wanted:
                await _apply(connection, migration)
            return len(wanted)
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s, %s)", MIGRATING)


async def _locked(connection: Connection) -> bool:
    cursor = await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", MIGRATING)
    return await cursor.fetchone() == (True,)


async def _apply(connection: Connection, migration: Migration) -> None:
    noted = (
        "INSERT INTO migrations (number, name, sha256) VALUES (%s, %s, %s)",
        (migration.number, migration.name, migration.sha256),
    )
    if migration.is_online:
        for statement in statements(migration.sql):
            await connection.execute(statement)
        await connection.execute(*noted)
        return
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(*noted)


def statements(sql: str) -> list[str]:
    """The statements of a file one by one; a semicolon ends a line and stands nowhere else in it."""
    without_comments = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    parts = [part.strip() for part in f"{without_comments}\n".split(";\n")]
    return [part for part in parts if part]
