"""Evidence from rows that cannot be is damage, and is told as that."""

import psycopg
import pytest

from polymem.domain.model import MemoryId
from polymem.errors import StorageDamaged
from polymem.ports.changes import Applied, IndexEntry, PutMemory
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, memory_of
from writer import MODEL, Writer


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET embedding = '[1, 2]'",
        r"UPDATE chunks SET token_vectors = '\x010203'",
        r"UPDATE index_entries SET counts = '\x01'",
    ],
)
async def test_rows_of_another_size_than_they_must_have_are_damage(
    storage: PostgresStorage, account: NewAccount, storage_url: str, damage: str
) -> None:
    entry = IndexEntry(terms=("a", "b", "c"), embedding=Writer(1).embedding())
    change = PutMemory(memory=memory_of(account, "m"), index=entry)
    assert isinstance(await storage.tenant(account.tenant.id).commit([change], now=AT), Applied)
    index = storage.search(account.tenant.id)
    assert len(await index.evidence([MemoryId("m")], MODEL, ("a",))) == 1
    async with await psycopg.AsyncConnection.connect(storage_url, autocommit=True) as connection:
        await connection.execute(damage.encode())
    with pytest.raises(StorageDamaged):
        await index.evidence([MemoryId("m")], MODEL, ("a",))
