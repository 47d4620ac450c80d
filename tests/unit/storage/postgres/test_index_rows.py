"""The index rows: what they count follows every change, and what cannot be is damage."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random

import pytest

from polymem.domain.model import MemoryId, TenantId
from polymem.errors import StorageDamaged
from polymem.ports.changes import IndexEntry
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.connection import Database
from polymem.storage.postgres.driver import Connection
from polymem.storage.postgres.index_rows import (
    find_model,
    number_model,
    put_entries,
    remove_entries,
    replace_entry,
    set_embedding,
)
from polymem.storage.postgres.storage import PostgresStorage
from polymem.storage.terms import codes_of
from samples import memory_of
from writer import MODEL, Writer

WORDS = tuple(f"word{number}" for number in range(30))
TENANT_NO = 5


@pytest.fixture
async def database(storage: PostgresStorage, storage_url: str) -> AsyncIterator[Database]:
    """The database of the storage, for units of work of our own."""
    await storage.ping()
    database = await Database.open(storage_url, connections=6, patience_seconds=5.0)
    yield database
    await database.close()


async def counted(connection: Connection, tenant_id: TenantId) -> dict[int, int]:
    """What is stored of how many entries hold a term, by its plain code."""
    cursor = await connection.execute("SELECT code, documents FROM term_counts WHERE tenant_id = %s", (tenant_id,))
    return dict(await cursor.fetchall())


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_changes_each_term_is_counted_in_the_entries_that_hold_it(
    database: Database, account: NewAccount, seed: int
) -> None:
    random, tenant_id = Random(seed), account.tenant.id
    kept: dict[str, tuple[str, ...]] = {}
    total = 0

    def entry() -> IndexEntry:
        return IndexEntry(terms=tuple(random.choices(WORDS, k=random.randint(0, 9))), embedding=None)

    async def step(connection: Connection) -> int:
        new = {f"m{seed}{random.random()}": entry() for _ in range(random.randint(0, 6))}
        added = await put_entries(
            connection, tenant_id, TENANT_NO, [(memory_of(account, name), each) for name, each in new.items()]
        )
        kept.update({name: each.terms for name, each in new.items()})
        for name in random.sample(sorted(kept), min(2, len(kept))):
            changed = entry()
            added += await replace_entry(connection, tenant_id, TENANT_NO, memory_of(account, name), changed)
            kept[name] = changed.terms
        gone = random.sample(sorted(kept), min(2, len(kept)))
        added += await remove_entries(connection, tenant_id, TENANT_NO, [MemoryId(name) for name in gone])
        for name in gone:
            del kept[name]
        return added

    for _ in range(12):
        total += await database.write(step)
        holding = Counter(word for terms in kept.values() for word in set(terms))
        codes = {word: int(code) for word, code in zip(WORDS, codes_of(WORDS).view("i8"), strict=True)}
        stored = await database.read(lambda connection: counted(connection, tenant_id))
        assert stored == {codes[word]: count for word, count in holding.items()}
        assert total == sum(map(len, kept.values()))


async def test_processes_that_race_to_number_a_model_get_the_same_number(database: Database) -> None:
    newer = replace(MODEL, revision="2")
    numbers = await asyncio.gather(
        *(database.write(lambda connection: number_model(connection, MODEL)) for _ in range(5))
    )
    assert len(set(numbers)) == 1
    assert await database.read(lambda connection: find_model(connection, MODEL)) == numbers[0]
    assert await database.read(lambda connection: find_model(connection, newer)) is None
    assert await database.write(lambda connection: number_model(connection, newer)) != numbers[0]


async def test_a_memory_without_an_entry_is_damage_to_whoever_changes_it(
    database: Database, account: NewAccount
) -> None:
    tenant_id = account.tenant.id
    memory, made = memory_of(account, "m"), Writer(1).embedding()
    for change in (
        lambda connection: remove_entries(connection, tenant_id, TENANT_NO, [memory.id]),
        lambda connection: replace_entry(
            connection, tenant_id, TENANT_NO, memory, IndexEntry(terms=("a",), embedding=None)
        ),
        lambda connection: set_embedding(connection, tenant_id, TENANT_NO, memory.id, made),
    ):
        with pytest.raises(StorageDamaged):
            await database.write(change)


async def test_vectors_of_another_shape_than_their_models_are_refused_before_anything_is_stored(
    database: Database, account: NewAccount
) -> None:
    tenant_id = account.tenant.id
    embedding = Writer(1).embedding()
    wrong = replace(embedding, model=replace(MODEL, dimension=3))
    rows = [(memory_of(account, "m"), IndexEntry(terms=("a",), embedding=wrong))]
    with pytest.raises(ValueError, match="dimension"):
        await database.write(lambda connection: put_entries(connection, tenant_id, TENANT_NO, rows))
    assert await database.read(lambda connection: counted(connection, tenant_id)) == {}
