"""What SQLite alone promises of learning: bounded looks at concepts, and an index that feedback leaves alone."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from polymem.domain.model import MemoryId
from polymem.domain.query import MemoryFilter
from polymem.ports.changes import Associate, IndexEntry, MoveValence, PutMemory
from polymem.storage.sqlite.storage import SqliteStorage
from samples import AT, account_of, memory_of

ACCOUNT = account_of("one")
WHERE = MemoryFilter(spaces=frozenset({ACCOUNT.space.id}))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[SqliteStorage]:
    """A storage with nine memories of one concept, of which each other has a second one."""
    opened = await SqliteStorage.open(tmp_path, reader_count=1)
    assert await opened.directory.create_account(ACCOUNT)
    memories = [
        replace(memory_of(ACCOUNT, f"m{number}"), concepts=("often", "seldom") if number % 2 else ("often",))
        for number in range(9)
    ]
    entry = IndexEntry(terms=("word",), embedding=None)
    puts = [PutMemory(memory=memory, index=entry) for memory in memories]
    await opened.tenant(ACCOUNT.tenant.id).commit(puts, now=AT)
    yield opened
    await opened.close()


async def test_of_a_concept_that_very_many_have_only_the_newest_are_looked_at(
    storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymem.storage.sqlite.conceptual.NEWEST_OF_CONCEPT", 3)
    hits = await storage.search(ACCOUNT.tenant.id).conceptual({"often": 1.0, "seldom": 0.5}, WHERE, limit=9)
    assert [(hit.memory_id, hit.score) for hit in hits] == [
        ("m7", 1.5),
        ("m6", 1.0),
        ("m8", 1.0),
        ("m3", 0.5),
        ("m5", 0.5),
    ]


async def test_feedback_touches_no_row_that_the_index_would_read_again(storage: SqliteStorage) -> None:
    reader = storage._database._readers[0]
    statement = "SELECT max(change_no), sum(revision), sum(valence) FROM memories"
    before = reader.execute(statement).fetchone()
    move = MoveValence(memory_ids=frozenset({MemoryId("m1")}), spaces=WHERE.spaces, outcome=1.0, rate=0.5)
    strengthen = Associate(space_id=ACCOUNT.space.id, pairs=frozenset({("often", "seldom")}), rate=0.5, at=AT)
    await storage.tenant(ACCOUNT.tenant.id).commit([move, strengthen], now=AT)
    assert before == (1, 9, 0.0)
    assert reader.execute(statement).fetchone() == (1, 9, 0.5)
