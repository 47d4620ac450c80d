"""The in-memory indexes: loaded once, kept in step, bounded in memory, and rebuilt when they are mostly dead."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from polymem.domain.model import ModelIdentity, SpaceId, TenantId
from polymem.domain.query import MemoryFilter
from polymem.errors import StorageDamaged, StorageUnavailable
from polymem.ports.changes import EmbeddedChunk, Embedding, IndexEntry
from polymem.storage.sqlite import index_documents, index_postings, lexical, vector_rows, vectors
from polymem.storage.sqlite.connection import Database
from polymem.storage.sqlite.index_arrays import sparse_nonzero
from polymem.storage.sqlite.index_postings import Postings
from polymem.storage.sqlite.index_rows import put_entry, remove_entry, set_embedding
from polymem.storage.sqlite.lexical import posted_frequencies
from polymem.storage.sqlite.search import SqliteSearch
from polymem.storage.sqlite.transaction import next_number
from polymem.storage.sqlite.vector_rows import VectorRows, heavy_words
from polymem.storage.sqlite.vectors import VectorIndexes
from polymem.storage.terms import pack_terms

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
                remove_entry(connection, tenant_id=self.id, tenant_no=self.number, doc_no=doc_no)
                connection.execute("DELETE FROM memories WHERE memory_id = ?", (name,))
                connection.execute(
                    "INSERT INTO tombstones VALUES (?, ?, 'space', ?, 0, ?)", (self.id, name, doc_no, self.change_no)
                )

        await self.database.write(unit)

    async def embed(self, name: str, row: NDArray[np.float32]) -> None:
        def unit(connection: sqlite3.Connection) -> None:
            self._move(connection, 0)
            connection.execute("UPDATE memories SET change_no = ? WHERE memory_id = ?", (self.change_no, name))
            set_embedding(connection, tenant_no=self.number, doc_no=self.numbers[name], embedding=embedding_of(row))

        await self.database.write(unit)

    def _put(self, connection: sqlite3.Connection, name: str) -> None:
        self._move(connection, 1)
        doc_no = self.numbers[name] = next_number(connection, "doc_no")
        connection.execute(
            "INSERT INTO memories (tenant_id, memory_id, doc_no, space_id, memory_type, state, created_by,"
            " role, importance, valence, content_key, derived_from, version, revision, created_at, updated_at,"
            " change_no, supersedes, concepts, tags, content) VALUES (?, ?, ?, 'space', 'insight', 'active', 'user',"
            " 'episode', 0.5, 0, '', '[]', 1, 1, 0, 0, ?, '[]', '[]', '[]', '')",
            (self.id, name, doc_no, self.change_no),
        )
        put_entry(
            connection,
            tenant_id=self.id,
            tenant_no=self.number,
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
    by_words = await search.lexical(("cat",), where, limit=10_000)
    assert {hit.memory_id for hit in by_words} == {hit.memory_id for hit in dense}
    return {str(hit.memory_id) for hit in dense}


async def test_callers_at_the_same_time_load_a_large_tenant_once(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_FEW_MEMORIES", 3)
    loaded: list[int] = []
    append = VectorRows._append

    def counting(self: VectorRows, batch: list[tuple[int, bytes, bytes]], documents: index_documents.Documents) -> None:
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
    monkeypatch.setattr(index_documents, "POSTING_ROWS", 2)
    monkeypatch.setattr(vector_rows, "BATCH_ROWS", 2)
    await tenant.put("a", "b", "c", "d", "e")

    def damage(connection: sqlite3.Connection) -> bytes:
        (row,) = connection.execute("SELECT embeddings FROM index_entries WHERE doc_no = 5").fetchone()
        connection.execute("UPDATE index_entries SET embeddings = x'00' WHERE doc_no = 5")
        return bytes(row)

    stored = await database.write(damage)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    with pytest.raises(StorageDamaged):
        await search.dense(unit_row(0), MODEL, EVERYWHERE, limit=5)
    await tenant.delete("a")

    def repair(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE index_entries SET embeddings = ? WHERE doc_no = 5", (stored,))

    await database.write(repair)
    assert await found(search) == {"b", "c", "d", "e"}


async def test_terms_too_common_to_read_add_to_what_rarer_ones_found(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m{number:02}" for number in range(40)]
    await tenant.put(*names)
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    exact = await search.lexical(("cat", "m03", "m05"), EVERYWHERE, limit=100)
    assert len(exact) == 40
    monkeypatch.setattr(lexical, "MAX_POSTINGS", 10)
    monkeypatch.setattr(lexical, "MAX_PROMISING", 4)
    bounded = await search.lexical(("cat", "m03", "m05"), EVERYWHERE, limit=100)
    assert bounded == exact[:2]
    six = await search.lexical(("cat", *names[:6]), EVERYWHERE, limit=100)
    assert len(six) == 6
    assert [hit.score for hit in six[:4]] > [hit.score for hit in six[4:]]
    alone = await search.lexical(("cat",), EVERYWHERE, limit=100)
    assert {hit.memory_id for hit in alone} == set(names)


async def test_where_few_pass_every_one_is_scored_exactly_however_common_the_terms(
    database: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tenant.put(*(f"m{number:02}" for number in range(40)))
    search = SqliteSearch(database, VectorIndexes(database), tenant.id)
    exact = await search.lexical(("cat", "m03"), EVERYWHERE, limit=100)
    monkeypatch.setattr(lexical, "MAX_POSTINGS", 1)
    assert await search.lexical(("cat", "m03"), EVERYWHERE, limit=100) == exact


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


@pytest.mark.parametrize("largest", [1, 500, 1 << 20])
def test_postings_settled_after_a_load_say_the_same_in_fewer_segments(
    monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(index_postings, "_LARGEST_MERGED", 40)
    monkeypatch.setattr(index_postings, "_LARGEST_SETTLED", largest)
    random, names, postings = Random(largest), [f"w{number}" for number in range(30)], Postings()
    kept: dict[int, list[str]] = {}
    for first in range(0, 300, 20):
        # Some of those before are written anew, so that segments overlap.
        positions = sorted({*range(first, first + 20), *random.sample(range(first + 1), min(first, 3))})
        kept |= {position: random.choices(names, k=random.randint(0, 6)) for position in positions}
        postings.write(np.array(positions), [pack_terms(kept[position]) for position in positions])

    def counted() -> dict[str, dict[int, int]]:
        places = np.arange(300, dtype=np.int32)
        held = posted_frequencies(postings.view(), places, names)
        return {name: {place: each[name] for place, each in enumerate(held) if name in each} for name in names}

    expected = {
        name: {place: terms.count(name) for place, terms in sorted(kept.items()) if name in terms} for name in names
    }
    before = len(postings.view().segments)
    assert counted() == expected
    postings.settle()
    assert counted() == expected
    sizes = [len(segment.positions) for segment in postings.view().segments]
    assert all(first + second > largest for first, second in pairwise(sizes))
    assert (len(sizes) == 1) is (largest == 1 << 20)
    assert len(sizes) <= before
    assert {name: sum(each.size for each in lists) for name, lists in postings.view().find_terms(names).items()} == {
        name: len(places) for name, places in expected.items()
    }


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 64, 1001])
def test_where_a_mask_is_true_is_found_as_numpy_finds_it(length: int) -> None:
    random = np.random.default_rng(length)
    for share in (0.0, 0.01, 0.5, 1.0):
        mask = random.random(length) < share
        assert sparse_nonzero(mask).tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(("dimension", "heavy"), [(1, 1), (5, 3), (64, 32), (384, 192), (510, 255), (1024, 255)])
def test_the_heavier_half_of_the_dimensions_is_compared_and_never_more_than_a_byte_counts(
    dimension: int, heavy: int
) -> None:
    vector = np.random.default_rng(dimension).standard_normal(dimension).astype(np.float32)
    words = heavy_words(vector)
    bits = np.unpackbits(words.view(np.uint8))[:dimension].astype(np.bool_)
    assert int(np.bitwise_count(words).sum()) == int(bits.sum()) == heavy
    weights = np.abs(vector)
    assert weights[bits].min() >= weights[~bits].max(initial=0)
