"""Full disks, read-only and damaged files: a clear error, nothing lost, nothing half written."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from polymem.errors import (
    DataDirectoryLocked,
    PolymemError,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from polymem.ports.changes import Applied, IndexEntry, PutMemory
from polymem.storage.sqlite.driver import connect, storage_error
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, memory_of

HERE = Path(__file__).parent
NOW = AT
ACCOUNT = account_of("acme")
TENANT, SPACE = ACCOUNT.tenant.id, ACCOUNT.space.id
SPACES = frozenset({SPACE})


def _put(number: int, size: int = 2000) -> PutMemory:
    content = f"{number} " * (size // 5)
    memory = memory_of(ACCOUNT, f"m{number:05}", content=content, tags=("a", f"t{number}"))
    return PutMemory(memory=memory, index=IndexEntry(terms=(f"word{number}", "common"), embedding=None))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    opened = await SqliteStorage.open(tmp_path, reader_count=1)
    await opened.directory.create_account(ACCOUNT)
    yield opened
    await opened.close()


async def _fill(storage: SqliteStorage, *, start: int = 0) -> int:
    """How many memories were acknowledged, one commit each, before the first failure; that is raised."""
    store, number = storage.tenant(TENANT), start
    try:
        while number < start + 2000:
            result = await store.commit([_put(number)], now=NOW)
            assert isinstance(result, Applied)
            number += 1
    except PolymemError as error:
        error.add_note(str(number))
        raise
    return number


async def _assert_exactly(storage: SqliteStorage, count: int) -> None:
    store = storage.tenant(TENANT)
    expected = {put.memory.id: put.memory for put in map(_put, range(count))}
    assert await store.get_memories([_put(number).memory.id for number in range(count + 5)], SPACES) == expected
    assert (await store.count_memories(), await store.change_no()) == (count, count)
    assert [finding for finding in await storage.check() if not finding.is_ok] == []


async def test_a_full_disk_refuses_the_commit_and_keeps_every_acknowledged_one(storage: SqliteStorage) -> None:
    def limit(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 40}")

    await storage._database.write(limit)
    with pytest.raises(StorageFull) as raised:
        await _fill(storage)
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    count = int(raised.value.__notes__[0])
    assert count > 3
    await _assert_exactly(storage, count)
    await storage._database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    await storage.tenant(TENANT).commit([_put(count)], now=NOW)
    await _assert_exactly(storage, count + 1)


async def test_a_storage_that_cannot_be_written_says_so_and_still_reads(storage: SqliteStorage) -> None:
    store = storage.tenant(TENANT)
    await store.commit([_put(0)], now=NOW)
    await storage._database.write(lambda connection: connection.execute("PRAGMA query_only = ON"))
    with pytest.raises(StorageReadOnly):
        await store.commit([_put(1)], now=NOW)
    with pytest.raises(StorageReadOnly):
        await storage.ping()
    await _assert_exactly(storage, 1)
    storage._database._writer_connection.execute("PRAGMA query_only = OFF")
    await storage.ping()


async def test_a_file_that_is_no_database_is_damaged_and_leaves_the_directory_free(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(os.urandom(64) * 400)
    for owns_directory in (True, False, True):
        with pytest.raises(StorageDamaged):
            await SqliteStorage.open(tmp_path, owns_directory=owns_directory)
    (tmp_path / DATABASE_FILE).unlink()
    storage = await SqliteStorage.open(tmp_path)
    await storage.ping()
    await storage.close()


async def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, storage: SqliteStorage) -> None:
    await storage.tenant(TENANT).commit([_put(number) for number in range(50)], now=NOW)
    await storage.close()
    path = tmp_path / DATABASE_FILE
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StorageDamaged):
        await SqliteStorage.open(tmp_path)


async def test_pages_that_were_overwritten_are_damaged_and_not_guessed_at(
    tmp_path: Path, storage: SqliteStorage
) -> None:
    await storage.tenant(TENANT).commit([_put(number) for number in range(50)], now=NOW)
    await storage.close()
    path = tmp_path / DATABASE_FILE
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'memories'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    again = await SqliteStorage.open(tmp_path)
    try:
        with pytest.raises(StorageDamaged):
            await again.tenant(TENANT).get_memories([_put(0).memory.id], SPACES)
        with pytest.raises(StorageDamaged):
            await again.tenant(TENANT).commit([_put(99)], now=NOW)
    finally:
        await again.close()


async def test_a_data_directory_that_is_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        await SqliteStorage.open(tmp_path / "data")


async def test_a_second_server_is_refused_and_the_command_line_is_not(tmp_path: Path, storage: SqliteStorage) -> None:
    with pytest.raises(DataDirectoryLocked):
        await SqliteStorage.open(tmp_path)
    beside = await SqliteStorage.open(tmp_path, owns_directory=False)
    await beside.tenant(TENANT).commit([_put(0)], now=NOW)
    await beside.close()
    await _assert_exactly(storage, 1)


async def test_a_new_data_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    storage = await SqliteStorage.open(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await storage.close()


_OPEN_AS_NOBODY = """
import asyncio, os, sys
from pathlib import Path
from polymem.errors import PolymemError
from polymem.storage.sqlite.storage import SqliteStorage
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
try:
    asyncio.run(SqliteStorage.open(Path(sys.argv[1])))
except PolymemError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_a_directory_that_may_not_be_written_is_read_only(
    tmp_path_factory: pytest.TempPathFactory, *, is_there: bool
) -> None:
    base = tmp_path_factory.mktemp("sealed")
    directory = base / "data"
    if is_there:
        directory.mkdir()
        directory.chmod(0o555)
    for parent in (base, *base.parents[:2]):
        parent.chmod(0o555 if parent == base else parent.stat().st_mode | 0o011)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _OPEN_AS_NOBODY, str(directory)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        base.chmod(0o700)
    assert done.stdout == f"StorageReadOnly the data directory {directory} cannot be written\n"


_FILL_SMALL_FILES = """
import asyncio, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_faults as faults
from polymem.errors import PolymemError
from polymem.storage.sqlite.storage import SqliteStorage

async def main():
    storage = await SqliteStorage.open(Path(sys.argv[1]))
    await storage.directory.create_account(faults.ACCOUNT)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    try:
        await faults._fill(storage)
    except PolymemError as error:
        print(type(error).__name__, *error.__notes__, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await storage.ping()
    await storage.close()

asyncio.run(main())
"""


async def _assert_opens_with(directory: Path, counts: set[int]) -> None:
    """Everything acknowledged is there, whole, and nothing else."""
    storage = await SqliteStorage.open(directory)
    stored = await storage.tenant(TENANT).count_memories()
    assert stored in counts
    await _assert_exactly(storage, stored)
    await storage.close()


def test_a_disk_that_does_not_write_refuses_the_commit_and_keeps_every_acknowledged_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FILL_SMALL_FILES, str(tmp_path), str(HERE), str(HERE.parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    name, count = done.stdout.split()
    assert name in {"StorageUnavailable", "StorageFull"}
    assert int(count) > 3
    asyncio.run(_assert_opens_with(tmp_path, {int(count)}))


_FILL_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_faults as faults
from polymem.storage.sqlite.storage import SqliteStorage

async def main():
    storage = await SqliteStorage.open(Path(sys.argv[1]))
    await storage.directory.create_account(faults.ACCOUNT)
    for number in range(100000):
        await storage.tenant(faults.TENANT).commit([faults._put(number)], now=faults.NOW)
        print(number, flush=True)

asyncio.run(main())
"""


def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FILL_UNTIL_KILLED, str(tmp_path), str(HERE), str(HERE.parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(60):
            assert process.stdout.readline() != ""
        process.send_signal(signal.SIGKILL)
        acknowledged = 60 + len(process.stdout.readlines())
    # What was stored when the signal came may not have been acknowledged yet.
    asyncio.run(_assert_opens_with(tmp_path, {acknowledged, acknowledged + 1}))


def test_a_connection_to_a_file_in_no_directory_says_that_it_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as raised:
        connect(tmp_path / "nowhere" / "test.db")
    assert type(storage_error(raised.value)) is StorageUnavailable


def test_an_error_without_a_code_says_nothing_about_the_storage() -> None:
    assert storage_error(sqlite3.ProgrammingError("closed")) is None
