import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from polymem.errors import StorageDamaged
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.migrate import migrate, packaged_migrations, pending, statements
from polymem.storage.schema import Migration
from postgres import PostgresServer

FIRST = Migration("0001_first", "CREATE TABLE first (number integer);\nINSERT INTO first VALUES (1);\n")
SECOND = Migration(
    "0002_second", "-- online\nCREATE INDEX CONCURRENTLY IF NOT EXISTS firsts\n  ON first (number);\nSELECT 1;\n"
)
BROKEN = Migration("0002_broken", "INSERT INTO first VALUES (2);\nSELECT nonsense;\n")


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database(is_empty=True)


@pytest.fixture
async def connections(url: str) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        database = await Database.open(url, connections=1, patience_seconds=5.0)
        stack.push_async_callback(database.close)
        yield [await stack.enter_async_context(await database.alone()) for _ in range(2)]


async def numbers(connection: Connection) -> list[int]:
    cursor = await connection.execute("SELECT number FROM first ORDER BY number")
    return [number for (number,) in await cursor.fetchall()]


async def test_each_migration_is_applied_once(connections: list[Connection]) -> None:
    connection = connections[0]
    assert await pending(connection, [FIRST]) == (FIRST,)
    assert await migrate(connection, [FIRST]) == 1
    assert await migrate(connection, [FIRST]) == 0
    assert await migrate(connection, [FIRST, SECOND]) == 1
    assert await numbers(connection) == [1]


async def test_of_processes_that_migrate_at_once_one_does_it(connections: list[Connection]) -> None:
    assert sorted(await asyncio.gather(*(migrate(each, [FIRST, SECOND]) for each in connections))) == [0, 2]
    assert await numbers(connections[0]) == [1]


async def test_a_migration_that_fails_leaves_nothing_and_can_be_tried_again(connections: list[Connection]) -> None:
    connection = connections[0]
    with pytest.raises(StorageDamaged):
        await migrate(connection, [FIRST, BROKEN])
    assert await numbers(connection) == [1]
    assert await migrate(connection, [FIRST, SECOND]) == 1


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([], "a newer polymem"),
        ([Migration("0001_other", FIRST.sql)], "where this polymem has 0001_other"),
        ([Migration("0001_first", "SELECT 1;\n")], "was changed"),
    ],
)
async def test_a_database_of_another_program_version_is_refused(
    connections: list[Connection], known: list[Migration], said: str
) -> None:
    await migrate(connections[0], [FIRST])
    with pytest.raises(StorageDamaged, match=said):
        await migrate(connections[0], known)


def test_an_online_migration_is_cut_into_its_statements() -> None:
    assert statements(SECOND.sql) == [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS firsts\n  ON first (number)",
        "SELECT 1",
    ]


def test_the_packaged_migrations_are_numbered_from_one() -> None:
    assert [migration.number for migration in packaged_migrations()] == [
        number + 1 for number in range(len(packaged_migrations()))
    ]
