"""Index entries: terms always, vectors as far as the model gives them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from polymem.domain.model import Memory, MemoryId, MemoryState, MemoryType, SpaceId, UserId
from polymem.domain.text import index_terms
from polymem.engine.indexing import Indexer
from polymem.errors import InferenceUnavailable
from polymem.ports.storage import IndexEntry


def _memory(content: str) -> Memory:
    moment = datetime(2025, 3, 1, tzinfo=UTC)
    return Memory(
        id=MemoryId("m"),
        space_id=SpaceId("s"),
        content=content,
        memory_type=MemoryType.INSIGHT,
        state=MemoryState.ACTIVE,
        tags=("tag",),
        metadata=None,
        source=None,
        agent_id=None,
        session_id=None,
        turn=None,
        created_by=UserId("u"),
        updated_by=None,
        superseded_by=None,
        derived_from=(),
        version=1,
        revision=1,
        created_at=moment,
        updated_at=moment,
    )


async def test_a_short_memory_is_indexed_whole_at_once(world: Any) -> None:
    memory = _memory("the cat sat")
    entry, needs_job = await Indexer(world.embedder).entry(memory)
    assert not needs_job
    assert entry.terms == index_terms(memory)
    assert entry.embedding is not None
    assert entry.embedding.model == world.embedder.identity
    assert entry.embedding.is_complete
    assert [(chunk.start, chunk.end) for chunk in entry.embedding.chunks] == [(0, len("the cat sat\ntag"))]


async def test_the_end_of_a_long_memory_is_left_to_a_job(world: Any) -> None:
    indexer = Indexer(world.embedder, inline_chunks=2)
    long, short = _memory("word " * 200), _memory("word")
    (first, first_needs_job), (_, second_needs_job) = await indexer.entries([long, short])
    assert (first_needs_job, second_needs_job) == (True, False)
    assert first.terms == index_terms(long)
    assert first.embedding is not None
    assert (len(first.embedding.chunks), first.embedding.is_complete) == (2, False)
    whole = await indexer.embedding(long)
    assert (len(whole.chunks), whole.is_complete, whole.model) == (6, True, world.embedder.identity)


async def test_without_a_model_the_entry_has_terms_alone_and_is_counted(world: Any) -> None:
    indexer = Indexer(world.embedder)
    world.embedder.problem = "no model"
    memories = [_memory("one"), replace(_memory("two"), id=MemoryId("n"))]
    assert await indexer.entries(memories) == tuple(
        (IndexEntry(terms=index_terms(memory), embedding=None), True) for memory in memories
    )
    assert indexer.degraded_entries == 2
    with pytest.raises(InferenceUnavailable):
        await indexer.embedding(memories[0])


async def test_no_memories_give_no_entries_and_ask_no_model(world: Any) -> None:
    world.embedder.problem = "no model"
    indexer = Indexer(world.embedder)
    assert await indexer.entries([]) == ()
    assert indexer.degraded_entries == 0
