import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from polymem.errors import SettingsInvalid, StorageFull, StorageReadOnly, StorageUnavailable
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection, storage_error
from postgres import PostgresServer, opened, running_postgres
from wire import Wire


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database(is_empty=True)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with opened(url) as database:
        await database.write(make_table)
        yield database


async def make_table(connection: Connection) -> None:
    await connection.execute("CREATE TABLE things (name text PRIMARY KEY)")


async def add(connection: Connection, name: str) -> str:
    await connection.execute("INSERT INTO things VALUES (%s)", (name,))
    return name


async def names(connection: Connection) -> list[str]:
    cursor = await connection.execute("SELECT name FROM things ORDER BY name")
    return [name for (name,) in await cursor.fetchall()]


async def backend(connection: Connection) -> int:
    return connection.info.backend_pid


async def test_what_a_unit_wrote_is_there_for_the_next_one(database: Database) -> None:
    assert await database.write(lambda connection: add(connection, "a")) == "a"
    assert await database.read(names) == ["a"]


async def test_a_unit_that_raises_stores_nothing(database: Database) -> None:
    async def unit(connection: Connection) -> None:
        await add(connection, "a")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(unit)
    assert await database.read(names) == []


async def test_a_mistake_of_ours_is_no_storage_error(database: Database) -> None:
    await database.write(lambda connection: add(connection, "a"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await database.write(lambda connection: add(connection, "a"))


async def test_all_statements_of_a_snapshot_see_the_same(database: Database) -> None:
    async def unit(connection: Connection) -> tuple[list[str], list[str]]:
        before = await names(connection)
        await database.write(lambda other: add(other, "a"))
        return before, await names(connection)

    assert await database.read(unit, in_snapshot=True) == ([], [])
    assert await database.read(names) == ["a"]


async def test_a_connection_that_the_server_ended_is_replaced_without_a_word(
    database: Database, postgres_server: PostgresServer
) -> None:
    pids = [await database.read(backend) for _ in range(2)]
    for pid in set(pids):
        postgres_server.run(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert await database.write(lambda connection: add(connection, "a")) == "a"
    assert await database.read(names) == ["a"]


# One connection: another that is being opened says COMMIT, too, and the cut could fall on that.


async def test_a_unit_is_run_again_when_the_wire_is_cut_under_it(url: str, wire: Wire) -> None:
    async with opened(_through(url, wire), connections=1) as database:
        await database.write(make_table)
        wire.cut_before(b"INSERT")
        assert await database.write(lambda connection: add(connection, "a")) == "a"
        assert (await database.read(names), wire.cuts) == (["a"], 1)


async def test_a_commit_whose_answer_was_lost_is_asked_for_and_not_done_twice(url: str, wire: Wire) -> None:
    runs = 0

    async def unit(connection: Connection) -> str:
        nonlocal runs
        runs += 1
        return await add(connection, "a")

    async def was_stored(connection: Connection) -> bool:
        return await names(connection) == ["a"]

    async with opened(_through(url, wire), connections=1) as database:
        await database.write(make_table)
        wire.cut_after(b"COMMIT")
        assert await database.write(unit, was_stored=was_stored) == "a"
        assert (await database.read(names), wire.cuts, runs) == (["a"], 1, 1)


async def test_a_commit_that_was_lost_with_its_answer_is_done_again(url: str, wire: Wire) -> None:
    async with opened(_through(url, wire), connections=1) as database:
        await database.write(make_table)
        wire.cut_before(b"COMMIT")
        stored = await database.write(
            lambda connection: add(connection, "a"), was_stored=lambda connection: _holds(connection, "a")
        )
        assert (stored, await database.read(names)) == ("a", ["a"])


async def test_without_a_way_to_ask_a_lost_answer_is_told(url: str, wire: Wire) -> None:
    async with opened(_through(url, wire), connections=1) as database:
        await database.write(make_table)
        wire.cut_after(b"COMMIT")
        with pytest.raises(StorageUnavailable, match="may have been stored"):
            await database.write(lambda connection: add(connection, "a"))


async def test_units_that_wait_for_each_other_both_come_through(database: Database) -> None:
    await database.write(lambda connection: add(connection, "a"))
    await database.write(lambda connection: add(connection, "b"))
    both = asyncio.Barrier(2)
    tries = {"a": 0, "b": 0}

    async def lock(connection: Connection, first: str, second: str) -> None:
        tries[first] += 1
        await connection.execute("UPDATE things SET name = name WHERE name = %s", (first,))
        if tries[first] == 1:
            await both.wait()
        await connection.execute("UPDATE things SET name = name WHERE name = %s", (second,))

    async with asyncio.timeout(30):
        await asyncio.gather(
            database.write(lambda connection: lock(connection, "a", "b")),
            database.write(lambda connection: lock(connection, "b", "a")),
        )
    assert sorted(tries.values()) == [1, 2]


async def test_a_caller_that_finds_no_connection_free_is_told_in_time(url: str) -> None:
    async with opened(url, connections=1, patience_seconds=0.2) as database:
        held, release = asyncio.Event(), asyncio.Event()

        async def hold(connection: Connection) -> None:
            await backend(connection)
            held.set()
            await release.wait()

        holder = asyncio.create_task(database.read(hold))
        await held.wait()
        with pytest.raises(StorageUnavailable, match="no connection"):
            await database.read(backend)
        release.set()
        await holder


async def test_a_closed_database_refuses(url: str) -> None:
    async with opened(url) as database:
        await database.close()
        with pytest.raises(StorageUnavailable):
            await database.read(backend)


async def test_a_read_only_database_says_so(database: Database, postgres_server: PostgresServer, url: str) -> None:
    assert await database.read(names) == []
    name = url.partition("?")[0].rpartition("/")[2]
    postgres_server.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with opened(url) as late:
        with pytest.raises(StorageReadOnly):
            await late.write(lambda connection: add(connection, "a"))
        assert await late.read(names) == []


def test_a_full_disk_is_told_as_one() -> None:
    assert isinstance(storage_error(psycopg.errors.DiskFull()), StorageFull)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("postgresql://postgres@/nowhere?host={folder}", "no such database"),
        ("postgresql://nobody@/postgres?host={folder}", "no such user"),
        ("postgresql://postgres@/postgres?host={folder}&sslmode=perhaps", "a value that is not allowed"),
        ("not a url", "not a postgresql:// URL"),
    ],
)
async def test_a_url_that_opens_nothing_names_its_setting(
    given: str, said: str, postgres_server: PostgresServer
) -> None:
    with pytest.raises(SettingsInvalid, match=f"setting database_url: .*{said}"):
        await Database.open(given.format(folder=postgres_server.folder), connections=1, patience_seconds=1)


async def test_a_server_that_is_not_there_is_no_mistake_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await Database.open(f"postgresql://postgres@/postgres?host={tmp_path}", connections=1, patience_seconds=1)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


async def test_a_server_that_was_killed_serves_again_without_a_restart_of_ours(own_server: PostgresServer) -> None:
    async with opened(own_server.new_database(is_empty=True), patience_seconds=10.0) as database:
        await database.write(make_table)
        await database.write(lambda connection: add(connection, "a"))
        own_server.stop(at_once=True)
        waiting = asyncio.create_task(database.write(lambda connection: add(connection, "b")))
        await asyncio.to_thread(own_server.start)
        assert await waiting == "b"
        assert await database.read(names) == ["a", "b"]


async def _holds(connection: Connection, name: str) -> bool:
    return name in await names(connection)


def _through(url: str, wire: Wire) -> str:
    return f"{url.partition('?')[0]}?host={wire.folder}"
