from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polymem.bootstrap import distribute_tables
from polymem.config import Settings
from polymem.errors import SettingsInvalid
from polymem.storage.postgres.citus import DISTRIBUTED, LOCAL, REFERENCE, distribute
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from postgres import PostgresServer

_KEYS = """
SELECT c.relname, i.indexrelid::regclass::text,
  array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) AS k (number)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace
"""
_REFERENCES = """
SELECT c.conrelid::regclass::text, c.confrelid::regclass::text,
  array(SELECT a.attname::text FROM unnest(c.conkey) AS k (number)
    JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number)
FROM pg_constraint AS c WHERE c.contype = 'f'
"""


@pytest.fixture
async def connection(postgres_server: PostgresServer) -> AsyncIterator[Connection]:
    database = await Database.open(postgres_server.new_database(), connections=1, patience_seconds=5.0)
    async with await database.alone() as connection:
        yield connection
    await database.close()


async def test_every_table_of_the_schema_has_one_place(connection: Connection) -> None:
    cursor = await connection.execute(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND NOT relispartition AND relnamespace = 'public'::regnamespace"
    )
    assert sorted((*DISTRIBUTED, *REFERENCE, *LOCAL)) == sorted(name for (name,) in await cursor.fetchall())


async def test_every_unique_key_of_a_distributed_table_holds_the_tenant(connection: Connection) -> None:
    cursor = await connection.execute(_KEYS)
    keys = [(index, columns) for table, index, columns in await cursor.fetchall() if table in DISTRIBUTED]
    assert len(keys) >= len(DISTRIBUTED)
    assert [index for index, columns in keys if "tenant_id" not in columns] == []


async def test_a_distributed_table_refers_to_rows_of_its_own_tenant_alone(connection: Connection) -> None:
    cursor = await connection.execute(_REFERENCES)
    references = await cursor.fetchall()
    assert references
    assert [
        each for each in references if not {each[0], each[1]} <= set(DISTRIBUTED) or "tenant_id" not in each[2]
    ] == []


async def test_a_server_without_citus_is_told_apart_and_left_as_it_is(connection: Connection) -> None:
    with pytest.raises(SettingsInvalid, match="no Citus"):
        await distribute(connection)


async def test_the_command_needs_a_cluster(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="only the tables of PostgreSQL"):
        await distribute_tables(Settings(data_dir=tmp_path))
    with pytest.raises(SettingsInvalid, match="no Citus"):
        await distribute_tables(Settings(data_dir=tmp_path, database_url=postgres_server.new_database()))
