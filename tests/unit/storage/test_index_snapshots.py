"""Files of the index beside the database: read only when they are the right ones, and never needed."""

import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from polymem.domain.model import MemoryId
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import DeleteMemory, IndexEntry, PutMemory, UpdateMemory
from polymem.ports.search import ArmHit, WordsFound
from polymem.storage.sqlite import index_snapshots, vectors
from polymem.storage.sqlite.index_documents import Documents
from polymem.storage.sqlite.storage import DATABASE_FILE, SqliteStorage
from samples import AT, account_of, memory_of

ACCOUNT = account_of("acme")
TENANT, SPACE = ACCOUNT.tenant.id, ACCOUNT.space.id
WHERE = MemoryFilter(spaces=frozenset({SPACE}))
TERMS = ("common", "w3", "new", "SECRETWORD")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_snapshots, "FEWEST_MEMORIES", 10)
    monkeypatch.setattr(vectors, "FEWEST_MEMORIES", 10)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The change number of every file that was read and believed."""
    found: list[int] = []
    unpack = Documents.unpack

    def noting(arrays: dict[str, object]) -> Documents:
        documents = unpack(arrays)  # type: ignore[arg-type]
        found.append(documents.change_no)
        return documents

    monkeypatch.setattr(Documents, "unpack", noting)
    return found


def put(number: int, *words: str) -> PutMemory:
    memory = memory_of(ACCOUNT, f"m{number:03}")
    return PutMemory(memory=memory, index=IndexEntry(terms=("common", f"w{number}", *words), embedding=None))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[SqliteStorage]:
    storage = await SqliteStorage.open(directory)
    try:
        yield storage
    finally:
        await storage.close()


async def answers(storage: SqliteStorage) -> tuple[object, ...]:
    index = storage.search(TENANT)
    return await index.lexical(TERMS, WHERE, limit=100), await index.words(TERMS, TERMS, WHERE, limit=9, most=2)


async def fill(directory: Path) -> tuple[object, ...]:
    """A directory with 30 memories, closed after a recall; what the recall gave."""
    async with opened(directory) as storage:
        await storage.directory.create_account(ACCOUNT)
        await storage.tenant(TENANT).commit([put(number) for number in range(30)], now=AT)
        return await answers(storage)


async def reopened(directory: Path) -> tuple[object, ...]:
    async with opened(directory) as storage:
        return await answers(storage)


def files(directory: Path) -> list[Path]:
    return sorted((directory / "index").glob("*"))


async def test_after_a_clean_stop_the_index_is_read_from_its_file_and_is_the_same(
    tmp_path: Path, packed: list[int]
) -> None:
    before = await fill(tmp_path)
    assert [file.suffix for file in files(tmp_path)] == [".npz"]
    assert files(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    assert packed == []
    written = files(tmp_path)[0].stat().st_mtime_ns
    assert await reopened(tmp_path) == before
    assert len(packed) == 1
    assert files(tmp_path)[0].stat().st_mtime_ns == written


async def test_what_came_after_the_file_is_read_from_the_rows(tmp_path: Path, packed: list[int]) -> None:
    await fill(tmp_path)
    async with opened(tmp_path) as storage:
        store = storage.tenant(TENANT)
        changed = UpdateMemory(
            memory=memory_of(ACCOUNT, "m003", revision=2),
            index=IndexEntry(terms=("common", "new"), embedding=None),
            expected_revision=1,
            replaced_by=None,
            reason="test",
        )
        deleted = DeleteMemory(memory_id=MemoryId("m005"), spaces=frozenset({SPACE}))
        await store.commit([put(40, "new"), changed, deleted], now=AT)
        after = await answers(storage)
    # Nothing was loaded before the changes, so the first answer read the file and then the rows.
    assert len(packed) == 1
    hits = after[0]
    assert isinstance(hits, tuple)
    assert {hit.memory_id for hit in hits} == {f"m{n:03}" for n in (*range(30), 40)} - {"m005"}
    again = await reopened(tmp_path)
    assert again == after
    assert len(packed) == 2
    shutil.rmtree(tmp_path / "index")
    assert await reopened(tmp_path) == after
    assert len(packed) == 2


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing", "no archive"])
async def test_a_file_that_is_not_the_known_one_is_not_read(tmp_path: Path, packed: list[int], harm: str) -> None:
    before = await fill(tmp_path)
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes({"cut": bytes(content[: len(content) // 2]), "empty": b"", "no archive": b"no"}[harm])
    assert await reopened(tmp_path) == before
    assert packed == []


async def test_a_known_file_that_holds_something_else_is_not_read(tmp_path: Path, packed: list[int]) -> None:
    before = await fill(tmp_path)
    (file,) = files(tmp_path)
    for content in (b"no archive", b""):
        file.write_bytes(content)
        stamp = hashlib.blake2b(content).hexdigest()
        with closing(sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)) as connection:
            connection.execute("UPDATE index_snapshots SET stamp = ?", (stamp,))
        assert await reopened(tmp_path) == before
        assert packed == []


async def test_a_database_put_back_as_it_was_before_the_file_does_not_take_it(
    tmp_path: Path, packed: list[int]
) -> None:
    async with opened(tmp_path) as storage:
        await storage.directory.create_account(ACCOUNT)
        await storage.tenant(TENANT).commit([put(number) for number in range(20)], now=AT)
    kept = (tmp_path / DATABASE_FILE).read_bytes()
    async with opened(tmp_path) as storage:
        await storage.tenant(TENANT).commit([put(50, "SECRETWORD")], now=AT)
        await answers(storage)
    (tmp_path / DATABASE_FILE).write_bytes(kept)
    async with opened(tmp_path) as storage:
        await storage.tenant(TENANT).commit([put(60), put(61)], now=AT)
        hits, statistics = await answers(storage)
    assert isinstance(hits, tuple)
    assert "m050" not in {hit.memory_id for hit in hits if isinstance(hit, ArmHit)}
    assert isinstance(statistics, WordsFound)
    assert statistics.statistics.documents_with["SECRETWORD"] == 0
    assert packed == []


async def test_what_was_deleted_is_in_no_file_after_a_purge_and_in_none_written_later(tmp_path: Path) -> None:
    secret = "vvvvvvvvvvvv-secret-id"
    async with opened(tmp_path) as storage:
        await storage.directory.create_account(ACCOUNT)
        hidden = PutMemory(
            memory=memory_of(ACCOUNT, secret), index=IndexEntry(terms=("common", "SECRETWORD"), embedding=None)
        )
        await storage.tenant(TENANT).commit([put(number) for number in range(20)], now=AT)
        await storage.tenant(TENANT).commit([hidden], now=AT)
        await answers(storage)
    assert secret.encode() in files(tmp_path)[0].read_bytes()
    async with opened(tmp_path) as storage:
        await answers(storage)
        deleted = DeleteMemory(memory_id=MemoryId(secret), spaces=frozenset({SPACE}))
        await storage.tenant(TENANT).commit([deleted], now=AT)
        await storage.purge()
        assert files(tmp_path) == []
        after = await answers(storage)
    (file,) = files(tmp_path)
    assert secret.encode() not in file.read_bytes()
    assert await reopened(tmp_path) == after


async def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path: Path, packed: list[int]) -> None:
    (tmp_path / "index").write_text("not a folder")
    before = await fill(tmp_path)
    assert await reopened(tmp_path) == before
    assert packed == []


async def test_small_tenants_and_commands_beside_a_server_write_no_file(tmp_path: Path) -> None:
    await fill(tmp_path)
    for file in files(tmp_path):
        file.unlink()
    beside = await SqliteStorage.open(tmp_path, owns_directory=False)
    await answers(beside)
    await beside.close()
    assert files(tmp_path) == []
