"""Bad days of a database server: what a caller is told, and that it works again without a restart of ours."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from polymem.errors import SettingsInvalid, StorageUnavailable
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from postgres import PostgresServer, opened, running_postgres, standby_of

RESERVED_FOR_SUPERUSERS = 3


async def make_table(connection: Connection) -> None:
    await connection.execute("CREATE TABLE things (number integer PRIMARY KEY)")


async def add(connection: Connection, number: int) -> None:
    await connection.execute("INSERT INTO things VALUES (%s)", (number,))


async def holds(connection: Connection, number: int) -> bool:
    cursor = await connection.execute("SELECT 1 FROM things WHERE number = %s", (number,))
    return await cursor.fetchone() is not None


async def numbers(connection: Connection) -> list[int]:
    cursor = await connection.execute("SELECT number FROM things ORDER BY number")
    return [number for (number,) in await cursor.fetchall()]


async def test_a_server_that_is_too_old_is_refused_by_its_version() -> None:
    with (
        running_postgres("pginstall") as server,
        pytest.raises(SettingsInvalid, match="PostgreSQL 16 is too old; 17 or newer is needed"),
    ):
        await Database.open(server.url("postgres"), connections=1, patience_seconds=1.0)


async def test_a_server_without_pgvector_is_refused_by_what_it_lacks() -> None:
    with (
        running_postgres(extension_control_path="/nonexistent") as server,
        pytest.raises(SettingsInvalid, match=r"lacks the extension pgvector 0\.8 or newer"),
    ):
        await Database.open(server.url("postgres"), connections=1, patience_seconds=1.0)


async def test_a_user_who_may_not_install_pgvector_is_told_who_can(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database(is_empty=True)
    name = url.partition("?")[0].rpartition("/")[2]
    postgres_server.run("DROP ROLE IF EXISTS plain")
    postgres_server.run("CREATE ROLE plain LOGIN")
    own = url.replace("postgres@", "plain@")
    with pytest.raises(SettingsInvalid, match="an administrator runs CREATE EXTENSION vector"):
        await Database.open(own, connections=1, patience_seconds=1.0)
    postgres_server.run("CREATE EXTENSION vector", name)
    async with opened(own) as database:
        with pytest.raises(SettingsInvalid, match="must own its tables"):
            await database.write(make_table)


@pytest.fixture
def narrow() -> Iterator[PostgresServer]:
    with running_postgres(max_connections=str(RESERVED_FOR_SUPERUSERS + 3)) as server:
        server.run("CREATE ROLE plain LOGIN SUPERUSER")
        yield server


async def test_a_server_out_of_connections_is_told_and_used_again_when_it_has_some(narrow: PostgresServer) -> None:
    url = narrow.new_database(is_empty=True)
    narrow.run("ALTER ROLE plain NOSUPERUSER")
    narrow.run("CREATE EXTENSION vector", url.partition("?")[0].rpartition("/")[2])
    own = url.replace("postgres@", "plain@")
    async with opened(own, connections=1, patience_seconds=0.5) as database:
        await database.read(lambda connection: connection.execute("SELECT 1"))
        narrow.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'plain'")
        with ExitStack() as others:
            for _ in range(3):
                others.enter_context(psycopg.connect(own))
            with pytest.raises(StorageUnavailable):
                await database.read(lambda connection: connection.execute("SELECT 1"))
        async with asyncio.timeout(20):
            while not await _answers(database):  # noqa: ASYNC110 - the server frees a connection when it likes to
                await asyncio.sleep(0.05)


async def _answers(database: Database) -> bool:
    try:
        await database.read(lambda connection: connection.execute("SELECT 1"))
    except StorageUnavailable:
        return False
    return True


async def test_writes_go_on_at_the_standby_that_took_over_and_none_is_lost_or_done_twice() -> None:
    with running_postgres(wal_level="replica", max_wal_senders="4", fsync="on") as primary:
        url = primary.new_database(is_empty=True)
        with standby_of(primary) as standby:
            primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.run("SELECT pg_reload_conf()")
            folders = f"host={primary.folder},{standby.folder}&target_session_attrs=read-write"
            async with opened(f"{url.partition('?')[0]}?{folders}", patience_seconds=30.0) as database:
                await database.write(make_table)
                written = 0

                async def write() -> None:
                    nonlocal written
                    number = written + 1
                    await database.write(lambda c: add(c, number), was_stored=lambda c: holds(c, number))
                    written = number

                async def write_until(count: int) -> None:
                    while written < count:
                        await write()

                await write_until(20)
                going_on = asyncio.create_task(write_until(60))
                await asyncio.to_thread(primary.stop, at_once=True)
                await asyncio.to_thread(standby.promote)
                async with asyncio.timeout(60):
                    await going_on
                assert await database.read(numbers) == list(range(1, written + 1))


def test_the_servers_of_the_tests_are_the_ones_that_they_say() -> None:
    with running_postgres("pginstall") as old:
        said = subprocess.run([old.binaries / "postgres", "--version"], capture_output=True, text=True, check=True)
        assert old.run("SHOW server_version")[0][0] in said.stdout
