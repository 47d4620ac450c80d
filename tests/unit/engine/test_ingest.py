"""Conversations captured turn by turn, each turn once."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polymem.domain.model import ContentType, Memory, MemoryType, Plan, Turn
from polymem.domain.query import MemoryFilter
from polymem.engine.commits import commit_turns
from polymem.engine.engine import Engine
from polymem.engine.ingest import MOST_NUMBERINGS, TURNS_PER_COMMIT, batches, clean_turns
from polymem.engine.requests import Ingested, NewMemory, NewTurn, NewTurns
from polymem.errors import InvalidInput, QuotaExceeded, TooLarge, Unavailable
from polymem.ports.changes import Change, IndexEntry, SessionEnd, UpdateMemory

SAID = datetime(2024, 1, 2, tzinfo=UTC)


def turns(*contents: str, **fields: Any) -> NewTurns:
    given = {"session_id": "s", **fields}
    return NewTurns(turns=tuple(NewTurn(role="user", content=content) for content in contents), **given)


def many(count: int, **fields: Any) -> NewTurns:
    return turns(*(f"turn {number}" for number in range(count)), **fields)


async def ingest(world: Any, new: NewTurns, key: str | None = None) -> Ingested:
    ingested: Ingested = await world.engine.ingest.messages(world.call(key), new)
    return ingested


async def stored(world: Any, session_id: str = "s") -> list[Memory]:
    return list(await world.engine.read.session_messages(world.call(), [session_id], limit_per_session=1000))


async def test_turns_are_session_memories_in_order_with_what_they_share(world: Any) -> None:
    new = NewTurns(
        turns=(
            NewTurn(role="user", content="hi", created_at=SAID),
            NewTurn(role="assistant", content='[{"type":"x"}]', content_type=ContentType.JSON),
        ),
        session_id="s",
        agent_id="agent",
        source="source",
        tags=("t",),
        metadata={"k": 1},
    )
    ingested = await ingest(world, new)
    first, second = await stored(world)
    assert ingested == Ingested(session_id="s", memory_ids=(first.id, second.id), duplicates=0)
    assert (first.turn, second.turn) == (
        Turn(role="user", seq=0, content_type=ContentType.TEXT),
        Turn(role="assistant", seq=1, content_type=ContentType.JSON),
    )
    assert (first.created_at, first.updated_at, first.version) == (SAID, SAID, 0)
    assert second.created_at == world.clock.now()
    for memory in (first, second):
        assert memory.memory_type is MemoryType.SESSION
        assert (memory.agent_id, memory.source, memory.tags, memory.metadata) == (
            "agent",
            "source",
            ("t",),
            {"k": 1},
        )


async def test_turns_sent_again_are_stored_once(world: Any) -> None:
    await ingest(world, turns("a", "b"))
    world.clock.pass_time(seconds=1)
    again = await ingest(world, turns("a", "b", "c"))
    assert (len(again.memory_ids), again.duplicates) == (1, 2)
    assert [memory.content for memory in await stored(world)] == ["a", "b", "c"]
    assert await ingest(world, turns("c", "c")) == Ingested(session_id="s", memory_ids=(), duplicates=2)


async def test_the_model_is_not_asked_again_for_turns_that_are_there(world: Any) -> None:
    asked: list[str] = []
    embed = world.embedder.embed_texts

    async def watched(texts: Sequence[str], **given: Any) -> Any:
        asked.extend(texts)
        return await embed(texts, **given)

    world.embedder.embed_texts = watched
    first = await ingest(world, turns("a", "b"))
    await world.engine.write.delete(world.call(), first.memory_ids[1])
    await ingest(world, turns("a", "b", "c", "c"))
    await ingest(world, turns("a", "b", "c"))
    assert asked == ["user: a", "user: b", "user: c"]
    _, third = await stored(world)
    (entry,) = (await world.store.list_without_vectors(world.embedder.identity, limit=9)) or [None]
    assert (third.content, entry) == ("c", None)


async def test_turns_that_come_at_the_same_time_get_numbers_of_their_own(world: Any) -> None:
    calls = [ingest(world, turns(*(f"{caller} says {number}" for number in range(5)))) for caller in range(4)]
    await asyncio.gather(*calls)
    numbers = [memory.turn.seq for memory in await stored(world) if memory.turn]
    assert sorted(numbers) == list(range(20))


async def write_behind(world: Any, *contents: str) -> None:
    """Another process, which knows nothing of our locks, goes on with the session."""
    other = Engine(
        storage=world.storage._storage,
        embedder=world.embedder,
        blobs=world.blobs,
        clock=world.clock,
        ids=world.ids,
    )
    await other.ingest.messages(world.call(), turns(*contents))


async def test_turns_get_new_numbers_when_another_process_goes_before(world: Any) -> None:
    went_before = 0

    async def interfere(_: Sequence[Change]) -> None:
        nonlocal went_before
        if went_before < 3:
            went_before += 1
            await write_behind(world, f"other {went_before}", f"another {went_before}")

    world.storage.before_commit = interfere
    ingested = await ingest(world, turns("a", "b"))
    assert went_before == 3
    numbers = {memory.id: memory.turn.seq for memory in await stored(world) if memory.turn}
    assert [numbers[each] for each in ingested.memory_ids] == [6, 7]
    assert sorted(numbers.values()) == list(range(8))


async def test_who_is_always_too_late_is_told_to_come_back(world: Any) -> None:
    tries = 0

    async def interfere(_: Sequence[Change]) -> None:
        nonlocal tries
        tries += 1
        await write_behind(world, f"other {tries}")

    world.storage.before_commit = interfere
    with pytest.raises(Unavailable, match="too many others"):
        await ingest(world, turns("late"))
    assert tries == MOST_NUMBERINGS
    assert "late" not in {memory.content for memory in await stored(world)}


async def test_a_port_that_refuses_turns_for_another_reason_is_broken(world: Any) -> None:
    memory = (await world.engine.write.memory(world.call(), NewMemory(content="text"))).memory
    moved = UpdateMemory(
        memory=memory,
        index=IndexEntry(terms=(), embedding=None),
        expected_revision=9,
        replaced_by=None,
        reason="r",
    )
    end = SessionEnd(session_id="s", space_id=memory.space_id, last_seq=None)
    with pytest.raises(AssertionError, match="without a guard"):
        await commit_turns(world.store, [moved], ends_at=end, now=world.clock.now())


async def test_a_part_that_the_model_reads_ahead_is_let_go_when_the_part_before_it_fails(world: Any) -> None:
    reads, ahead, stopped = 0, asyncio.Event(), asyncio.Event()

    async def reading() -> None:
        nonlocal reads
        reads += 1
        if reads == 2:
            ahead.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

    async def fail(_: Sequence[Change]) -> None:
        await ahead.wait()
        raise RuntimeError

    world.embedder.before, world.storage.before_commit = reading, fail
    with pytest.raises(RuntimeError):
        await ingest(world, many(TURNS_PER_COMMIT + 1))
    assert stopped.is_set()


async def test_a_given_seq_tells_equal_turns_apart(world: Any) -> None:
    said = tuple(NewTurn(role="user", content="ok", seq=seq) for seq in (0, 1, 1))
    ingested = await ingest(world, NewTurns(turns=said, session_id="s"))
    assert (len(ingested.memory_ids), ingested.duplicates) == (2, 1)
    assert [memory.turn.seq for memory in await stored(world) if memory.turn] == [0, 1]


async def test_turns_without_seq_continue_their_session(world: Any) -> None:
    await ingest(world, NewTurns(turns=(NewTurn(role="user", content="a", seq=7),), session_id="s"))
    world.clock.pass_time(seconds=1)
    await ingest(world, turns("b", "c"))
    await ingest(world, turns("elsewhere", session_id="other"))
    assert [memory.turn.seq for memory in await stored(world) if memory.turn] == [7, 8, 9]
    assert [memory.turn.seq for memory in await stored(world, "other") if memory.turn] == [0]


async def test_recalled_memories_are_cut_out_and_empty_turns_skipped(world: Any) -> None:
    block = "<relevant-memories>old</relevant-memories>"
    new = NewTurns(
        turns=(
            NewTurn(role="user", content=f"{block}question"),
            NewTurn(role="user", content=block),
            NewTurn(role="user", content="  "),
            NewTurn(role="user", content=f'["{block}"," x"]', content_type=ContentType.JSON),
        ),
        session_id="s",
    )
    ingested = await ingest(world, new)
    assert (len(ingested.memory_ids), ingested.duplicates) == (2, 0)
    assert [memory.content for memory in await stored(world)] == ["question", '[""," x"]']
    assert (await ingest(world, turns(" "))).memory_ids == ()


async def test_without_a_session_one_is_made(world: Any) -> None:
    first = await ingest(world, turns("a", session_id=None))
    second = await ingest(world, turns("a", session_id=None))
    assert first.session_id != second.session_id
    assert [memory.content for memory in await stored(world, first.session_id)] == ["a"]


async def test_a_retry_under_its_key_keeps_the_session_that_was_made(world: Any) -> None:
    first = await ingest(world, turns("a", "b", session_id=None), key="key")
    assert await ingest(world, turns("a", "b", session_id=None), key="key") == first
    assert await world.store.count_memories() == 2


async def test_a_long_conversation_is_stored_in_parts_in_one_order(world: Any) -> None:
    count = 2 * TURNS_PER_COMMIT + 1
    ingested = await ingest(world, many(count))
    found = await stored(world)
    assert [memory.id for memory in found] == list(ingested.memory_ids)
    assert [memory.turn.seq for memory in found if memory.turn] == list(range(count))
    assert found[-1].created_at == world.clock.now() + timedelta(microseconds=count - 1)


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("when", ["before_commit", "after_commit"])
async def test_after_a_failure_between_two_parts_a_retry_stores_what_is_missing(
    world: Any, key: str | None, when: str
) -> None:
    count = 2 * TURNS_PER_COMMIT + 1
    commits = 0

    async def fail_second(_: Sequence[Change]) -> None:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise RuntimeError

    setattr(world.storage, when, fail_second)
    with pytest.raises(RuntimeError):
        await ingest(world, many(count), key=key)
    setattr(world.storage, when, None)
    world.clock.pass_time(minutes=1)
    await ingest(world, many(count), key=key)
    found = await stored(world)
    assert [memory.content for memory in found] == [f"turn {number}" for number in range(count)]
    numbers = [memory.turn.seq for memory in found if memory.turn]
    assert numbers == sorted(set(numbers))


async def test_a_deleted_turn_does_not_come_back(world: Any) -> None:
    ingested = await ingest(world, turns("keep", "forget"))
    await world.engine.write.delete(world.call(), ingested.memory_ids[1])
    again = await ingest(world, turns("keep", "forget"))
    assert again == Ingested(session_id="s", memory_ids=(), duplicates=2)
    assert [memory.content for memory in await stored(world)] == ["keep"]


async def test_turns_without_a_model_are_stored_and_their_vectors_are_one_job(world: Any) -> None:
    world.embedder.problem = "no model file"
    ingested = await ingest(world, turns("a", "b"))
    assert world.engine.jobs_queued.is_set()
    job = await world.claim("embed")
    assert job.payload == {"memory_ids": list(ingested.memory_ids)}
    assert await world.claim("embed") is None


async def test_turns_are_in_the_list_of_their_type(world: Any) -> None:
    await ingest(world, turns("a"))
    own = frozenset({world.principal.personal_space_id})
    where = MemoryFilter(spaces=own, memory_types=frozenset({MemoryType.SESSION}))
    assert (await world.engine.read.list(world.call(), where, limit=9)).total == 1


async def test_beyond_the_plan_earlier_parts_stay(world: Any) -> None:
    plan = Plan(name="p", requests_per_minute=1, burst=1, max_memories=TURNS_PER_COMMIT)
    with pytest.raises(QuotaExceeded):
        await world.engine.ingest.messages(world.call(plan=plan), many(TURNS_PER_COMMIT + 1))
    assert await world.store.count_memories() == TURNS_PER_COMMIT


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewTurns(turns=(NewTurn(role="", content="x"),)), "messages[0].role"),
        (NewTurns(turns=(NewTurn(role="u", content="a"), NewTurn(role="u", content="\x00"))), "messages[1].content"),
        (NewTurns(turns=(NewTurn(role="u", content="a", seq=-1),)), "messages[0].seq"),
        (NewTurns(turns=(NewTurn(role="u", content="a", created_at=datetime(2024, 1, 1)),)),  # noqa: DTZ001
         "messages[0].created_at"),
        (NewTurns(turns=(), session_id=""), "session_id"),
        (NewTurns(turns=(), agent_id=""), "agent_id"),
        (NewTurns(turns=(), source=""), "source"),
        (NewTurns(turns=(), tags=("",)), "tags"),
        (NewTurns(turns=(), metadata=float("inf")), "metadata"),
    ],
)  # fmt: skip
async def test_bad_turns_are_refused_by_field_and_nothing_is_stored(world: Any, new: NewTurns, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await ingest(world, new)
    assert caught.value.field == field
    assert await world.store.count_memories() == 0


async def test_too_many_or_too_large_turns_are_refused(world: Any) -> None:
    with pytest.raises(TooLarge, match="messages: larger than 10000 items"):
        await ingest(world, NewTurns(turns=(NewTurn(role="u", content="x"),) * 10_001))
    with pytest.raises(TooLarge, match=r"messages\[0\].content"):
        await ingest(world, turns("x" * 1_000_001))


def test_large_turns_are_committed_few_at_a_time_and_every_one_is_kept_in_order() -> None:
    turns = tuple(NewTurn(role="user", content=f"{number} " + "word " * 60_000) for number in range(5))
    parts = list(batches(clean_turns(turns, now=datetime(2025, 1, 1, tzinfo=UTC))))
    assert [len(part) for part in parts] == [3, 2]
    assert [each.turn for part in parts for each in part] == list(turns)
    assert list(batches([])) == []
