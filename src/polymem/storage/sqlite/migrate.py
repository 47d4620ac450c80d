"""The schema of a database file is this program's: numbered migrations, forward only, each applied once."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from polymem.errors import StorageDamaged, StorageUnavailable
from polymem.storage.schema import Migration, lacking, migrations_in
from polymem.storage.sqlite.driver import OLDEST_SQLITE, connect, storage_error

# "pmem" in ASCII: marks the file as ours, for `file` and for us.
APPLICATION_ID: Final = 0x706D656D

_TABLE = """
CREATE TABLE migrations (
  number  INTEGER PRIMARY KEY,
  name    TEXT NOT NULL,
  sha256  TEXT NOT NULL
) STRICT
"""


def packaged_migrations() -> tuple[Migration, ...]:
    """The migrations that this program brings, in order."""
    return migrations_in("polymem.storage.sqlite.migrations")


def migrate(path: Path, migrations: Sequence[Migration] | None = None) -> None:
    """The database at `path` has the given migrations (default: this program's); safe in several processes at once.

    A missing or empty file becomes a new database. Raises `StorageDamaged` when the file is no database, one of
    another program, one of a newer polymem, or its migrations are not those that we know.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(str(part) for part in OLDEST_SQLITE)
        raise StorageUnavailable(f"SQLite {sqlite3.sqlite_version} is too old: {wanted} or newer is needed")
    known = packaged_migrations() if migrations is None else tuple(migrations)
    try:
        with closing(connect(path)) as connection:
            while _applied_count(connection, known) < len(known):
                _apply_next(connection, known)
    except sqlite3.Error as error:
        meaning = storage_error(error)
        if meaning is None:
            raise
        raise meaning from error


def _applied_count(connection: sqlite3.Connection, known: Sequence[Migration]) -> int:
    """How many of the known migrations the database has; it has no others. Raises `StorageDamaged` otherwise."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    if not tables:
        return 0
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID or "migrations" not in tables:
        raise StorageDamaged("the database file belongs to another program")
    applied = connection.execute("SELECT number, name, sha256 FROM migrations ORDER BY number").fetchall()
    return len(known) - len(lacking(applied, known))


def _apply_next(connection: sqlite3.Connection, known: Sequence[Migration]) -> None:
    """One more migration is applied, unless another process did it while we waited for the lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        count = _applied_count(connection, known)
        if count < len(known):
            _apply(connection, known[count], is_first=count == 0)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _apply(connection: sqlite3.Connection, migration: Migration, *, is_first: bool) -> None:
    if is_first:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(_TABLE)
    for statement in _statements(migration.sql):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO migrations (number, name, sha256) VALUES (?, ?, ?)",
        (migration.number, migration.name, migration.sha256),
    )


def _statements(sql: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would commit the transaction around them."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
