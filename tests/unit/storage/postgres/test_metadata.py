"""Conditions on metadata in SQL: the letter of the domain's own, but for NUL, which no condition meets."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest

from polymem.domain.conditions import holds
from polymem.domain.model import JsonValue, TenantId
from polymem.domain.query import Comparison, ListOrder, MemoryFilter, MetadataCondition
from polymem.ports.changes import Applied, IndexEntry, PutMemory
from polymem.ports.directory import NewAccount
from polymem.storage.postgres.estimate import estimate_passing
from polymem.storage.postgres.metadata import metadata_clause
from polymem.storage.postgres.storage import PostgresStorage
from samples import AT, memory_of

VALUES: tuple[JsonValue, ...] = (
    None, True, False, 0, 1, 1.0, -0.0, 0.1, 1e-300, 1e300, 2**53, 2**53 + 1, 2.0**53, 2**70, -(2**70), 2.0**70,
    1e23, 10**23,
    "", "a", "ab", "A", "1", "\\u0000", "\\", "\x10", "\x100", 'quo"te', "ü", "\U0001f600", "%s", "%",
    (), ("a",), ("ab", "a"), (1, True), (1.0, 1), ((1,),), ({"a": 1},), ({},),
    {}, {"a": 1}, {"a": 1.0, "b": 2}, {"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"b": {}}}, {"a": ({"b": 1},)},
    {"0": "a"}, {"": ""}, {"\x10": 1}, {"a": None}, {"a": True}, {"%s": "%"},
)  # fmt: skip
TENANT_OF_NOBODY = TenantId("nobody")
PATHS = (("k",), (), ("k", "a"), ("k", "a", "b"), ("k", "0"), ("k", ""), ("k", "\x10"), ("k", "%s"), ("missing",))


async def store_all(storage: PostgresStorage, account: NewAccount, values: Sequence[JsonValue]) -> list[JsonValue]:
    """Memories with metadata of each value, in the order of their ids; one has none."""
    told: list[JsonValue] = [None, *({"k": value} for value in values)]
    puts = [
        PutMemory(
            memory=replace(memory_of(account, f"m{place:04}"), metadata=metadata),
            index=IndexEntry(terms=("word",), embedding=None),
        )
        for place, metadata in enumerate(told)
    ]
    assert isinstance(await storage.tenant(account.tenant.id).commit(puts, now=AT), Applied)
    return told


async def passing(storage: PostgresStorage, account: NewAccount, condition: MetadataCondition) -> list[int]:
    """The places of the memories that pass."""
    where = MemoryFilter(spaces=frozenset({account.space.id}), metadata=(condition,))
    page = await storage.tenant(account.tenant.id).list_memories(
        where, order=ListOrder.UPDATED_NEWEST, limit=1000, offset=0
    )
    return sorted(int(memory.id[1:]) for memory in page.memories)


async def test_each_condition_is_met_by_exactly_what_the_domain_says(
    storage: PostgresStorage, account: NewAccount
) -> None:
    told = await store_all(storage, account, VALUES)
    wanted = (*VALUES, *({"k": value} for value in VALUES[:3]))
    found = 0
    for path, comparison, value in product(PATHS[:3], Comparison, wanted):
        condition = MetadataCondition(path, comparison, value)
        expected = [place for place, metadata in enumerate(told) if holds(condition, metadata)]
        assert await passing(storage, account, condition) == expected, condition
        found += len(expected)
    assert found > len(VALUES)


async def test_every_path_leads_through_objects_alone(storage: PostgresStorage, account: NewAccount) -> None:
    told = await store_all(storage, account, VALUES)
    wanted: tuple[JsonValue, ...] = (1, "a", "", {}, None)
    for path, value in product(PATHS, wanted):
        condition = MetadataCondition(path, Comparison.IN, (value, 2))
        expected = [place for place, metadata in enumerate(told) if holds(condition, metadata)]
        assert await passing(storage, account, condition) == expected, condition


@pytest.mark.parametrize("comparison", Comparison)
async def test_metadata_with_a_nul_meets_no_condition_and_breaks_none(
    storage: PostgresStorage, account: NewAccount, comparison: Comparison
) -> None:
    values = ("a\0", {"a": "\0"}, {"\0": 1}, "\\u0000", "a")
    await store_all(storage, account, values)
    for value in (*values, "\0", ("\0",), ("\0", "a"), {"k": "\0"}):
        condition = MetadataCondition(("k",), comparison, value)
        plain = [place for place in (4, 5) if holds(condition, {"k": values[place - 1]})]
        assert await passing(storage, account, condition) == plain
    assert await passing(storage, account, MetadataCondition(("k", "\0"), comparison, 1)) == []


def test_no_text_of_a_condition_stands_in_the_statement() -> None:
    condition = MetadataCondition(("secret",), Comparison.CONTAINS, {"hidden": "'; DROP TABLE memories"})
    clause, values = metadata_clause((condition, condition), "m.metadata")
    assert "secret" not in clause
    assert "hidden" not in clause
    assert "DROP" not in clause
    assert clause.count("%s") == len(values)


async def test_of_metadata_a_sample_tells_about_how_many_pass(storage: PostgresStorage, account: NewAccount) -> None:
    await store_all(storage, account, [number % 4 for number in range(400)])
    everything = MemoryFilter(spaces=frozenset({account.space.id}))

    async def estimated(where: MemoryFilter) -> int:
        return await storage.tenant(account.tenant.id)._database.read(
            lambda connection: estimate_passing(connection, account.tenant.id, where)
        )

    planned = await estimated(everything)
    for value, share in ((3, 0.25), (9, 0.0)):
        where = replace(everything, metadata=(MetadataCondition(("k",), Comparison.EQ, value),))
        assert await estimated(where) == pytest.approx(share * planned, abs=1 + planned / 100)
    nobody = replace(everything, metadata=(MetadataCondition(("k",), Comparison.EQ, 3),))
    unknown = storage.tenant(account.tenant.id)._database
    assert await unknown.read(lambda connection: estimate_passing(connection, TENANT_OF_NOBODY, nobody)) == 0
