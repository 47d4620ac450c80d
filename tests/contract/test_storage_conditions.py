"""Conditions on metadata and authors pass the same memories everywhere, and exactly those that the domain says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polymem.domain.conditions import holds
from polymem.domain.model import JsonValue, MemoryId, UserId
from polymem.domain.query import Comparison, ListOrder, MemoryFilter, MetadataCondition
from polymem.ports.changes import AddSpace, PutMemory
from polymem.ports.directory import NewAccount
from polymem.ports.storage import Storage, TenantStore

if TYPE_CHECKING:
    from contract.conftest import Made

KEYS = ("a", "b", "a.b", 'q"', "é", "$", "%_")
NUMBERS = (0, 1, 7, 77, -7, 7.5, 10**15, 10**18, 12345678901234567890123, 0.0, -0.0, 1.0, 7.0, -7.0, 1e15, 1e18, 0.001)
TEXTS = ("", "a", "ab", "A", "7", "null", '"', "\\", "é\n", "%", "a_b", "日本")

scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)
values: st.SearchStrategy[JsonValue] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
metadata = st.none() | values | st.dictionaries(st.sampled_from(KEYS[:3]), values, min_size=1, max_size=3)
conditions = st.builds(
    MetadataCondition,
    path=st.lists(st.sampled_from(KEYS[:3]) | st.sampled_from(KEYS), max_size=2).map(tuple),
    comparison=st.sampled_from(list(Comparison)),
    value=values | st.lists(scalars, max_size=20),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[JsonValue], list[MetadataCondition]]:
    """Metadata of some memories, and conditions of which many ask for a value that is there."""
    given_metadata = draw(st.lists(metadata, min_size=1, max_size=8))
    asked = draw(st.lists(conditions, min_size=1, max_size=4))
    for each in draw(st.lists(st.sampled_from(given_metadata), max_size=6)):
        path, value = [], each
        while isinstance(value, dict) and value and draw(st.booleans()):
            path.append(draw(st.sampled_from(sorted(value))))
            value = value[path[-1]]
        comparison = draw(st.sampled_from(list(Comparison)))
        wanted = value if comparison is Comparison.EQ else draw(st.sampled_from(_parts(value, comparison)))
        asked.append(MetadataCondition(tuple(path), comparison, wanted))
    return given_metadata, asked


def _parts(value: JsonValue, comparison: Comparison) -> list[JsonValue]:
    """What such a comparison of the value may well hold for."""
    if comparison is Comparison.IN:
        return [[value], [None, value], ["other"]]
    if isinstance(value, dict):
        return [{}, *({key: each} for key, each in value.items())]
    return [*value, []] if isinstance(value, list) else [value, str(value)[:1]]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
async def test_conditions_on_metadata_pass_what_the_domain_says(
    case: tuple[list[JsonValue], list[MetadataCondition]],
    make: Made,
    account: NewAccount,
    store: TenantStore,
    storage: Storage,
) -> None:
    given_metadata, asked = case
    domain = make.space()
    memories = [
        make.memory(account, space_id=domain.id, metadata=each, concepts=("a",), created_at=make.at())
        for each in given_metadata
    ]
    puts = [PutMemory(memory=memory, index=make.entry(embedding=make.embedding())) for memory in memories]
    await store.commit([AddSpace(space=domain, members=()), *puts], now=make.at())
    index = storage.search(account.tenant.id)
    vector = make.embedding().chunks[0].embedding
    everything = MemoryFilter(spaces=frozenset({domain.id}))
    for wanted in [*((condition,) for condition in asked), tuple(asked[:2])]:
        where = replace(everything, metadata=wanted)
        expected = [
            memory.id for memory in reversed(memories) if all(holds(condition, memory.metadata) for condition in wanted)
        ]
        page = await store.list_memories(where, order=ListOrder.CREATED_NEWEST, limit=5, offset=1)
        assert page.total == len(expected)
        assert [memory.id for memory in page.memories] == expected[1:6]
        feed = await store.feed(where, after=None, limit=99, with_superseded=True)
        assert [memory.id for memory in feed] == expected
        for hits in (
            await index.lexical(["word"], where, limit=99),
            await index.dense(vector, make.model, where, limit=99),
            await index.conceptual({"a": 1.0}, where, limit=99),
            (await index.words(["word"], ["word"], where, limit=99, most=9)).hits,
        ):
            assert sorted((hit.memory_id for hit in hits), reverse=True) == expected


@pytest.mark.parametrize("wanted", [1, 1.0, True])
async def test_numbers_and_truth_are_told_apart_from_one_question_to_the_next(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage, wanted: JsonValue
) -> None:
    number, fraction, truth = (make.memory(account, metadata={"k": each}) for each in (1, 1.0, True))
    await store.commit([*map(make.put, (number, fraction, truth))], now=make.at())
    index = storage.search(account.tenant.id)

    async def found(value: JsonValue) -> set[MemoryId]:
        condition = MetadataCondition(("k",), Comparison.EQ, value)
        where = MemoryFilter(spaces=frozenset({account.space.id}), metadata=(condition,))
        return {hit.memory_id for hit in await index.lexical(["word"], where, limit=9)}

    for value in (1, True, 1.0, wanted):
        assert await found(value) == ({truth.id} if value is True else {number.id, fraction.id})


async def test_conditions_on_metadata_add_to_those_on_tags_sessions_and_neighbours(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    turns = [
        make.turn(account, "s", seq, metadata={"speaker": "amy" if seq % 2 else "bob"}, tags=("x",) if seq > 2 else ())
        for seq in range(1, 7)
    ]
    await store.commit([*map(make.put, turns)], now=make.at())
    amy = MetadataCondition(("speaker",), Comparison.EQ, "amy")
    where = MemoryFilter(spaces=frozenset({account.space.id}), metadata=(amy,))
    for narrowed, expected in (
        (replace(where, tags=("x",)), [turns[4], turns[2]]),
        (replace(where, session_ids=frozenset({"s"})), [turns[4], turns[2], turns[0]]),
        (replace(where, session_ids=frozenset({"t"})), []),
    ):
        page = await store.list_memories(narrowed, order=ListOrder.CREATED_NEWEST, limit=9, offset=0)
        assert list(page.memories) == expected
        assert page.total == len(expected)
        hits = await storage.search(account.tenant.id).lexical(["word"], narrowed, limit=9)
        assert {hit.memory_id for hit in hits} == {turn.id for turn in expected}
    beside = await storage.search(account.tenant.id).neighbours([turns[3].id], where, reach=2)
    assert beside == {turns[3].id: ((-2, turns[0].id), (-1, turns[2].id), (1, turns[4].id))}


async def test_an_author_is_left_out_as_an_agent_and_as_a_user(
    make: Made, account: NewAccount, store: TenantStore, storage: Storage
) -> None:
    by_owner = make.memory(account, concepts=("a",))
    by_amy = make.memory(account, concepts=("a",), created_by=UserId("amy"), agent_id="bot")
    by_agent = make.memory(account, concepts=("a",), agent_id="amy")
    by_bot = make.memory(account, concepts=("a",), agent_id="bot")
    memories = (by_owner, by_amy, by_agent, by_bot)
    await store.commit(
        [PutMemory(memory=each, index=make.entry(embedding=make.embedding())) for each in memories], now=make.at()
    )
    index, vector = storage.search(account.tenant.id), make.embedding().chunks[0].embedding
    everything = MemoryFilter(spaces=frozenset({account.space.id}))
    for author, expected in (
        ("amy", {by_owner.id, by_bot.id}),
        ("bot", {by_owner.id, by_agent.id}),
        (account.user.id, {by_amy.id}),
        (account.user.name, {memory.id for memory in memories}),
        ("nobody", {memory.id for memory in memories}),
    ):
        where = replace(everything, except_author=author)
        page = await store.list_memories(where, order=ListOrder.UPDATED_NEWEST, limit=9, offset=0)
        feed = await store.feed(where, after=None, limit=9, with_superseded=True)
        for found in (page.memories, feed):
            assert {memory.id for memory in found} == expected
        assert page.total == len(expected)
        for hits in (
            await index.lexical(["word"], where, limit=9),
            await index.dense(vector, make.model, where, limit=9),
            await index.conceptual({"a": 1.0}, where, limit=9),
        ):
            assert {hit.memory_id for hit in hits} == expected
