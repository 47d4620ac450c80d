"""The in-memory indexes: loaded once, kept in step, bounded in memory, and rebuilt when they are mostly dead."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import MemoryId, ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageDamaged, StorageUnavailable
from polymem.ports.storage import EmbeddedChunk, Embedding, IndexEntry
from polymem.storage.sqlite import index_documents, index_postings, vector_rows, vectors
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.index_rows import put_entry, remove_entry, set_embedding
from polymem.storage.sqlite.search import SqliteSearch
from polymem.storage.sqlite.transaction import next_number
from polymem.storage.sqlite.vector_rows import VectorRows
from polymem.storage.sqlite.vectors import VectorIndexes

Result = TypeVar("Result")

MODEL = ModelIdentity(name="small", revision="1", dimension=8, token_dimension=4)
EVERYWHERE = MemoryFilter(spaces=frozenset({SpaceId("space")}))
RED = MemoryFilter(spaces=frozenset({SpaceId("space")}), tags=("red",))


def embedding_of(row: NDArray[np.float32]) -> Embedding:
    tokens = np.ones((1, MODEL.token_dimension), dtype=np.int8)
    chunk = EmbeddedChunk(start=0, end=1, embedding=row, token_vectors=tokens)
    return Embedding(model=MODEL, chunks=(chunk,), is_complete=True)


def unit_row(seed: int) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).standard_normal(MODEL.dimension).astype(np.float32)
    scaled: NDArray[np.float32] = row / np.linalg.norm(row)
    return scaled


class CountingReads:
    """A database that counts its units of reading, and tells of the second one."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.units = 0
        self.second = asyncio.Event()

    async def read(self, unit: Callable[[sqlite3.Connection], Result]) -> Result:
        self.units += 1
        if self.units >= 2:
            self.second.set()
        return await self.database.read(unit)


class Tenant:
    """A tenant whose rows are written straight through `index_rows`."""

    def __init__(self, database: Database, number: int) -> None:
        self.database = database
        self.number = number
        self.id = TenantId(f"tenant-{number}")
        self.change_no = 0
        self.numbers: dict[str, int] = {}

    async def begin(self) -> None:
        def unit(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO tenants (tenant_id, tenant_no, name, plan, is_active, created_at)"
                " VALUES (?, ?, 'name', 'self-hosted', 1, 0)",
                (self.id, self.number),
            )
            connection.execute("INSERT INTO spaces VALUES (?, 'space', 'personal', 'general', 0, 0)", (self.id,))

        await self.database.write(unit)

    async def put(self, *names: str) -> None:
        """Memories of these names, in one change each; the name seeds the vector."""

        def unit(connection: sqlite3.Connection) -> None:
            for name in names:
                self._put(connection, name)

        await self.database.write(unit)

    async def delete(self, *names: str) -> None:
        def unit(connection: sqlite3.Connection) -> None:
            for name in names:
                doc_no = self.numbers.pop(name)
                self._move(connection, -1)
                remove_entry(
                    connection, tenant_id=self.id, tenant_no=self.number, memory_id=MemoryId(name), doc_no=doc_no
                )
                connection.execute("DELETE FROM memories WHERE memory_id = ?", (name,))
                connection.execute(
                    "INSERT INTO tombstones VALUES (?, ?, 'space', ?, 0, ?)", (self.id, name, doc_no, self.change_no)
                )

        await self.database.write(unit)

    async def embed(self, name: str, row: NDArray[np.float32]) -> None:
        def unit(connection: sqlite3.Connection) -> None:
            self._move(connection, 0)
            connection.execute("UPDATE memories SET change_no = ? WHERE memory_id = ?", (self.change_no, name))
            set_embedding(connection, tenant_id=self.id, memory_id=MemoryId(name), embedding=embedding_of(row))

        await self.database.write(unit)

    def _put(self, connection: sqlite3.Connection, name: str) -> None:
        self._move(connection, 1)
        doc_no = self.numbers[name] = next_number(connection, "doc_no")
        connection.execute(
            "INSERT INTO memories (tenant_id, memory_id, doc_no, space_id, memory_type, state, created_by,"
            " derived_from, version, revision, created_at, updated_at, change_no, tags, content)"
            " VALUES (?, ?, ?, 'space', 'insight', 'active', 'user', '[]', 1, 1, 0, 0, ?, '[]', '')",
            (self.id, name, doc_no, self.change_no),
        )
        put_entry(
            connection,
            tenant_id=self.id,
            tenant_no=self.number,
            memory_id=MemoryId(name),
            doc_no=doc_no,
            entry=IndexEntry(terms=("cat", name), embedding=embedding_of(unit_row(doc_no))),
        )

    def _move(self, connection: sqlite3.Connection, added: int) -> None:
        self.change_no += 1
        connection.execute(
            "UPDATE tenants SET change_no = ?, memory_count = memory_count + ? WHERE tenant_id = ?",
            (self.change_no, added, self.id),
        )


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "test.db", reader_count=3)
    yield opened
    await opened.close()


@pytest.fixture
async def tenant(database: Database) -> Tenant:
    made = Tenant(database, 1)
    await made.begin()
    return made


async def found(search: SqliteSearch, where: MemoryFilter = EVERYWHERE) -> set[str]:
    """The names of all memories that the dense arm finds; the lexical arm finds the same."""
    dense = await search.dense(unit_row(0), MODEL, where, limit=10_000)
    lexical = await search.lexical(("cat",), where, limit=10_000)
    assert {hit.memory_id for hit in lexical} == {hit.memory_id for hit in dense}
    return {str(hit.memory_id) for hit in dense}


async def test_callers_at_the_same_time_load_a_large_tenant_once(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_FEW_MEMORIES", 3)
    loaded: list[int] = []
    append = VectorRows._append

    def counting(self: VectorRows, batch: list[tuple[int, bytes]], documents: index_documents.Documents) -> None:
        loaded.append(len(batch))
        append(self, batch, documents)

    monkeypatch.setattr(VectorRows, "_append", counting)
    names = [f"m{number}" for number in range(20)]
    await tenant.put(*names)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    hits = await asyncio.gather(*(search.dense(unit_row(0), MODEL, EVERYWHERE, limit=50) for _ in range(8)))
    assert {frozenset(hit.memory_id for hit in each) for each in hits} == {frozenset(names)}
    assert loaded == [20]


async def test_who_meets_a_reader_at_work_gives_the_thread_back_and_is_answered_later(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_LOCK_SECONDS", 0)
    await tenant.put("a", "b")
    reads = CountingReads(database)
    indexes = VectorIndexes(reads)
    search = SqliteSearch(reads, indexes, tenant.id)
    with indexes._index(tenant.id)._lock:
        both = [asyncio.create_task(search.lexical(("cat",), EVERYWHERE, limit=5)) for _ in range(2)]
        await reads.second.wait()
    assert [len(hits) for hits in await asyncio.gather(*both)] == [2, 2]


async def test_a_long_absence_is_caught_up_with_in_a_unit_of_its_own(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_FEW_MEMORIES", 3)
    monkeypatch.setattr(vectors, "_FEW_CHANGES", 5)
    reads = CountingReads(database)
    search = SqliteSearch(reads, VectorIndexes(reads), tenant.id)
    await tenant.put("a", "b", "c", "d")
    assert await found(search) == {"a", "b", "c", "d"}
    reads.units = 0
    await tenant.delete("a")
    assert await found(search) == {"b", "c", "d"}
    assert reads.units == 2
    reads.units = 0
    await tenant.put("e", "f", "g", "h", "i", "j", "k")
    await tenant.delete("b")
    assert await found(search) == set("cdefghijk")
    assert reads.units > 2


async def test_new_vectors_alone_are_seen_by_the_next_call(database: Database, tenant: Tenant) -> None:
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    await tenant.put("a", "b")
    assert await found(search) == {"a", "b"}
    await tenant.embed("b", unit_row(99))
    hits = await search.dense(unit_row(99), MODEL, EVERYWHERE, limit=1)
    assert hits[0].memory_id == "b"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


async def test_an_index_that_is_mostly_dead_is_built_anew(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_DEAD_WORTH_REBUILDING", 4)
    indexes = VectorIndexes(database)
    search = SqliteSearch(database, indexes, tenant.id)
    kept: set[str] = set()
    for turn in range(12):
        names = [f"m{turn}-{number}" for number in range(5)]
        await tenant.put(*names)
        kept |= set(names)
        assert await found(search) == kept
        await tenant.delete(*names[1:])
        kept -= set(names[1:])
        assert await found(search) == kept
    documents = indexes._index(tenant.id)._documents
    assert documents.count < 2 * len(kept) + 10
    assert documents.count - documents.dead_count == len(kept)


async def test_rows_that_are_mostly_dead_are_compacted_under_readers(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_rows, "_WORTH_COMPACTING", 4)
    indexes = VectorIndexes(database)
    search = SqliteSearch(database, indexes, tenant.id)
    await tenant.put("a", "b", "c")
    assert await found(search) == {"a", "b", "c"}
    for seed in range(1000, 1030):
        await tenant.embed("b", unit_row(seed))
        hits = await search.dense(unit_row(seed), MODEL, EVERYWHERE, limit=1)
        assert hits[0].memory_id == "b"
    assert await found(search) == {"a", "b", "c"}
    (rows,) = indexes._index(tenant.id)._rows.values()
    assert rows is not None
    assert len(rows.view().rows) <= 10


async def test_the_indexes_used_longest_ago_make_room(database: Database) -> None:
    tenants = [Tenant(database, number) for number in (1, 2, 3)]
    for tenant in tenants:
        await tenant.begin()
        await tenant.put(*(f"t{tenant.number}-{number}" for number in range(50)))
    one = VectorIndexes(database)
    await found(SqliteSearch(database, one, tenants[0].id))
    room_for_two = VectorIndexes(database, max_bytes=2 * one.size_bytes + 100)
    for _ in range(2):
        for tenant in tenants:
            assert len(await found(SqliteSearch(database, room_for_two, tenant.id))) == 50
            assert one.size_bytes <= room_for_two.size_bytes <= 2 * one.size_bytes + 100


async def test_the_counted_bytes_are_at_least_those_of_the_vectors(database: Database, tenant: Tenant) -> None:
    indexes = VectorIndexes(database)
    await tenant.put(*(f"m{number}" for number in range(200)))
    await found(SqliteSearch(database, indexes, tenant.id))
    assert indexes.size_bytes >= 200 * (MODEL.dimension + 4)


async def test_a_tenant_too_large_for_memory_is_scanned_from_its_rows(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_rows, "BATCH_ROWS", 16)
    await tenant.put(*(f"m{number}" for number in range(60)))
    small = SqliteSearch(database, VectorIndexes(database, max_bytes=200), tenant.id)
    large = SqliteSearch(database, VectorIndexes(database), tenant.id)
    for _ in range(2):
        expected = await large.dense(unit_row(0), MODEL, EVERYWHERE, limit=7)
        scanned = await small.dense(unit_row(0), MODEL, EVERYWHERE, limit=7)
        assert [hit.memory_id for hit in scanned] == [hit.memory_id for hit in expected]
        assert [hit.score for hit in scanned] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert await small.dense(unit_row(0), MODEL, RED, limit=7) == ()
        await tenant.delete(str(expected[0].memory_id))


async def test_loading_that_fails_half_way_leaves_nothing_wrong_behind(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_documents, "BATCH_ROWS", 2)
    monkeypatch.setattr(vector_rows, "BATCH_ROWS", 2)
    await tenant.put("a", "b", "c", "d", "e")

    def damage(connection: sqlite3.Connection) -> bytes:
        (row,) = connection.execute("SELECT embedding FROM chunks WHERE memory_id = 'e'").fetchone()
        connection.execute("UPDATE chunks SET embedding = x'00' WHERE memory_id = 'e'")
        return bytes(row)

    stored = await database.write(damage)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    with pytest.raises(StorageDamaged):
        await search.dense(unit_row(0), MODEL, EVERYWHERE, limit=5)
    await tenant.delete("a")

    def repair(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE chunks SET embedding = ? WHERE memory_id = 'e'", (stored,))

    await database.write(repair)
    assert await found(search) == {"b", "c", "d", "e"}


async def test_of_terms_too_common_to_read_whole_the_newest_memories_are_scored(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_postings, "MAX_POSTINGS", 10)
    names = [f"m{number:02}" for number in range(40)]
    await tenant.put(*names)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    newest = await search.lexical(("cat",), EVERYWHERE, limit=100)
    assert {hit.memory_id for hit in newest} == set(names[30:])
    rare_first = await search.lexical(("cat", "m03", "m05"), EVERYWHERE, limit=100)
    assert [hit.memory_id for hit in rare_first[:2]] == ["m03", "m05"]
    assert {hit.memory_id for hit in rare_first[2:]} == set(names[32:])
    many_rare = await search.lexical(("cat", *names[:12]), EVERYWHERE, limit=100)
    assert {hit.memory_id for hit in many_rare} == set(names[:10])


async def test_texts_too_long_to_count_them_all_are_scored_best_first(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_postings, "MAX_CANDIDATE_TERMS", 7)
    await tenant.put(*(f"m{number}" for number in range(10)))
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    hits = await search.lexical(("cat", "m4"), EVERYWHERE, limit=100)
    assert len(hits) == 3
    assert hits[0].memory_id == "m4"


async def test_without_room_for_a_hit_nothing_is_read(database: Database, tenant: Tenant) -> None:
    reads = CountingReads(database)
    search = SqliteSearch(reads, VectorIndexes(reads), tenant.id)
    assert await search.lexical(("cat",), EVERYWHERE, limit=0) == ()
    assert await search.dense(unit_row(0), MODEL, EVERYWHERE, limit=0) == ()
    assert reads.units == 0


async def test_an_index_that_never_comes_into_step_is_a_clear_error(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_FEW_MEMORIES", -1)
    monkeypatch.setattr(vectors, "_FEW_CHANGES", -1)
    await tenant.put("a")
    with pytest.raises(StorageUnavailable, match="changes faster"):
        await SqliteSearch(database, VectorIndexes(database), tenant.id).lexical(("cat",), EVERYWHERE, limit=1)


async def test_reading_and_deleting_at_the_same_time_never_finds_what_was_gone_before(
    database: Database, tenant: Tenant
) -> None:
    names = [f"m{number}" for number in range(40)]
    await tenant.put(*names)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    gone: set[str] = set()

    async def delete() -> None:
        for name in names[:20]:
            await tenant.delete(name)
            gone.add(name)

    async def look() -> None:
        for _ in range(20):
            gone_before = set(gone)
            hits = await search.dense(unit_row(0), MODEL, EVERYWHERE, limit=100)
            assert not gone_before & {hit.memory_id for hit in hits}
            assert set(names[20:]) <= {hit.memory_id for hit in hits}

    await asyncio.gather(delete(), look(), look())
