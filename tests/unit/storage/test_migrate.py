"""A database file has this program's schema, or is refused with words that say why."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from polymem.errors import StorageDamaged, StorageUnavailable
from polymem.storage.schema import Migration
from polymem.storage.sqlite import migrate as migrating
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.migrate import migrate, packaged_migrations

FIRST = Migration(
    "0001_first", "-- a; comment\nCREATE TABLE a (x TEXT DEFAULT 'se;mi');\nINSERT INTO a VALUES ('1');\n"
)
SECOND = Migration("0002_second", "CREATE TABLE b (x TEXT);\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\n"
                   "  INSERT INTO b VALUES (new.x);\nEND;\nINSERT INTO a VALUES ('2')")  # fmt: skip
BROKEN = Migration("0003_broken", "CREATE TABLE c (x TEXT);\nINSERT INTO nowhere VALUES (1);")


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


def test_the_packaged_migrations_are_numbered_without_a_gap() -> None:
    numbers = [migration.number for migration in packaged_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("exists_empty", [False, True])
def test_a_missing_or_empty_file_becomes_a_database(path: Path, *, exists_empty: bool) -> None:
    if exists_empty:
        path.touch()
    migrate(path)
    assert _rows(path, "SELECT number, name, sha256 FROM migrations") == [
        (migration.number, migration.name, migration.sha256) for migration in packaged_migrations()
    ]
    assert _rows(path, "PRAGMA application_id") == [(migrating.APPLICATION_ID,)]
    assert _rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_only_what_is_missing_is_applied_and_only_once(path: Path) -> None:
    migrate(path, [FIRST])
    assert _rows(path, "SELECT x FROM a") == [("1",)]
    for _ in range(2):
        migrate(path, [FIRST, SECOND])
        assert _rows(path, "SELECT x FROM a") == [("1",), ("2",)]
        assert _rows(path, "SELECT x FROM b") == [("2",)]
    assert _rows(path, "SELECT name FROM migrations ORDER BY number") == [("0001_first",), ("0002_second",)]


def test_a_migration_that_fails_leaves_the_database_as_the_one_before_left_it(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(path, [FIRST, SECOND, BROKEN])
    assert _rows(path, "SELECT count(*) FROM migrations") == [(2,)]
    assert _rows(path, "SELECT name FROM sqlite_schema WHERE name = 'c'") == []
    migrate(path, [FIRST, SECOND])


def test_a_changed_migration_is_refused(path: Path) -> None:
    migrate(path, [FIRST, SECOND])
    with pytest.raises(StorageDamaged, match="migration 0001_first was changed after the database was made"):
        migrate(path, [Migration(FIRST.name, FIRST.sql + "-- later"), SECOND])


def test_a_database_of_a_newer_program_is_refused(path: Path) -> None:
    migrate(path, [FIRST, SECOND])
    with pytest.raises(StorageDamaged, match=r"written by a newer polymem \(migration 0002_second\); upgrade"):
        migrate(path, [FIRST])


def test_a_database_with_another_history_is_refused(path: Path) -> None:
    migrate(path, [FIRST, SECOND])
    with pytest.raises(StorageDamaged, match="has migration 0002_second where this polymem has 0002_other"):
        migrate(path, [FIRST, Migration("0002_other", SECOND.sql)])


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE migrations (number INTEGER)")
    with pytest.raises(StorageDamaged, match="belongs to another program"):
        migrate(path)
    assert _rows(path, "SELECT name FROM sqlite_schema") == [("migrations",)]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"a letter to a friend\n" * 400)
    with pytest.raises(StorageDamaged, match="damaged or not a database"):
        migrate(path)
    assert path.read_bytes() == b"a letter to a friend\n" * 400


def test_a_file_that_was_cut_off_is_refused(path: Path) -> None:
    migrate(path)
    with path.open("r+b") as file:
        file.truncate(2 * 4096 + 100)
    with pytest.raises(StorageDamaged):
        migrate(path)


def test_an_older_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(StorageUnavailable, match=r"is too old: 99\.0\.0 or newer is needed"):
        migrate(path)


def test_several_that_open_a_new_database_at_once_migrate_it_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: migrate(path, [FIRST, SECOND]), range(8)))
    assert _rows(path, "SELECT x FROM a") == [("1",), ("2",)]


async def test_several_databases_open_on_one_new_file_at_once(path: Path) -> None:
    opened = await asyncio.gather(*(Database.open(path, reader_count=1) for _ in range(6)))
    await asyncio.gather(*(database.close() for database in opened))
    assert _rows(path, "SELECT count(*) FROM migrations") == [(len(packaged_migrations()),)]
