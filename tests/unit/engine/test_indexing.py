"""Index entries: terms always, vectors as far as the model gives them."""

import threading
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from polymem.domain.model import Memory, MemoryId, MemoryState, MemoryType, SpaceId, UserId
from polymem.domain.text import index_terms
from polymem.domain.timewords import DaySpan
from polymem.domain.traits import decode_traits, encode_traits, traits_of
from polymem.engine import indexing
from polymem.engine.indexing import Indexer, bare_entry
from polymem.errors import InferenceUnavailable


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


async def test_an_entry_has_the_traits_of_its_memory(world: Any) -> None:
    memory = _memory("We met yesterday, at 3, did we not?")
    entry, _ = await Indexer(world.embedder).entry(memory)
    assert entry.traits == encode_traits(traits_of(memory)) == bare_entry(memory).traits
    assert decode_traits(entry.traits).spans == (DaySpan(date(2025, 2, 28), date(2025, 2, 28)),)


async def test_many_memories_are_cut_into_terms_off_the_event_loop(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def watched(memory: Memory) -> tuple[str, ...]:
        threads.append(threading.get_ident())
        return index_terms(memory)

    monkeypatch.setattr(indexing, "index_terms", watched)
    few = [_memory(f"number {number}") for number in range(3)]
    many = [_memory(f"number {number} " + "word " * 40) for number in range(indexing.CHARACTERS_AT_ONCE // 50)]
    await Indexer(world.embedder).entries(few)
    assert set(threads) == {threading.get_ident()}
    threads.clear()
    entries = await Indexer(world.embedder).entries(many)
    assert [entry.terms for entry, _ in entries] == [index_terms(memory) for memory in many]
    assert len(threads) == len(many)
    assert threading.get_ident() not in threads


async def test_a_memory_that_is_known_gets_its_terms_alone(world: Any) -> None:
    memories = [_memory("the cat sat"), _memory("on the mat")]
    known, fresh = await Indexer(world.embedder).entries(memories, known={0})
    assert known == (bare_entry(memories[0]), False)
    assert known[0].terms == index_terms(memories[0])
    assert fresh[0].embedding is not None


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
    assert await indexer.entries(memories) == tuple((bare_entry(memory), True) for memory in memories)
    assert indexer.degraded_entries == 2
    with pytest.raises(InferenceUnavailable):
        await indexer.embedding(memories[0])


async def test_no_memories_give_no_entries_and_ask_no_model(world: Any) -> None:
    world.embedder.problem = "no model"
    indexer = Indexer(world.embedder)
    assert await indexer.entries([]) == ()
    assert indexer.degraded_entries == 0
